"""Old accuracy at equal new accuracy, with intervals over seeds.

What a crossing is, `profit_optax.compare.statistics` says.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.runner import Run
from profit_optax.compare.formats import short_rate
from profit_optax.compare.statistics import Interval, at_crossing, interval


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
        at = crossing(run, level)
        steps = interval(at.steps)
        row = Row(
            method=run.method,
            setting=run.setting,
            seeds=len(at.old),
            reached=int(np.sum(~np.isnan(at.old))),
            old=interval(at.old),
            difference=None if run.method == baseline else difference(run, _counterpart(runs, baseline, run), level),
            steps=steps.mean if steps else None,
            gradients=steps.mean * run.gradients if steps else None,
            final_new=float(np.mean(run.new[:, -1])),
            metrics={
                name: float(np.mean(np.average(values, axis=1, weights=np.diff(run.steps))))
                for name, values in run.metrics.items()
                if len(run.steps) > 1
            },
            seconds=steps.mean / max(run.steps[-1], 1) * run.seconds if steps else None,
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


def describe(runs: Sequence[Run], level: float) -> list[str]:
    """What the runs say in plain words: what was not reached, every pair of methods, and the best rate of each."""
    methods = list(dict.fromkeys(run.method for run in runs))
    rates = list(dict.fromkeys(run.rate for run in runs))
    pairs = ((later, earlier) for earlier, later in itertools.combinations(methods, 2))
    return [
        *(_not_reached(run, level) for run in runs if np.isnan(crossing(run, level).old).any()),
        *(_compare(runs, level, rates, *pair) for pair in pairs),
        _best_rates(runs, level, methods),
    ]


def percent(fraction: float) -> str:
    """A fraction in percent, without the noise of binary fractions."""
    return f"{100 * fraction:.4g}"


def _counterpart(runs: Sequence[Run], method: str, run: Run) -> Run:
    found = [other for other in runs if other.method == method]
    return found[0] if len(found) == 1 else _find(found, method, run.rate)


def _find(runs: Sequence[Run], method: str, rate: float) -> Run:
    return next(run for run in runs if (run.method, run.rate) == (method, rate))


def _not_reached(run: Run, level: float) -> str:
    missing = np.isnan(crossing(run, level).old)
    return (
        f"{run.method} at rate {short_rate(run.rate)}: {missing.sum()} of {len(missing)} seeds did not reach"
        f" {percent(level)} % within {run.steps[-1]} steps (mean new accuracy at the end:"
        f" {100 * run.new[:, -1].mean():.1f} %)."
    )


def _compare(runs: Sequence[Run], level: float, rates: Sequence[float], method: str, other: str) -> str:
    verdicts: dict[str, list[str]] = {}
    for rate in rates:
        gap = difference(_find(runs, method, rate), _find(runs, other, rate), level)
        points = f"({100 * gap.mean:+z.1f})" if gap else "(not reached by every seed)"
        verdicts.setdefault(_verdict(gap), []).append(f"{short_rate(rate)} {points}")
    parts = "; ".join(f"{verdict} at rate {', '.join(at)}" for verdict, at in verdicts.items())
    return f"{method} against {other}: {parts}."


def _verdict(gap: Interval | None) -> str:
    if gap is None:
        return "not compared"
    if gap.low > 0:
        return "better"
    if gap.high < 0:
        return "worse"
    return "undecided (the interval includes 0)"


def _best_rates(runs: Sequence[Run], level: float, methods: Sequence[str]) -> str:
    best = []
    for method in methods:
        olds = [(interval(crossing(run, level).old), run.rate) for run in runs if run.method == method]
        reached = [(old.mean, rate) for old, rate in olds if old]
        mean, rate = max(reached, default=(None, 0.0))
        best.append(f"{method}: none" if mean is None else f"{method}: {100 * mean:.1f} at {short_rate(rate)}")
    return f"Each at the best of its rates (picked on these seeds): {'; '.join(best)}."
