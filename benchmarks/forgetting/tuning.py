"""The same tuning budget for every method: the same number of settings, of gradients, and of seeds kept for tuning."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.runner import Run, Trial, geometrically, run_all
from benchmarks.forgetting.summary import crossing
from benchmarks.forgetting.tasks import Task
from profit_optax.compare.errors import CompareError


class Budget(NamedTuple):
    """What every method gets, in tuning and in the report.

    Attributes:
      gradients: gradients that a run takes at most.
      evaluations: about how often it is evaluated, at growing distances.
      batch: examples for one gradient.
    """

    gradients: int
    evaluations: int
    batch: int


class Tuned(NamedTuple):
    """What tuning found for a method.

    Attributes:
      method: the method.
      setting: the best one.
      tried: how many settings were tried.
      reached: with how many of them every tuning seed reached the level.
    """

    method: Method
    setting: dict[str, float]
    tried: int
    reached: int


def trial(method: Method, setting: dict[str, float], budget: Budget, until: float | None = None) -> Trial:
    """The method at the setting with the whole budget."""
    return Trial(method, setting, geometrically(budget.gradients // method.gradients, budget.evaluations), until)


def tune(
    task: Task,
    methods: Sequence[Method],
    level: float,
    budget: Budget,
    on_progress: Callable[[str, int], None] = lambda *_: None,
    store: Path | None = None,
) -> list[Tuned]:
    """The setting of each method's grid that keeps most of the old task where the new one first stands at `level`.

    Raises:
      CompareError: if the methods' grids are not of the same size, which would not be fair.
    """
    sizes = {method.name: len(method.settings()) for method in methods}
    if len(set(sizes.values())) > 1:
        raise CompareError(
            f"the methods' grids have different numbers of settings, {sizes}: give each the same, so that none is tuned"
            " more than another."
        )
    until = level if task.together else None
    trials = [trial(method, setting, budget, until) for method in methods for setting in method.settings()]
    runs = run_all(task, trials, budget.batch, on_progress, store)
    return [_tuned(method, [run for run in runs if run.method == method.name], level) for method in methods]


def best(runs: Sequence[Run], level: float) -> Run:
    """The run that most seeds reach the level with, and of these the one that keeps most; if none, the one nearest."""
    return max(runs, key=lambda run: _merit(run, level))


def _tuned(method: Method, runs: Sequence[Run], level: float) -> Tuned:
    reached = sum(not np.isnan(crossing(run, level).old).any() for run in runs)
    return Tuned(method, best(runs, level).setting, len(runs), reached)


def _merit(run: Run, level: float) -> tuple[float, float]:
    """First how many seeds reach the level, then what they keep; where none does, how near they come."""
    old = crossing(run, level).old
    there = ~np.isnan(old)
    # What is no number came nowhere near.
    nearest = np.nan_to_num(run.new, nan=-np.inf).max(axis=1)
    return float(np.mean(there)), float(np.mean(old[there])) if there.any() else float(np.mean(nearest))
