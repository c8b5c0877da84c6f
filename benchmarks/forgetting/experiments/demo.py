"""The demo: handwritten digits, then the same digits rotated, with AdamW and with PROFIT."""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import or_quick, parse_rates
from benchmarks.forgetting.command import (
    Methods,
    Output,
    Quick,
    Size,
    TaskName,
    count_option,
    job,
    methods_named,
    seeds_option,
    task_named,
)
from benchmarks.forgetting.methods import Method, catalogue
from benchmarks.forgetting.methods.optimizers import adamw
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.report import by_rate, plot, table
from benchmarks.forgetting.runner import at_rates, run_all, total
from benchmarks.forgetting.summary import describe, percent, summarize
from benchmarks.forgetting.tasks import digits
from profit_optax.compare.formats import short_rate

# The same for every arm: a decade of rates at each of which AdamW gets to LEVEL.
RATES = (1e-4, 3e-4, 1e-3)
LEVEL = 0.94
RATIO = 10.0
BATCH = 128
ANGLE = 35.0
EVALUATIONS = 40


FULL = Size(seeds=10, rates=RATES, steps=800)
QUICK = Size(seeds=2, rates=RATES[-1:], steps=80)


def _positive(value: float) -> float:
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a positive, finite number.")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value:g} is not a finite number.")
    return value


def main(
    rates: Annotated[
        Any,
        typer.Option(
            parser=parse_rates,
            metavar="RATE,RATE,...",
            help="Learning rates of AdamW, alone and as PROFIT's main optimizer.",
            show_default=or_quick(*(",".join(map(short_rate, size.rates)) for size in (FULL, QUICK))),
        ),
    ] = None,
    ratio: Annotated[
        float, typer.Option(callback=_positive, help="Main rate divided by PROFIT's reference rate.")
    ] = RATIO,
    n_ref: Annotated[int, typer.Option(min=1, max=1000, help="Reference steps in each of PROFIT's steps.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=digits.N_TRAIN, help="Examples for each gradient.")] = BATCH,
    seeds: Annotated[int | None, seeds_option(FULL.seeds, QUICK.seeds)] = None,
    steps: Annotated[int | None, count_option("Main steps at the lowest rate.", FULL.steps, QUICK.steps)] = None,
    angle: Annotated[
        float, typer.Option(callback=_finite, help="Degrees by which the new digits are rotated.")
    ] = ANGLE,
    task: TaskName = None,
    methods: Methods = None,
    output: Output = Path("out/demo"),
    quick: Quick = False,
) -> None:
    """Fine-tune digits models to rotated digits and measure how much of the upright digits they forget.

    The arms are AdamW, AdamW with as many batches a step as PROFIT, PROFIT, and the one line at one batch a step. All
    start from the same models and see the same sequence of batches. A higher rate takes fewer steps in proportion.
    """
    size = (QUICK if quick else FULL).given(rates=rates, seeds=seeds, steps=steps)
    with job("demo", output, quick) as work:
        arms = [adamw(), adamw(n_ref + 1), profit(n_ref), one_line()]
        if methods:
            arms = methods_named(methods, [*arms, *catalogue.everything()])
        trials = at_rates(arms, size.rates, size.steps, EVALUATIONS, ratio=ratio, decay=0.0)
        learnt = task_named(task, angle)(range(size.seeds))
        base = digits.old_accuracies(learnt)
        if task is None:
            digits.check_converged(base)
        with work.bar(total(trials, size.seeds)) as bar:
            runs = run_all(learnt, trials, batch, bar)
        rows = summarize(runs, LEVEL, arms[0].name)
        about = work.about(
            level=LEVEL,
            angle=angle,
            ratio=ratio,
            n_ref=n_ref,
            batch=batch,
            evaluations=EVALUATIONS,
            old_accuracy_at_start=base,
            **size.named(),
        )
        work.write(
            {**about, "summary": rows, "runs": runs}, draw=lambda path: plot(path, by_rate(runs), LEVEL, learnt.name)
        )
        console = Console(highlight=False, markup=False)
        console.print(table(rows, LEVEL, arms[0].name))
        if task is None and methods is None:
            console.print(_explained(base, about, arms[1]))
        for sentence in describe(runs, LEVEL):
            console.print(f"- {sentence}")
        if quick:
            console.print("A quick run shows that everything works: its numbers mean nothing.")
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        console.print(f"{about['wall_seconds']:.0f} s for {size.seeds} seeds; {versions}; {about['machine']}.")
        work.show()


def _explained(base: np.ndarray, about: dict[str, Any], twice: Method) -> str:
    return (
        f"Measured on held-out digits: accuracy on upright ones (old) when that on the same ones rotated by"
        f" {about['angle']:g} degrees (new) first reaches {percent(LEVEL)} %; means over {about['seeds']} paired seeds"
        f" ± 95 % Student-t intervals. The old models started at {100 * base.mean():.1f} % (the lowest at"
        f" {100 * base.min():.1f} %)."
        f" {twice.name} averages {twice.gradients} batches a step, as many as PROFIT takes. A cosine between"
        f" displacement and gradient near -1 may announce a collapse."
    )
