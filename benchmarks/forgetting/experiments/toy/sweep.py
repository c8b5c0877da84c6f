"""The rows of the paper's Table 1 at every setting that it leaves open, and how near they come to it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.head_only import head_only
from benchmarks.forgetting.methods.optimizers import alone
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all
from benchmarks.forgetting.tasks import Scores, Task
from benchmarks.forgetting.tasks.toy import Examples, Size, decaying_rmsprop, toy

RATE = 5e-4
BEFORE = "before"
# PROFIT's row in both ways of computing the displacement, of which the paper has the second.
PROFITS = ("PROFIT", "PROFIT, subtracting")

_OnProgress = Callable[[str, int], None]


class Errors(NamedTuple):
    """Mean squared errors against noise-free targets, on the old and on the new square."""

    old: float
    new: float


TABLE: Mapping[str, Errors] = {
    BEFORE: Errors(0.0054, 1.907),
    "full fine-tuning": Errors(0.705, 0.504),
    "head only": Errors(0.110, 0.572),
    "PROFIT": Errors(0.046, 0.501),
}


# The table's rows, and the one line. The rate of PROFIT's reference step does not decay with the main one.
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        alone("full fine-tuning", decaying_rmsprop),
        head_only(decaying_rmsprop),
        profit(main=decaying_rmsprop),
        profit(main=decaying_rmsprop, displacement="subtract")._replace(name=PROFITS[1]),
        one_line(main=decaying_rmsprop),
    )
}


class Plan(NamedTuple):
    """Settings to run, each with all seeds: examples for one gradient, and main rates divided by reference rates."""

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
      row: "before", or the name of a method.
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

    @property
    def paper(self) -> Errors | None:
        """The paper's row."""
        return TABLE.get("PROFIT" if self.row in PROFITS else self.row)

    @property
    def off(self) -> float:
        """By how much the worse of the two errors is off: 1 where both are the paper's, infinite for no number."""
        return math.exp(max(_logs(self.errors, self.paper))) if self.paper else math.nan


class Setting(NamedTuple):
    """What the paper leaves open, and which of the two ways PROFIT takes."""

    activation: str
    batch: int
    ratio: float
    profit: str


def distance(table: Mapping[str, Errors]) -> float:
    """How far whole tables lie apart: the mean of |log(ours / the paper's)| over all errors."""
    return float(np.mean([_logs(errors, TABLE[row]) for row, errors in table.items()]))


def _logs(errors: Errors, paper: Errors) -> list[float]:
    pairs = zip(errors, paper, strict=True)
    return [abs(math.log(ours / theirs)) if 0 < ours < math.inf else math.inf for ours, theirs in pairs]


def total(plan: Plan) -> int:
    """How many parts a sweep has: what `sweep` reports to `on_progress`."""
    return len(plan.activations) * (1 + len(plan.batches))


def sweep(
    plan: Plan, methods: Sequence[Method], store: Path, on_progress: _OnProgress = lambda *_: None
) -> list[Result]:
    """All rows at all settings. What is in the folder `store` already is not run again."""
    results = []
    for activation in plan.activations:
        on_progress(f"old models, {activation}", 0)
        task, by_batch = toy(plan.seeds, activation, plan.size, store), {}
        for batch in plan.batches:
            on_progress(f"{activation}, batch {batch}", 1)
            by_batch[batch] = _run(task, methods, batch, plan, store)
        on_progress(activation, 1)
        start = by_batch[plan.batches[0]][0]
        results.append(Result(activation, None, None, BEFORE, -start.old[:, 0], -start.new[:, 0]))
        results += [
            Result(activation, batch, run.setting.get("ratio"), run.method, -run.old[:, -1], -run.new[:, -1])
            for batch, runs in by_batch.items()
            for run in runs
        ]
    return results


def nearest(results: Sequence[Result]) -> Setting:
    """The setting whose rows, as far as the paper has them, are together nearest to the paper's."""

    def apart(setting: Setting) -> float:
        at = [each for each in results if each.activation == setting.activation]
        at = [each for each in at if each.batch in (None, setting.batch) and each.ratio in (None, setting.ratio)]
        rows = {each.row: each.errors for each in at}
        return distance({row: rows[setting.profit if row == "PROFIT" else row] for row in TABLE if row in rows})

    settings = [
        Setting(result.activation, result.batch, result.ratio, result.row)
        for result in results
        if result.batch is not None and result.ratio is not None and result.row in PROFITS
    ]
    return min(settings, key=apart)


def predictions(
    setting: Setting, plan: Plan, methods: Sequence[Method], store: Path, points: np.ndarray
) -> dict[str, np.ndarray]:
    """What the models of the first seed say at `points`, [n], row by row."""
    task = toy(plan.seeds[:1], setting.activation, plan.size, store)
    outputs: Any = task.outputs
    shown = task._replace(
        name=f"{task.name}, drawn",
        held_out=Examples(jnp.asarray(points)[None], jnp.zeros((1, len(points)))),
        evaluate=lambda params, data, held_out: Scores(outputs(params, held_out), jnp.zeros(())),
    )
    at_ratio = plan._replace(ratios=(int(setting.ratio),))
    runs = _run(shown, methods, setting.batch, at_ratio, store, evaluations=1)
    return {BEFORE: runs[0].old[0, 0]} | {run.method: run.old[0, -1] for run in runs}


def _run(task: Task, methods: Sequence[Method], batch: int, plan: Plan, store: Path, evaluations: int = 5) -> list[Run]:
    steps = evenly(plan.steps, evaluations)
    trials = [
        Trial(method, method.setting(rate=RATE, ratio=float(ratio), decay=0.0), steps)
        for method in methods
        for ratio in _ratios(method, plan)
    ]
    return run_all(task, trials, batch, store=store)


def _ratios(method: Method, plan: Plan) -> tuple[int, ...]:
    """Those at which a method is run: one, where it knows none."""
    return plan.ratios if "ratio" in dict(method.grid) else plan.ratios[:1]
