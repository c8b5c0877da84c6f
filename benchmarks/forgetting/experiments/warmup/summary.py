"""Accuracies at equal steps and at equal gradients, beside AdamW's."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.runner import Run
from profit_optax.compare.statistics import Interval, interval

# PROFIT without warm-up gets 12.6 % of Clevr-Count in the paper, where full fine-tuning gets 56.3 %: "fails" means
# less than half of AdamW's accuracy.
FAILS = 0.5
BASELINE = "AdamW"


class Row(NamedTuple):
    """One method at one rate on one task: accuracies, as means over seeds.

    Attributes:
      task: the new task.
      rate: the main optimizer's learning rate.
      method: the method's name.
      new: on the new task after all main steps.
      difference: that minus AdamW's, paired by seed; None for AdamW.
      new_at_gradients: on the new task after as many gradients as PROFIT took in these steps.
      old: on the old task after all main steps.
      cosine: of displacement and gradient, over these steps; None for AdamW.
      fails: whether `new` is less than half of AdamW's.
    """

    task: str
    rate: float
    method: str
    new: Interval | None
    difference: Interval | None
    new_at_gradients: Interval | None
    old: Interval | None
    cosine: float | None
    fails: bool


def summarize(task: str, runs: Sequence[Run], steps: int) -> list[Row]:
    """A row for each run, beside AdamW at the same rate."""
    baselines = {run.rate: run for run in runs if run.method == BASELINE}
    most = max(run.gradients for run in runs)
    return [_row(task, run, baselines[run.rate], steps, most // run.gradients * steps) for run in runs]


def _row(task: str, run: Run, baseline: Run, steps: int, at_gradients: int) -> Row:
    new, reference = _at(run, run.new, steps), _at(baseline, baseline.new, steps)
    before = np.diff(run.steps).cumsum() <= steps
    return Row(
        task=task,
        rate=run.rate,
        method=run.method,
        new=interval(new),
        difference=None if run is baseline else interval(new - reference),
        new_at_gradients=interval(_at(run, run.new, at_gradients)),
        old=interval(_at(run, run.old, steps)),
        cosine=float(np.mean(run.metrics["cosine"][:, before])) if "cosine" in run.metrics else None,
        fails=bool(np.mean(new) < FAILS * np.mean(reference)),
    )


def _at(run: Run, values: np.ndarray, steps: int) -> np.ndarray:
    (column,) = np.flatnonzero(run.steps == steps)
    return values[:, column]
