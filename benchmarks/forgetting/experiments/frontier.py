"""Everything that a user would try instead, each at its best setting, on the digits task.

Every method is tuned with the same number of settings, gradients and seeds, on other seeds than it is reported on.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.forgetting.command import MOST_SEEDS, Experiment, Job, task_of
from benchmarks.forgetting.experiments.demo import BASELINE, BATCH, LEVEL
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.catalogue import GROUPS, METHODS
from benchmarks.forgetting.report import page, plot, table
from benchmarks.forgetting.runner import Trial, geometrically, run_all
from benchmarks.forgetting.summary import percent, summarize
from benchmarks.forgetting.tasks.catalogue import TASKS
from benchmarks.forgetting.tuning import tune
from profit_optax.compare.errors import CompareError

# Tuning seeds are counted from here, so that none of them is reported on.
FIRST_TUNING_SEED = MOST_SEEDS
TUNING_SEEDS, QUICK_TUNING_SEEDS = 5, 2
# Of a run at most.
GRADIENTS, QUICK_GRADIENTS = 3000, 16
EVALUATIONS = 60


def run(job: Job) -> None:
    """Tune every method on the digits task with the same budget, and compare them at equal new-task quality."""
    tuning_seeds, gradients = (QUICK_TUNING_SEEDS, QUICK_GRADIENTS) if job.quick else (TUNING_SEEDS, GRADIENTS)
    (make_task,) = job.tasks.values()
    methods: list[Method] = list(job.methods.values())
    n_settings = check_alike(methods)
    reported = make_task(range(job.seeds))
    tuning_task = make_task(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + tuning_seeds))
    with job.bar(len(methods) * gradients * (tuning_seeds * n_settings + job.seeds)) as bar:
        tuned = [tune(tuning_task, each, steps(each, gradients), LEVEL, BATCH, bar, job.runs) for each in methods]
        trials = [Trial(each.method, each.setting, steps(each.method, gradients)) for each in tuned]
        runs = run_all(reported, trials, BATCH, bar, job.runs)
    rows = summarize(runs, LEVEL, BASELINE)
    about = job.about(
        level=LEVEL,
        gradients=gradients,
        tuning_seeds=tuning_seeds,
        evaluations=EVALUATIONS,
        batch=BATCH,
        tuned={
            each.method.name: {"setting": each.setting, "tried": len(each.tried), "reached": each.reached}
            for each in tuned
        },
    )
    order = sorted(rows, key=lambda row: -np.inf if row.old is None else row.old.mean, reverse=True)
    reached = {each.method.name: f"{each.reached} of {len(each.tried)}" for each in tuned}
    explained = (
        f"Digits to {reported.name}. Means over {job.seeds} seeds ± 95 % Student-t intervals; settings tuned on"
        f" {tuning_seeds} others, {n_settings} for every method; {gradients} gradients a run. *reached*: with how many"
        f" settings every tuning seed reached {percent(LEVEL)} %."
    )
    text = page("Every method at its best", about, table(order, LEVEL, BASELINE, reached=reached), explained)
    groups = {title: {method.name for method in group} for title, group in GROUPS.items()}
    groups["your own"] = {run.method for run in runs} - set(METHODS)
    # AdamW is in every panel, to compare with.
    panels = {
        title: [run for run in runs if run.method in {BASELINE, *group}]
        for title, group in groups.items()
        if any(run.method in group for run in runs)
    }
    content = {**about, "summary": rows, "runs": runs}
    job.write(text, content, lambda path: plot(path, panels, LEVEL, reported.name))
    job.show(text)


def check_alike(methods: Sequence[Method]) -> int:
    """How many settings every method is tuned over.

    Raises:
      CompareError: if they are not as many for each, which would not be fair, or two methods have one name.
    """
    sizes = {method.name: len(method.settings()) for method in methods}
    if len(sizes) < len(methods):
        raise CompareError(f"different methods have the same name, among {[each.name for each in methods]}.")
    if len(set(sizes.values())) > 1:
        raise CompareError(
            f"the methods' grids have different numbers of settings, {sizes}: give each the same, so that none is tuned"
            " more than another."
        )
    return len(methods[0].settings())


def steps(method: Method, gradients: int) -> np.ndarray:
    """Where a method is evaluated that takes all of the gradients."""
    return geometrically(gradients // method.gradients, EVALUATIONS)


_ONE_LINES = {method.name: method for method in GROUPS["one line"]}

EXPERIMENT = Experiment(
    name="frontier",
    run=run,
    tasks=TASKS,
    methods={name: method for name, method in METHODS.items() if name not in _ONE_LINES},
    baseline=BASELINE,
    seeds=(10, 2),
    # Only where they are asked for: there are many.
    also=_ONE_LINES,
    task_of=task_of,
)
