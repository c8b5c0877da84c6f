"""The demo: handwritten digits, then the same digits rotated, with AdamW and with PROFIT."""

import numpy as np

from benchmarks.forgetting.command import Experiment, Job, task_of
from benchmarks.forgetting.methods.catalogue import METHODS
from benchmarks.forgetting.report import by_rate, page, plot, table
from benchmarks.forgetting.runner import at_rates, run_all, total
from benchmarks.forgetting.summary import as_curve, percent, summarize
from benchmarks.forgetting.tasks import start_scores
from benchmarks.forgetting.tasks.catalogue import TASKS
from profit_optax.compare.advice import advice
from profit_optax.compare.summary import level_rows

BASELINE = "AdamW"
# The same for every arm: a decade of rates at each of which AdamW gets to LEVEL.
RATES = (1e-4, 3e-4, 1e-3)
LEVEL = 0.94
RATIO = 10.0
BATCH = 128
EVALUATIONS = 40
# Main steps at the lowest rate.
STEPS, QUICK_STEPS = 800, 80


def run(job: Job) -> None:
    """Fine-tune digits models to rotated digits and measure how much of the upright digits they forget.

    The arms are AdamW, AdamW with as many batches a step as PROFIT, PROFIT, and the one line at one batch a step. All
    start from the same models and see the same sequence of batches. A higher rate takes fewer steps in proportion.
    """
    rates, steps = (RATES[-1:], QUICK_STEPS) if job.quick else (RATES, STEPS)
    trials = at_rates(list(job.methods.values()), rates, steps, EVALUATIONS, ratio=RATIO, decay=0.0)
    (make_task,) = job.tasks.values()
    learnt = make_task(range(job.seeds))
    start = np.asarray(start_scores(learnt).old)
    with job.bar(total(trials, job.seeds)) as bar:
        runs = run_all(learnt, trials, BATCH, bar)
    rows = summarize(runs, LEVEL, BASELINE)
    about = job.about(
        level=LEVEL,
        ratio=RATIO,
        n_ref=1,
        batch=BATCH,
        evaluations=EVALUATIONS,
        old_accuracy_at_start=start,
        rates=rates,
        steps=steps,
    )
    explained = (
        f"Measured on held-out digits: accuracy on upright ones (old) when that on the new task first reaches"
        f" {percent(LEVEL)} %; means over {len(start)} paired seeds ± 95 % Student-t intervals. The old models started"
        f" at {100 * start.mean():.1f} % (the lowest at {100 * start.min():.1f} %). AdamW x2 averages 2 batches a step,"
        f" as many as PROFIT takes. A cosine between displacement and gradient near -1 may announce a collapse."
    )
    advised = advice(level_rows([as_curve(run) for run in runs], LEVEL, BASELINE), [LEVEL], BASELINE)
    in_order = sorted(rows, key=lambda row: row.rate)
    text = page(f"Digits, then {learnt.name}", about, table(in_order, LEVEL, BASELINE), explained, advised)
    content = {**about, "summary": rows, "runs": runs}
    job.write(text, content, lambda path: plot(path, by_rate(runs), LEVEL, learnt.name))
    job.show(text)


EXPERIMENT = Experiment(
    name="demo",
    run=run,
    tasks=TASKS,
    methods={name: METHODS[name] for name in (BASELINE, "AdamW x2", "PROFIT", "PROFIT one line")},
    baseline=BASELINE,
    seeds=(10, 2),
    also=METHODS,
    task_of=task_of,
)
