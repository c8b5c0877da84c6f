"""Warm-up outside of proximity (the paper's Table 3): digits models that are to learn far-away tasks."""

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from benchmarks.commands import markdown_table
from benchmarks.forgetting.command import Experiment, Job, count_option, task_of
from benchmarks.forgetting.experiments.demo import BASELINE, BATCH, RATES, RATIO
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.catalogue import METHODS
from benchmarks.forgetting.methods.optimizers import adamw
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.report import page
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all, total
from benchmarks.forgetting.tasks.catalogue import TASKS
from profit_optax.compare.formats import plus_minus, short_rate
from profit_optax.compare.statistics import Interval, interval

# In the paper 10 of 100 epochs.
_WARM = 0.1
# PROFIT without warm-up gets 12.6 % of Clevr-Count in the paper, where full fine-tuning gets 56.3 %: "fails" means
# less than half of AdamW's accuracy.
_FAILS = 0.5
STEPS, QUICK_STEPS = 600, 40


def run(
    job: Job, steps: Annotated[int | None, count_option("Main steps at every rate.", STEPS, QUICK_STEPS)] = None
) -> None:
    """Fine-tune digits models to tasks far from digits, with PROFIT as it is and after a warm-up with AdamW.

    What is done already is not done again: for that, remove the output folder.
    """
    n_steps = steps or (QUICK_STEPS if job.quick else STEPS)
    rates = RATES[-1:] if job.quick else RATES
    everything = trials(list(job.chosen({**METHODS, **methods(n_steps)}).values()), rates, n_steps)
    by_task: dict[str, list[Run]] = {}
    with job.bar(len(job.tasks) * total(everything, job.seeds)) as bar:
        for name, make in job.tasks.items():
            bar(f"old models for {name}", 0)
            learnt = make(range(job.seeds))
            told = functools.partial(lambda name, method, taken: bar(f"{name}: {method}", taken), name)
            by_task[name] = run_all(learnt, everything, BATCH, told, job.runs)
    rows = [row for name, runs in by_task.items() for row in summarize(name, runs, n_steps)]
    starts = {name: float(np.mean(runs[0].new[:, 0])) for name, runs in by_task.items()}
    about = job.about(ratio=RATIO, batch=BATCH, rates=rates, steps=n_steps)
    text = markdown(rows, starts, about)
    job.write(text, {**about, "starts": starts, "summary": rows, "runs": by_task})
    job.show(text)


def warm_steps(steps: int) -> int:
    """How many of the main steps are the warm-up's."""
    return max(1, round(_WARM * steps))


def methods(steps: int) -> dict[str, Method]:
    """AdamW, and PROFIT and its one line, as they are and with AdamW alone for the first tenth of the steps."""
    warm = warm_steps(steps)
    arms = [
        adamw(),
        profit(),
        profit(warmup_steps=warm)._replace(name="PROFIT, warmed up"),
        one_line(),
        one_line(warmup_steps=warm)._replace(name="PROFIT one line, warmed up"),
    ]
    return {method.name: method for method in arms}


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
    sections = [explained]
    for task, start in starts.items():
        of_task = sorted((row for row in rows if row.task == task), key=lambda row: row.rate)
        sections.append(f"## {task} (the old models get {100 * start:.1f} %)")
        sections.append("\n".join(markdown_table([head, *map(_line, of_task)])))
    said = "\n".join(f"- {sentence}" for sentence in sentences(rows))
    return page("Warm-up outside of proximity (Table 3)", about, *sections, said)


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


EXPERIMENT = Experiment(
    name="warmup",
    run=run,
    # The near one, whose naive PROFIT needs no warm-up, is for comparison.
    tasks=TASKS,
    methods=methods(STEPS),
    baseline=BASELINE,
    seeds=(10, 2),
    together=True,
    also=METHODS,
    task_of=task_of,
)
