"""Old accuracy at equal new accuracy, with intervals over seeds.

What a crossing is, `profit_optax.compare.statistics` says.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.runner import Run
from profit_optax.compare.statistics import Interval, at_crossing, interval
from profit_optax.compare.summary import Curve, level_rows


class Crossing(NamedTuple):
    """Old accuracy and steps where each seed first reaches a level of new accuracy, [seeds]; NaN where it does not."""

    old: np.ndarray
    steps: np.ndarray


class Row(NamedTuple):
    """What one method at one rate did.

    Attributes:
      method: the method's name.
      setting: its "rate", and the other numbers that it was set to.
      seeds: how many seeds ran.
      reached: how many of them reached the level of new accuracy.
      old: old accuracy there. None, like all means below, unless every seed reached it.
      difference: that minus the baseline's, paired by seed. None for the baseline itself, too.
      steps: mean steps until there.
      gradients: mean gradients until there.
      final_new: mean new accuracy at the end of the run.
      metrics: means over the whole run and all seeds of what the method says about itself.
      seconds: training and evaluation of all seeds until there, at the run's mean speed.
    """

    method: str
    setting: dict[str, float]
    seeds: int
    reached: int
    old: Interval | None
    difference: Interval | None
    steps: float | None
    gradients: float | None
    final_new: float
    metrics: dict[str, float]
    seconds: float | None

    @property
    def rate(self) -> float:
        """The main optimizer's learning rate."""
        return self.setting["rate"]


def crossing(run: Run, level: float) -> Crossing:
    """Where each seed first reaches `level`, linearly interpolated between evaluations."""
    steps = np.broadcast_to(run.steps, run.new.shape)
    return Crossing(*(at_crossing(values, run.new, level) for values in (run.old, steps)))


def summarize(runs: Sequence[Run], level: float, baseline: str) -> list[Row]:
    """A row for each run, with differences to the `baseline` method: to its only run, or to that at the same rate."""
    rows = []
    for run in runs:
        compared = [run] if run.method == baseline else [run, _counterpart(runs, baseline, run)]
        at, *_ = level_rows([as_curve(each) for each in compared], level, baseline)
        row = Row(
            method=run.method,
            setting=run.setting,
            seeds=at.seeds,
            reached=at.reached,
            old=at.old,
            difference=at.difference,
            steps=None if at.gradients is None else at.gradients / run.gradients,
            gradients=at.gradients,
            final_new=float(np.mean(run.new[:, -1])),
            metrics={
                name: float(np.mean(np.average(values, axis=1, weights=np.diff(run.steps))))
                for name, values in run.metrics.items()
                if len(run.steps) > 1
            },
            seconds=at.seconds,
        )
        rows.append(row)
    return rows


def best(runs: Sequence[Run], level: float) -> Run:
    """The run that most seeds reach the level with, and of these the one that keeps most; if none, the one nearest."""

    def merit(run: Run) -> tuple[float, float]:
        old = crossing(run, level).old
        there = ~np.isnan(old)
        # What is no number came nowhere near.
        nearest = np.nan_to_num(run.new, nan=-np.inf).max(axis=1)
        return float(np.mean(there)), float(np.mean(old[there] if there.any() else nearest))

    return max(runs, key=merit)


def difference(run: Run, other: Run, level: float) -> Interval | None:
    """Old accuracy of `run` minus that of `other` where each reaches `level`, paired by seed."""
    return interval(crossing(run, level).old - crossing(other, level).old)


def as_curve(run: Run) -> Curve:
    """What `profit_optax.compare` makes rows and sentences of; nothing is known of losses and of memory."""
    steps, seeds = run.steps, len(run.new)
    return Curve(
        method=run.method,
        rate=run.rate,
        seeds=list(range(seeds)),
        along="steps",
        positions=steps,
        gradients=run.gradients * steps,
        old=run.old,
        new=run.new,
        others={},
        loss=np.full((seeds, len(steps) - 1), np.nan),
        seconds=np.broadcast_to(run.seconds * steps / max(steps[-1], 1), run.new.shape),
        memory=0,
    )


def percent(fraction: float) -> str:
    """A fraction in percent, without the noise of binary fractions."""
    return f"{100 * fraction:.4g}"


def _counterpart(runs: Sequence[Run], method: str, run: Run) -> Run:
    found = [other for other in runs if other.method == method]
    return found[0] if len(found) == 1 else next(other for other in found if other.rate == run.rate)
