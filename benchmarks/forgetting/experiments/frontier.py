"""Everything that a user would try instead, each at its best setting, on the digits task.

Every method is tuned with the same number of settings, gradients and seeds, on other seeds than it is reported on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from benchmarks.forgetting.command import (
    MOST_SEEDS,
    NEAR,
    Methods,
    Output,
    Quick,
    TaskName,
    job,
    methods_named,
    seeds_option,
    task_named,
)
from benchmarks.forgetting.experiments.demo import BATCH, LEVEL
from benchmarks.forgetting.methods import Method, catalogue
from benchmarks.forgetting.report import made_with, markdown, plot
from benchmarks.forgetting.runner import Trial, geometrically, run_all
from benchmarks.forgetting.summary import best, crossing, percent, summarize
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.catalogue import ANGLE
from profit_optax.compare.errors import CompareError

# Tuning seeds are counted from here, so that none of them is reported on.
FIRST_TUNING_SEED = MOST_SEEDS
BASELINE = "AdamW"

SEEDS, QUICK_SEEDS = 10, 2
TUNING_SEEDS, QUICK_TUNING_SEEDS = 5, 2
# Of a run at most.
GRADIENTS, QUICK_GRADIENTS = 3000, 16
EVALUATIONS = 60


class Tuned(NamedTuple):
    """A method's best setting, out of how many, and with how many of them every tuning seed reached the level."""

    method: Method
    setting: dict[str, float]
    tried: int
    reached: int


def main(
    task: TaskName = NEAR,
    methods: Methods = None,
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    output: Output = Path("out/frontier"),
    quick: Quick = False,
) -> None:
    """Tune every method on the digits task with the same budget, and compare them at equal new-task quality."""
    n_seeds = seeds or (QUICK_SEEDS if quick else SEEDS)
    tuning_seeds, gradients = (QUICK_TUNING_SEEDS, QUICK_GRADIENTS) if quick else (TUNING_SEEDS, GRADIENTS)
    with job("frontier", output, quick) as work:
        groups, make_task = _groups(methods), task_named(task)
        reported = make_task(range(n_seeds))
        tuning_task = make_task(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + tuning_seeds))
        named = [method for group in groups.values() for method in group]
        n_settings = len(named[0].settings())
        with work.bar(len(named) * gradients * (tuning_seeds * n_settings + n_seeds)) as bar:
            tuned = tune(tuning_task, named, LEVEL, gradients, bar, work.runs)
            trials = [trial(each.method, each.setting, gradients) for each in tuned]
            runs = run_all(reported, trials, BATCH, bar, work.runs)
        rows = summarize(runs, LEVEL, BASELINE)
        picked = {each.method.name: {**each._asdict(), "method": each.method.name} for each in tuned}
        about = work.about(
            level=LEVEL,
            angle=ANGLE,
            seeds=n_seeds,
            gradients=gradients,
            tuning_seeds=tuning_seeds,
            evaluations=EVALUATIONS,
            batch=BATCH,
            tuned=picked,
        )
        reached = {each.method.name: f"{each.reached} of {each.tried}" for each in tuned}
        text = (
            f"{markdown(rows, LEVEL, BASELINE, reached)}\nDigits to {reported.name}. Means over {n_seeds} seeds"
            f" ± 95 % Student-t intervals; settings tuned on {tuning_seeds} others, {tuned[0].tried} for every"
            f" method; {gradients} gradients a run. *reached*: with how many settings every tuning seed reached"
            f" {percent(LEVEL)} %. {made_with(about)}\n"
        )
        # AdamW is in every panel, to compare with.
        panels = {
            title: [run for run in runs if run.method in {BASELINE, *(method.name for method in group)}]
            for title, group in groups.items()
        }
        content = {**about, "summary": rows, "runs": runs}
        work.write(content, text, lambda path: plot(path, panels, LEVEL, reported.name))
        work.show(text)


def tune(
    task: Task,
    methods: Sequence[Method],
    level: float,
    gradients: int,
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
    trials = [trial(method, setting, gradients, until) for method in methods for setting in method.settings()]
    runs = run_all(task, trials, BATCH, on_progress, store)
    found = []
    for method in methods:
        tried = [run for run in runs if run.method == method.name]
        reached = sum(not np.isnan(crossing(run, level).old).any() for run in tried)
        found.append(Tuned(method, best(tried, level).setting, len(tried), reached))
    return found


def trial(method: Method, setting: dict[str, float], gradients: int, until: float | None = None) -> Trial:
    """The method at the setting with all of the gradients."""
    return Trial(method, setting, geometrically(gradients // method.gradients, EVALUATIONS), until)


def _groups(methods: str | None) -> dict[str, list[Method]]:
    groups = {
        "optimizers": catalogue.optimizers(),
        "against forgetting": catalogue.regularised(),
        "PROFIT": catalogue.ours(),
    }
    if methods is None:
        return groups
    # Only where they are asked for: there are many.
    groups["one line"] = catalogue.one_lines()
    known = [method for group in groups.values() for method in group]
    found = methods_named(methods, known, BASELINE)
    groups["your own"] = [method for method in found if method not in known]
    chosen = {title: [method for method in group if method in found] for title, group in groups.items()}
    return {title: group for title, group in chosen.items() if group}
