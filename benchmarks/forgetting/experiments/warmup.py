"""Warm-up outside of proximity (the paper's Table 3): digits models that are to learn far-away tasks."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmarks.commands import markdown_table
from benchmarks.forgetting.command import (
    FROM_FILE,
    Methods,
    Output,
    Quick,
    count_option,
    job,
    methods_named,
    names,
    seeds_option,
    task_named,
)
from benchmarks.forgetting.experiments.demo import BATCH, RATES, RATIO
from benchmarks.forgetting.methods import Method, catalogue
from benchmarks.forgetting.methods.optimizers import adamw
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.report import headline
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all, total
from benchmarks.forgetting.tasks.catalogue import TASKS
from profit_optax.compare.formats import plus_minus, short_rate
from profit_optax.compare.statistics import Interval, interval

BASELINE = "AdamW"
# In the paper 10 of 100 epochs.
_WARM = 0.1
# PROFIT without warm-up gets 12.6 % of Clevr-Count in the paper, where full fine-tuning gets 56.3 %: "fails" means
# less than half of AdamW's accuracy.
_FAILS = 0.5

SEEDS, QUICK_SEEDS = 10, 2
STEPS, QUICK_STEPS = 600, 40


def main(
    # The near one, whose naive PROFIT needs no warm-up, is for comparison.
    task: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help=f"New tasks. Each is one of these, or {FROM_FILE}")
    ] = ",".join(TASKS),
    methods_: Methods = None,
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    steps: Annotated[int | None, count_option("Main steps at every rate.", STEPS, QUICK_STEPS)] = None,
    output: Output = Path("out/warmup"),
    quick: Quick = False,
) -> None:
    """Fine-tune digits models to tasks far from digits, with PROFIT as it is and after a warm-up with AdamW.

    What is done already is not done again: for that, remove the output folder.
    """
    n_seeds = seeds or (QUICK_SEEDS if quick else SEEDS)
    n_steps = steps or (QUICK_STEPS if quick else STEPS)
    rates = RATES[-1:] if quick else RATES
    with job("warmup", output, quick) as work:
        tasks = {name: task_named(name) for name in names(task)}
        arms: Sequence[Method] = methods(n_steps)
        if methods_:
            arms = methods_named(methods_, [*arms, *catalogue.everything()], BASELINE)
        everything = trials(arms, rates, n_steps)
        by_task: dict[str, list[Run]] = {}
        with work.bar(len(tasks) * total(everything, n_seeds)) as bar:
            for name, make in tasks.items():
                bar(f"old models for {name}", 0)
                learnt = make(range(n_seeds))
                told = functools.partial(lambda name, method, taken: bar(f"{name}: {method}", taken), name)
                by_task[name] = run_all(learnt, everything, BATCH, told, work.runs)
        rows = [row for name, runs in by_task.items() for row in summarize(name, runs, n_steps)]
        starts = {name: float(np.mean(runs[0].new[:, 0])) for name, runs in by_task.items()}
        about = work.about(ratio=RATIO, batch=BATCH, seeds=n_seeds, rates=rates, steps=n_steps)
        text = markdown(rows, starts, about)
        work.write({**about, "starts": starts, "summary": rows, "runs": by_task}, text)
        work.show(text)


def warm_steps(steps: int) -> int:
    """How many of the main steps are the warm-up's."""
    return max(1, round(_WARM * steps))


def methods(steps: int) -> list[Method]:
    """AdamW, and PROFIT and its one line, as they are and with AdamW alone for the first tenth of the steps."""
    warm = warm_steps(steps)
    return [
        adamw(),
        profit(),
        profit(warmup_steps=warm)._replace(name="PROFIT, warmed up"),
        one_line(),
        one_line(warmup_steps=warm)._replace(name="PROFIT one line, warmed up"),
    ]


def trials(arms: Sequence[Method], rates: Sequence[float], steps: int) -> list[Trial]:
    """Every method at every rate, for `steps` main steps, and on to as many gradients as PROFIT takes in these."""
    most = max(method.gradients for method in arms)
    found = []
    for method in arms:
        # A whole number of evaluations for each `steps`, so that there is one exactly there.
        at = np.unique([evenly(steps, 10) + i * steps for i in range(most // method.gradients)])
        found += [Trial(method, method.setting(rate=rate, ratio=RATIO, decay=0.0), at) for rate in rates]
    return found


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
    rows = []
    for run in runs:
        baseline = baselines[run.rate]
        new, reference = _at(run, run.new, steps), _at(baseline, baseline.new, steps)
        before = run.steps[1:] <= steps
        row = Row(
            task=task,
            rate=run.rate,
            method=run.method,
            new=interval(new),
            difference=None if run is baseline else interval(new - reference),
            new_at_gradients=interval(_at(run, run.new, most // run.gradients * steps)),
            old=interval(_at(run, run.old, steps)),
            cosine=float(np.mean(run.metrics["cosine"][:, before])) if "cosine" in run.metrics else None,
            fails=bool(np.mean(new) < _FAILS * np.mean(reference)),
        )
        rows.append(row)
    return rows


def _at(run: Run, values: np.ndarray, steps: int) -> np.ndarray:
    (column,) = np.flatnonzero(run.steps == steps)
    return values[:, column]


def markdown(rows: Sequence[Row], starts: Mapping[str, float], about: dict[str, Any]) -> str:
    """A table for each task, after the new accuracy that the old models start from, and how often PROFIT fails."""
    explained = (
        "Accuracy in %, means over {seeds} seeds ± 95 % Student-t intervals, from models converged on scikit-learn's"
        " digits; batch {batch}, ratio {ratio:g}, constant rates. *Equal steps*: after {steps} main steps; *equal"
        " gradients*: after {gradients} gradients (a step of PROFIT counts as two, in the warm-up too). Warmed up:"
        " AdamW alone for the first {warm} steps.".format(
            **about, gradients=2 * about["steps"], warm=warm_steps(about["steps"])
        )
    )
    head = ["rate", "method", "new, equal steps", "minus AdamW", "new, equal gradients", "old, equal steps", "cosine"]
    lines = ["# Warm-up outside of proximity (Table 3)", "", *headline(about), "", explained]
    for task, start in starts.items():
        lines += ["", f"## {task} (the old models get {100 * start:.1f} %)", ""]
        of_task = sorted((row for row in rows if row.task == task), key=lambda row: row.rate)
        lines += markdown_table([head, *map(_line, of_task)])
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences(rows)), ""])


def _line(row: Row) -> list[str]:
    return [
        short_rate(row.rate),
        row.method,
        plus_minus(row.new, 100) + (" (fails)" if row.fails else ""),
        plus_minus(row.difference, 100, "+"),
        plus_minus(row.new_at_gradients, 100),
        plus_minus(row.old, 100),
        "" if row.cosine is None else f"{row.cosine:+.2f}",
    ]


def sentences(rows: Sequence[Row]) -> list[str]:
    """Where PROFIT fails as it is, where warmed up, and how often the paper's pattern is found."""
    fails = {(row.task, row.rate, row.method): row.fails for row in rows}
    shown = {row.method for row in rows}
    lines = []
    for naive in ("PROFIT", "PROFIT one line"):
        warm = f"{naive}, warmed up"
        if not {naive, warm} <= shown:
            continue
        places = [(task, rate) for task, rate, method in fails if method == naive]
        alone = [place for place in places if fails[*place, naive]]
        both = [place for place in alone if fails[*place, warm]]
        only_warm = [place for place in places if fails[*place, warm] and place not in alone]
        lines.append(
            f"{naive} gets less than half of AdamW's new accuracy in {len(alone)} of {len(places)} cases"
            f"{_places(alone)}; in {len(both)} of these also when warmed up{_places(both)}; warmed up alone, in"
            f" {len(only_warm)}{_places(only_warm)}."
        )
    return lines


def _places(places: Sequence[tuple[str, float]]) -> str:
    rates: dict[str, list[str]] = {}
    for task, rate in places:
        rates.setdefault(task, []).append(short_rate(rate))
    named = "; ".join(f"{task} at {', '.join(at)}" for task, at in rates.items())
    return f" ({named})" if named else ""
