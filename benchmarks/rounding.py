"""How much of the displacement rounding takes: line 7 of Algorithm 1 as written, beside the sum of the updates.

Prints a Markdown table for one SGD reference step of a converged digits model, whose true displacement is −λ_ref g.
"""

from typing import NamedTuple

import chex
import jax
import numpy as np
import typer

from benchmarks.commands import in_a_sentence
from benchmarks.forgetting.experiments.demo import BATCH
from benchmarks.forgetting.tasks import digits
from benchmarks.forgetting.tasks.catalogue import ANGLE
from profit_optax.compare.environment import PACKAGES, environment

_CASES = (
    *(("float32", rate) for rate in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)),
    *(("bfloat16", rate) for rate in (1e-2, 1e-3, 1e-4)),
)


class Rounding(NamedTuple):
    """What is left of one displacement.

    Attributes:
      lost: fraction of the entries of θ' − θ that are 0 though those of Δ are not.
      subtracted: cosine of θ' − θ with the true displacement.
      accumulated: cosine of the summed updates with the true displacement.
    """

    lost: float
    subtracted: float
    accumulated: float


def measure(params: chex.ArrayTree, grads: chex.ArrayTree, dtype: str, rate: float) -> Rounding:
    """One SGD step of `params` in `dtype`, whose gradients are `grads`."""
    theta = jax.tree.map(lambda x: x.astype(dtype), params)
    delta = jax.tree.map(lambda g: (-rate * g).astype(dtype), grads)
    subtracted = _flat(jax.tree.map(lambda p, d: (p + d) - p, theta, delta))
    true, accumulated = -rate * _flat(grads), _flat(delta)
    return Rounding(
        lost=float(np.mean(subtracted[true != 0] == 0)),
        subtracted=_cosine(subtracted, true),
        accumulated=_cosine(accumulated, true),
    )


@in_a_sentence
def main() -> None:
    """Print how much of a displacement rounding takes: line 7 of Algorithm 1 as written, beside the sum of updates."""
    task = digits.rotated_digits(seeds=[0], angle=ANGLE)
    params = jax.tree.map(lambda x: x[0], task.params)
    batch = task.batch(task.data, task.train[0, :BATCH], jax.random.key(0))
    grads = jax.grad(task.loss)(params, batch)
    print("| parameters | λ_ref | entries of θ' − θ lost | cosine of θ' − θ | cosine of the summed updates |")
    print("|---|---|---|---|---|")
    for dtype, rate in _CASES:
        found = measure(params, grads, dtype, rate)
        print(f"| {dtype} | {rate:g} | {found.lost:.0%} | {found.subtracted:.3f} | {found.accumulated:.3f} |")
    about = environment((*PACKAGES, "flax"))
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    print(f"\nCosines with the true displacement. {versions}; {about['machine']}.")


def _flat(tree: chex.ArrayTree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    norms = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norms) if norms else 0.0


if __name__ == "__main__":
    typer.run(main)
