"""The map of the paper's toy problem."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.forgetting.experiments.map.points import Factor, Map, Unit, forms_and_alone
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.rmsprop import decaying_rmsprop
from benchmarks.forgetting.tasks import Task, toy


class Point(NamedTuple):
    """One place of the map.

    Attributes:
      base_steps: steps that the old model was trained for: how converged it is.
      shift: by how much the new square lies further from the old one than the paper's, along both axes.
      batch: examples for one gradient: how little of it is noise.
      ratio: λ_main/λ_ref.
      n_ref: reference steps.
    """

    base_steps: int = 10_000
    shift: float = 0.0
    batch: int = 64
    ratio: float = 10.0
    n_ref: int = 1


# The paper leaves it open.
ACTIVATION = "relu"
# The paper's, and three times that: the rate decays, and at a third of it PROFIT stands still short of the level.
RATES = (5e-4, 1.5e-3)
# The paper's width of 500 takes about five times as long; at 128 not every seed reaches the level.
SIZE = toy.Size(held_out=2_000, width=200)
QUICK_SIZE = toy.Size(examples=1_024, held_out=50, width=8, base_batch=8)


def task(point: Point, seeds: Sequence[int], store: Path, quick: bool) -> Task:
    """What is learnt at this place."""
    base_steps = point.base_steps // 100 if quick else point.base_steps
    size = (QUICK_SIZE if quick else SIZE)._replace(base_steps=base_steps)
    low, high = toy.NEW_SQUARE
    return toy.toy(seeds, ACTIVATION, size, store, new_square=(low + point.shift, high + point.shift))


def methods(point: Point) -> dict[str, Method]:
    """The forms at this place, and what they are compared with."""
    return forms_and_alone("decaying RMSProp", decaying_rmsprop, point.n_ref)


TOY = Map(
    title="The paper's toy problem: old error of the main optimizer alone minus that of PROFIT",
    centre=Point(),
    factors={
        "base_steps": Factor((500, 1000, 3000, 10_000), "steps that the old model was trained", "log"),
        # From -0.4 on the old model has next to nothing to learn.
        "shift": Factor((-0.3, -0.2, -0.1, 0.0, 0.3), "shift of the new square", "linear"),
        "batch": Factor((16, 64, 256, 1024), "examples in a batch", "log"),
        "ratio": Factor((1.0, 10.0, 100.0, 10_000.0), "λ_main / λ_ref", "log"),
        "n_ref": Factor((1, 2, 3, 5), "n_ref"),
    },
    unit=Unit(
        score="error",
        gain="mean squared error",
        gains="mean squared error on the old square, positive where it is lower,",
        level="level (error)",
        gain_scale=1,
        # Scores are negated errors.
        level_scale=-1,
        decimals=3,
    ),
    gradients=12_000,
    rates=lambda point: RATES,
    task=task,
    methods=methods,
)
