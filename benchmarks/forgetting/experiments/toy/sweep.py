"""The rows of Table 1 at every setting that the paper leaves open."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.experiments.toy.paper import BEFORE, TABLE, Errors, distance
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.rmsprop import (
    full_rmsprop,
    head_rmsprop,
    one_line_rmsprop,
    profit_rmsprop,
    subtracting_profit_rmsprop,
)
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all
from benchmarks.forgetting.tasks import Scores, Task
from benchmarks.forgetting.tasks.toy import Examples, Size, toy

RATE = 5e-4
# PROFIT's row in both ways of computing the displacement, of which the paper has the second.
PROFITS = ("PROFIT", "PROFIT, subtracting")
ONE_LINE = "PROFIT one line"

_OnProgress = Callable[[str, int], None]


class Plan(NamedTuple):
    """What is run.

    Attributes:
      activations: names of activations.
      batches: examples for one gradient.
      ratios: main rates divided by reference rates.
      seeds: of every setting.
      steps: on the new square.
      size: of the problem.
    """

    activations: tuple[str, ...]
    batches: tuple[int, ...]
    ratios: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int = 1_500
    size: Size = Size()


class Result(NamedTuple):
    """One row at one setting.

    Attributes:
      activation: the network's.
      batch: examples for one gradient on the new square; None before there was any.
      ratio: the main rate divided by the reference rate; None for rows without a reference.
      row: a row of Table 1, or "PROFIT, subtracting", or "PROFIT one line".
      old: errors on the old square, [seeds].
      new: errors on the new square, [seeds].
    """

    activation: str
    batch: int | None
    ratio: float | None
    row: str
    old: np.ndarray
    new: np.ndarray

    @property
    def errors(self) -> Errors:
        """Means over seeds."""
        return Errors(float(np.mean(self.old)), float(np.mean(self.new)))


class Setting(NamedTuple):
    """What the paper leaves open, and which of the two ways PROFIT takes."""

    activation: str
    batch: int
    ratio: float
    profit: str


def total(plan: Plan) -> int:
    """How many examples a sweep takes gradients on: what `sweep` reports to `on_progress`."""
    gradients = 1 + 1 + 1 + len(plan.ratios) * (2 + 2)
    tuned = sum(plan.batches) * gradients * plan.steps
    return len(plan.activations) * len(plan.seeds) * (plan.size.base_steps * plan.size.base_batch + tuned)


def sweep(plan: Plan, store: Path, on_progress: _OnProgress = lambda *_: None) -> list[Result]:
    """All rows at all settings. What is in the folder `store` already is not run again."""
    results = []
    for activation in plan.activations:
        task = _task(activation, plan, store, on_progress)
        by_batch = {batch: _run(task, batch, plan, store, on_progress) for batch in plan.batches}
        start = by_batch[plan.batches[0]][0]
        results.append(Result(activation, None, None, BEFORE, -start.old[:, 0], -start.new[:, 0]))
        results += [_result(activation, batch, run) for batch, runs in by_batch.items() for run in runs]
    return results


def nearest(results: Sequence[Result]) -> Setting:
    """The setting whose four rows together are nearest to the paper's."""
    settings = [
        Setting(result.activation, result.batch, result.ratio, result.row)
        for result in results
        if result.row in PROFITS and result.batch is not None and result.ratio is not None
    ]
    return min(settings, key=lambda setting: distance(table(results, setting)))


def table(results: Iterable[Result], setting: Setting) -> dict[str, Errors]:
    """The four rows at one setting, by the paper's names."""
    at = [
        result
        for result in results
        if result.activation == setting.activation and result.batch in (None, setting.batch)
    ]
    rows = {result.row: result.errors for result in at if result.ratio is None}
    (profit,) = (result for result in at if (result.ratio, result.row) == (setting.ratio, setting.profit))
    return {row: profit.errors if row == "PROFIT" else rows[row] for row in TABLE}


def predictions(setting: Setting, plan: Plan, store: Path, points: np.ndarray) -> dict[str, np.ndarray]:
    """What the models of the first seed say at `points`, [n], row by row."""
    task = _task(setting.activation, plan._replace(seeds=plan.seeds[:1]), store)
    outputs = task.outputs
    if outputs is None:
        raise ValueError(f"the task {task.name!r} has no `outputs`, and its predictions cannot be drawn.")
    shown = task._replace(
        name=f"{task.name}, drawn",
        held_out=Examples(jnp.asarray(points)[None], jnp.zeros((1, len(points)))),
        evaluate=lambda params, data, held_out: Scores(outputs(params, held_out), jnp.zeros(())),
    )
    runs = _run(shown, setting.batch, plan._replace(ratios=(int(setting.ratio),)), store, evaluations=1)
    return {BEFORE: runs[0].old[0, 0]} | {run.method: run.old[0, -1] for run in runs}


def _task(activation: str, plan: Plan, store: Path, on_progress: _OnProgress = lambda *_: None) -> Task:
    name = f"old models, {activation}"
    on_progress(name, 0)
    examples = plan.size.base_steps * plan.size.base_batch
    return toy(plan.seeds, activation, plan.size, store, lambda seed: on_progress(name, examples))


def _run(
    task: Task, batch: int, plan: Plan, store: Path, on_progress: _OnProgress = lambda *_: None, evaluations: int = 5
) -> list[Run]:
    steps = evenly(plan.steps, evaluations)
    trials = []
    for method in _methods():
        ratios = plan.ratios if "ratio" in dict(method.grid) else plan.ratios[:1]
        trials += [Trial(method, method.setting(rate=RATE, ratio=float(ratio), decay=0.0), steps) for ratio in ratios]
    return run_all(task, trials, batch, lambda name, n: on_progress(f"batch {batch}, {name}", n * batch), store)


def _methods() -> tuple[Method, ...]:
    return full_rmsprop(), head_rmsprop(), profit_rmsprop(), subtracting_profit_rmsprop(), one_line_rmsprop()


def _result(activation: str, batch: int, run: Run) -> Result:
    return Result(activation, batch, run.setting.get("ratio"), run.method, -run.old[:, -1], -run.new[:, -1])
