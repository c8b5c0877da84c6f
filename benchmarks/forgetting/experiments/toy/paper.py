"""Table 1 of the paper, and how near measured errors come to it."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.tasks.toy import NEW_SQUARE, OLD_SQUARE, truth

# What "near the paper" means here: neither error is off by a larger factor.
NEAR = 1.5

BEFORE = "before"


class Errors(NamedTuple):
    """Mean squared errors against noise-free targets.

    Attributes:
      old: on the old square.
      new: on the new square.
    """

    old: float
    new: float


TABLE: Mapping[str, Errors] = MappingProxyType(
    {
        BEFORE: Errors(0.0054, 1.907),
        "full fine-tuning": Errors(0.705, 0.504),
        "head only": Errors(0.110, 0.572),
        "PROFIT": Errors(0.046, 0.501),
    }
)


def constant_errors() -> Errors:
    """The errors of the best constant on each square, which is what a model gets that learns nothing but a mean."""
    return Errors(*(_variance(low, high) for low, high in (OLD_SQUARE, NEW_SQUARE)))


def factor(errors: Errors, paper: Errors) -> float:
    """By how much the worse of the two errors is off: 1 where both are the paper's, infinite where one is no number."""
    return max(math.exp(off) for off in _logs(errors, paper))


def distance(table: Mapping[str, Errors]) -> float:
    """How far whole tables lie apart: the mean of |log(ours / the paper's)| over all errors."""
    offs = [off for row, errors in table.items() for off in _logs(errors, TABLE[row])]
    return sum(offs) / len(offs)


def _variance(low: float, high: float) -> float:
    side = np.linspace(low, high, 1_000, dtype=np.float32)
    points = np.stack(np.meshgrid(side, side), axis=-1)
    return float(np.var(truth(jnp.asarray(points))))


def _logs(errors: Errors, paper: Errors) -> list[float]:
    pairs = zip(errors, paper, strict=True)
    return [abs(math.log(ours / theirs)) if 0 < ours < math.inf else math.inf for ours, theirs in pairs]
