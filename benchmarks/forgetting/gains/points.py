"""What the map of a task is made of: a centre, the factors varied from there, and how gains are shown."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.forgetting.methods import Main, Method
from benchmarks.forgetting.methods.adamw import alone
from benchmarks.forgetting.methods.one_line import one_line
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.tasks import Task

# One place of a map: a named tuple with a field for each factor, and those "batch" and "ratio" on every map.
Point = Any


class Factor(NamedTuple):
    """What is varied.

    Attributes:
      values: what it is set to.
      label: of its axis.
      scale: of its axis, "log" or "linear"; None for values side by side at equal distances.
    """

    values: tuple[float | str, ...]
    label: str
    scale: str | None = None


class Unit(NamedTuple):
    """How scores, which are more where they are better, and their differences are shown.

    Attributes:
      score: what a score is called.
      gain: the unit of a gain, for headings and axes.
      gains: what gains are in, for sentences.
      level: the heading of levels.
      gain_scale: what differences of scores are multiplied by.
      level_scale: what scores are multiplied by.
      decimals: how many are shown.
    """

    score: str
    gain: str
    gains: str
    level: str
    gain_scale: float
    level_scale: float
    decimals: int


class Map(NamedTuple):
    """A task on which gains are measured.

    Attributes:
      title: of the figure: the task, and which difference is a gain.
      centre: the place from which each factor is varied.
      factors: by the name of their field in `centre`.
      unit: how gains are shown.
      gradients: of a run at most at the lowest rate.
      rates: `rates(point)` are the main optimizer's, the lowest first.
      task: `task(point, seeds, store, quick)` is what is learnt at a place, from old models that may be kept in the
        folder `store`, and may be tiny where it is `quick`.
      methods: `methods(point)` are the forms at a place, "PROFIT" and "one line", and the main optimizer alone, with
        one gradient a step, "alone", and with as many as PROFIT takes, "alone, equal".
    """

    title: str
    centre: Point
    factors: dict[str, Factor]
    unit: Unit
    gradients: int
    rates: Callable[[Point], Sequence[float]]
    task: Callable[[Point, Sequence[int], Path, bool], Task]
    methods: Callable[[Point], dict[str, Method]]


def points(mapped: Map, factor: str) -> list[Point]:
    """The centre with each value of one factor."""
    return [mapped.centre._replace(**{factor: value}) for value in mapped.factors[factor].values]


def forms_and_alone(main: str, optimizer: Main, n_ref: int) -> dict[str, Method]:
    """Both forms around a main optimizer, and that alone with as many gradients a step as each of them takes.

    Args:
      main: what methods' names call the main optimizer.
      optimizer: makes it, from its rate.
      n_ref: PROFIT's reference steps.
    """
    return {
        "alone": alone(main, optimizer),
        "alone, equal": alone(main, optimizer, n_ref + 1),
        "PROFIT": profit(n_ref, main=optimizer)._replace(name=f"PROFIT around {main}, n_ref {n_ref}"),
        "one line": one_line(main=optimizer)._replace(name=f"one line before {main}"),
    }
