"""The demo: handwritten digits, then the same digits rotated, with AdamW and with PROFIT."""

from pathlib import Path
from typing import Annotated

import numpy as np
from rich.console import Console

from benchmarks.forgetting.command import (
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
from benchmarks.forgetting.methods import catalogue
from benchmarks.forgetting.methods.optimizers import adamw
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.report import by_rate, plot, table
from benchmarks.forgetting.runner import at_rates, run_all, total
from benchmarks.forgetting.summary import as_curve, percent, summarize
from benchmarks.forgetting.tasks import start_scores
from benchmarks.forgetting.tasks.catalogue import ANGLE
from profit_optax.compare.advice import advice
from profit_optax.compare.summary import level_rows

# The same for every arm: a decade of rates at each of which AdamW gets to LEVEL.
RATES = (1e-4, 3e-4, 1e-3)
LEVEL = 0.94
RATIO = 10.0
BATCH = 128
EVALUATIONS = 40

SEEDS, QUICK_SEEDS = 10, 2
# Main steps at the lowest rate.
STEPS, QUICK_STEPS = 800, 80


def main(
    task: TaskName = NEAR,
    methods: Methods = None,
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    output: Output = Path("out/demo"),
    quick: Quick = False,
) -> None:
    """Fine-tune digits models to rotated digits and measure how much of the upright digits they forget.

    The arms are AdamW, AdamW with as many batches a step as PROFIT, PROFIT, and the one line at one batch a step. All
    start from the same models and see the same sequence of batches. A higher rate takes fewer steps in proportion.
    """
    n_seeds = seeds or (QUICK_SEEDS if quick else SEEDS)
    rates, steps = (RATES[-1:], QUICK_STEPS) if quick else (RATES, STEPS)
    with job("demo", output, quick) as work:
        arms = [adamw(), adamw(2), profit(), one_line()]
        if methods:
            arms = methods_named(methods, [*arms, *catalogue.everything()])
        trials = at_rates(arms, rates, steps, EVALUATIONS, ratio=RATIO, decay=0.0)
        learnt = task_named(task)(range(n_seeds))
        start = np.asarray(start_scores(learnt).old)
        with work.bar(total(trials, n_seeds)) as bar:
            runs = run_all(learnt, trials, BATCH, bar)
        baseline = arms[0].name
        rows = summarize(runs, LEVEL, baseline)
        about = work.about(
            level=LEVEL,
            angle=ANGLE,
            ratio=RATIO,
            n_ref=1,
            batch=BATCH,
            evaluations=EVALUATIONS,
            old_accuracy_at_start=start,
            seeds=n_seeds,
            rates=rates,
            steps=steps,
        )
        content = {**about, "summary": rows, "runs": runs}
        work.write(content, draw=lambda path: plot(path, by_rate(runs), LEVEL, learnt.name))
        console = Console(highlight=False, markup=False)
        console.print(table(rows, LEVEL, baseline))
        if task == NEAR and methods is None:
            console.print(_explained(start))
        console.print(advice(level_rows([as_curve(run) for run in runs], LEVEL, baseline), [LEVEL], baseline))
        if quick:
            console.print("A quick run shows that everything works: its numbers mean nothing.")
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        console.print(f"{about['wall_seconds']:.0f} s for {n_seeds} seeds; {versions}; {about['machine']}.")
        work.show()


def _explained(start: np.ndarray) -> str:
    return (
        f"Measured on held-out digits: accuracy on upright ones (old) when that on the same ones rotated by"
        f" {ANGLE:g} degrees (new) first reaches {percent(LEVEL)} %; means over {len(start)} paired seeds"
        f" ± 95 % Student-t intervals. The old models started at {100 * start.mean():.1f} % (the lowest at"
        f" {100 * start.min():.1f} %). AdamW x2 averages 2 batches a step, as many as PROFIT takes. A cosine between"
        f" displacement and gradient near -1 may announce a collapse."
    )
