"""The map of the digits task."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import optax

from benchmarks.forgetting.experiments.map.points import Factor, Map, Unit, forms_and_alone
from benchmarks.forgetting.methods import Main, Method
from benchmarks.forgetting.tasks import Task, digits


class Point(NamedTuple):
    """One place of the map.

    Attributes:
      base_steps: steps that the old model was trained for: how converged it is.
      angle: degrees by which the new digits are rotated: how far the new task lies.
      batch: examples for one gradient: how little of it is noise.
      ratio: λ_main/λ_ref.
      n_ref: reference steps.
      main: name of the main optimizer in `MAINS`.
    """

    base_steps: int = 500
    angle: float = 35.0
    batch: int = 128
    ratio: float = 10.0
    n_ref: int = 1
    main: str = "AdamW"


class MainOptimizer(NamedTuple):
    """A main optimizer and how its rate compares with AdamW's.

    Attributes:
      optimizer: makes it, from its rate.
      scale: by how much its rates are larger than AdamW's.
    """

    optimizer: Main
    scale: float


# AdamW's, two of the demo's three.
RATES = (1e-4, 3e-4)
MAINS = {
    "AdamW": MainOptimizer(optax.adamw, 1.0),
    "RMSProp": MainOptimizer(optax.rmsprop, 1.0),
    "Lion": MainOptimizer(optax.lion, 0.3),
    "SGD, momentum 0.9": MainOptimizer(lambda rate: optax.sgd(rate, momentum=0.9), 100.0),
    "SGD": MainOptimizer(optax.sgd, 1000.0),
}


def rates(point: Point) -> list[float]:
    """AdamW's rates, scaled for the main optimizer at this place."""
    return [rate * MAINS[point.main].scale for rate in RATES]


def task(point: Point, seeds: Sequence[int], store: Path, quick: bool) -> Task:
    """What is learnt at this place. Old models are small enough to be trained anew each time."""
    del store, quick
    return digits.rotated_digits(seeds, point.angle, point.base_steps)


def methods(point: Point) -> dict[str, Method]:
    """The forms at this place, and what they are compared with."""
    return forms_and_alone(point.main, MAINS[point.main].optimizer, point.n_ref)


DIGITS = Map(
    title="Digits to rotated digits: old accuracy of PROFIT minus that of its main optimizer alone",
    centre=Point(),
    factors={
        "base_steps": Factor((15, 60, 125, 250, 500, 2000), "steps that the old model was trained", "log"),
        "angle": Factor((10.0, 20.0, 35.0, 50.0, 65.0, 90.0), "degrees of rotation of the new task", "linear"),
        "batch": Factor((16, 32, 64, 128, 256, 1024), "examples in a batch", "log"),
        "ratio": Factor((1.0, 3.0, 10.0, 100.0, 1000.0, 10000.0), "λ_main / λ_ref", "log"),
        "n_ref": Factor((1, 2, 3, 5), "n_ref"),
        "main": Factor(tuple(MAINS), "main optimizer"),
    },
    unit=Unit(
        score="accuracy",
        gain="points",
        gains="points of old accuracy",
        level="level (%)",
        gain_scale=100,
        level_scale=100,
        decimals=1,
    ),
    # Three times what PROFIT needs at the centre.
    gradients=2400,
    rates=rates,
    task=task,
    methods=methods,
)
