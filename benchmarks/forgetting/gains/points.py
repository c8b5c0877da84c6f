"""The places of the map: one centre, and each factor varied from there."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import optax

from benchmarks.forgetting.methods import Main, Method
from benchmarks.forgetting.methods.adamw import alone
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.methods.profit_lagged import profit_lagged
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


CENTRE = Point()
# AdamW's, two of the demo's three.
RATES = (1e-4, 3e-4)
MAINS = {
    "AdamW": MainOptimizer(optax.adamw, 1.0),
    "RMSProp": MainOptimizer(optax.rmsprop, 1.0),
    "Lion": MainOptimizer(optax.lion, 0.3),
    "SGD, momentum 0.9": MainOptimizer(lambda rate: optax.sgd(rate, momentum=0.9), 100.0),
    "SGD": MainOptimizer(optax.sgd, 1000.0),
}
FACTORS: dict[str, tuple[float | str, ...]] = {
    "base_steps": (15, 60, 125, 250, 500, 2000),
    "angle": (10.0, 20.0, 35.0, 50.0, 65.0, 90.0),
    "batch": (16, 32, 64, 128, 256, 1024),
    "ratio": (1.0, 3.0, 10.0, 100.0, 1000.0, 10000.0),
    "n_ref": (1, 2, 3, 5),
    "main": tuple(MAINS),
}
LABELS = {
    "base_steps": "steps that the old model was trained",
    "angle": "degrees of rotation of the new task",
    "batch": "examples in a batch",
    "ratio": "λ_main / λ_ref",
    "n_ref": "n_ref",
    "main": "main optimizer",
}


def points(factor: str) -> list[Point]:
    """The centre with each value of one factor."""
    changes: list[dict[str, Any]] = [{factor: value} for value in FACTORS[factor]]
    return [CENTRE._replace(**change) for change in changes]


def task(point: Point, seeds: Sequence[int]) -> Task:
    """What is learnt at this place."""
    return digits.rotated_digits(seeds, point.angle, point.base_steps)


def methods(point: Point) -> dict[str, Method]:
    """The forms at this place, and the main optimizer alone with as many gradients a step as each of them takes."""
    main = MAINS[point.main].optimizer
    return {
        "alone": alone(point.main, main),
        "alone, equal": alone(point.main, main, point.n_ref + 1),
        "PROFIT": profit(point.n_ref, main=main)._replace(name=f"PROFIT around {point.main}, n_ref {point.n_ref}"),
        "lagged": profit_lagged(main=main)._replace(name=f"lagged around {point.main}"),
    }
