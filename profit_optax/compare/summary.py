"""Curves over seeds, and what each method keeps at a level of the new task."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from profit_optax.compare.runner import Run
from profit_optax.compare.statistics import Interval, at_crossing, interval


class Curve(NamedTuple):
    """One method at one rate, over all seeds.

    Attributes:
      method: the method's name.
      rate: its learning rate.
      seeds: the seeds, [seeds].
      along: what its positions are: "steps", or "alpha" where it follows another run.
      positions: where it was scored, the start first, [evaluations].
      gradients: how many gradients that took, [evaluations].
      old: scores on the old task, [seeds, evaluations].
      new: scores on the new task, [seeds, evaluations].
      others: what else the scorer said, each [seeds, evaluations].
      loss: mean training loss since the evaluation before, [seeds, evaluations - 1].
      seconds: of training until there, [seeds, evaluations].
      memory: bytes that the compiled step holds at once.
    """

    method: str
    rate: float
    seeds: list[int]
    along: str
    positions: np.ndarray
    gradients: np.ndarray
    old: np.ndarray
    new: np.ndarray
    others: dict[str, np.ndarray]
    loss: np.ndarray
    seconds: np.ndarray
    memory: int


class Row(NamedTuple):
    """One method at one rate, where it first reaches a level of the new task.

    Attributes:
      method: the method's name.
      rate: its learning rate.
      level: the level.
      seeds: how many seeds ran.
      reached: how many of them reached the level.
      old: the old task's score there. None, like all that follows but memory, unless every seed reached it.
      difference: that minus the baseline's at the best of its rates, paired by seed. None for the baseline, too.
      gradients: mean gradients until there.
      seconds: mean seconds of training until there.
      along: what `position` is: "steps", or "alpha" where it follows another run.
      position: the mean place on the run, or between its ends, where the level is reached.
      memory: bytes that the compiled step holds at once.
      best_new: the highest mean score of the new task along the run.
    """

    method: str
    rate: float
    level: float
    seeds: int
    reached: int
    old: Interval | None
    difference: Interval | None
    gradients: float | None
    seconds: float | None
    along: str
    position: float | None
    memory: int
    best_new: float


def curves_of(runs: Sequence[Run]) -> list[Curve]:
    """Runs that differ in their seed alone, together."""
    groups: dict[tuple[str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.method, run.rate), []).append(run)
    return [_curve(group) for group in groups.values()]


def level_rows(curves: Sequence[Curve], level: float, baseline: str) -> list[Row]:
    """A row for each curve at a level."""
    own = [curve for curve in curves if curve.method == baseline]
    reference = max(own, key=lambda curve: _merit(curve, level))
    return [_row(curve, level, None if curve.method == baseline else reference) for curve in curves]


def best(rows: Sequence[Row]) -> Row:
    """Of rows at one level: the one that most seeds reach it with, and of these the one that keeps most."""
    return max(rows, key=lambda row: (row.reached, row.old.mean if row.old else row.best_new))


def _merit(curve: Curve, level: float) -> tuple[float, float]:
    old = at_crossing(curve.old, curve.new, level)
    there = int(np.sum(~np.isnan(old)))
    return there, float(np.mean(old) if there == len(old) else np.mean(curve.new, axis=0).max())


def _curve(runs: Sequence[Run]) -> Curve:
    first = runs[0]
    stacked = {name: np.array([run.scores[name] for run in runs]) for name in first.scores}
    return Curve(
        method=first.method,
        rate=first.rate,
        seeds=[run.seed for run in runs],
        along=first.along,
        positions=np.array(first.positions),
        gradients=np.array(first.gradients),
        old=stacked.pop("old"),
        new=stacked.pop("new"),
        others=stacked,
        loss=np.array([run.loss for run in runs]),
        seconds=np.array([run.seconds for run in runs]),
        memory=first.memory,
    )


def _row(curve: Curve, level: float, reference: Curve | None) -> Row:
    old = at_crossing(curve.old, curve.new, level)
    gradients, positions = (np.broadcast_to(each, curve.new.shape) for each in (curve.gradients, curve.positions))
    difference = interval(old - at_crossing(reference.old, reference.new, level)) if reference else None
    return Row(
        method=curve.method,
        rate=curve.rate,
        level=level,
        seeds=len(old),
        reached=int(np.sum(~np.isnan(old))),
        old=interval(old),
        difference=difference,
        gradients=_mean(at_crossing(gradients, curve.new, level)),
        seconds=_mean(at_crossing(curve.seconds, curve.new, level)),
        along=curve.along,
        position=_mean(at_crossing(positions, curve.new, level)),
        memory=curve.memory,
        best_new=float(np.mean(curve.new, axis=0).max()),
    )


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).any() else float(np.mean(values))
