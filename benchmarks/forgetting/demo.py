"""The demo: handwritten digits, then the same digits rotated, with AdamW and with PROFIT."""

import math
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import ending_with, make_folder, or_quick, progress_bar
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.methods.one_line import one_line
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.report import by_rate, environment, plot, table, write_json
from benchmarks.forgetting.runner import Run, Trial, at_rates, run_all
from benchmarks.forgetting.summary import Row, describe, percent, short_rate, summarize
from benchmarks.forgetting.tasks import digits

# The same for every arm: a decade of rates at each of which AdamW gets to LEVEL.
RATES = (1e-4, 3e-4, 1e-3)
LEVEL = 0.94
RATIO = 10.0
BATCH = 128
ANGLE = 35.0
EVALUATIONS = 40


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    rates: tuple[float, ...]
    seeds: int
    steps: int


FULL = Size(RATES, seeds=10, steps=800)
QUICK = Size(RATES[-1:], seeds=2, steps=80)


def _parse_rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1e-4,3e-4.") from None
    if not all(0 < rate < math.inf for rate in rates):
        raise typer.BadParameter(f"every rate must be positive and finite, and {text!r} has another.")
    if len(set(rates)) < len(rates):
        raise typer.BadParameter(f"every rate must be given once, and {text!r} repeats one.")
    return rates


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
            parser=_parse_rates,
            metavar="RATE,RATE,...",
            help="Learning rates of AdamW, alone and as PROFIT's main optimizer.",
            show_default=or_quick(*(",".join(map(short_rate, size.rates)) for size in (FULL, QUICK))),
        ),
    ] = None,
    ratio: Annotated[
        float, typer.Option(callback=_positive, help="Main rate divided by PROFIT's reference rate.")
    ] = RATIO,
    n_ref: Annotated[int, typer.Option(min=1, help="Reference steps in each of PROFIT's steps.")] = 1,
    batch: Annotated[int, typer.Option(min=1, max=digits.N_TRAIN, help="Examples for each gradient.")] = BATCH,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Paired seeds: each has its own split, old model and order of batches.",
            show_default=or_quick(FULL.seeds, QUICK.seeds),
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Main steps at the lowest rate. A higher rate takes fewer in proportion.",
            show_default=or_quick(FULL.steps, QUICK.steps),
        ),
    ] = None,
    angle: Annotated[
        float, typer.Option(callback=_finite, help="Degrees by which the new digits are rotated.")
    ] = ANGLE,
    output: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = Path("out/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke run of a few seconds, which measures nothing.")
    ] = False,
) -> None:
    """Fine-tune digits models to rotated digits and measure how much of the upright digits they forget.

    The arms are AdamW, AdamW with as many batches a step as PROFIT, PROFIT, and the one line at one batch a step.

    All start from the same models and see the same sequence of batches.
    """
    begin = time.perf_counter()
    size = QUICK if quick else FULL
    rates, steps = rates or size.rates, size.steps if steps is None else steps
    n_seeds = size.seeds if seeds is None else seeds
    methods = (adamw(), adamw(n_ref + 1), profit(n_ref), one_line())
    trials = at_rates(methods, rates, steps, EVALUATIONS, ratio=ratio, decay=0.0)
    make_folder(output)
    with ending_with(digits.NotConvergedError):
        base, runs = _measure(trials, batch, n_seeds, angle)
    rows = summarize(runs, LEVEL, methods[0].name)
    plot(output / "demo.png", by_rate(runs), LEVEL, f"digits rotated by {angle:g} degrees")
    about = {
        "quick": quick,
        "level": LEVEL,
        "angle": angle,
        "ratio": ratio,
        "n_ref": n_ref,
        "seeds": n_seeds,
        "rates": rates,
        "steps": steps,
        "batch": batch,
        "evaluations": EVALUATIONS,
        "old_accuracy_at_start": base,
        "wall_seconds": time.perf_counter() - begin,
        **environment(),
    }
    write_json(output / "demo.json", rows, runs, about)
    _print(rows, runs, methods, about, output)


def _measure(trials: list[Trial], batch: int, n_seeds: int, angle: float) -> tuple[np.ndarray, list[Run]]:
    """The old models' accuracies and all runs, with a progress bar on standard error."""
    with progress_bar() as progress:
        bar = progress.add_task(f"{n_seeds} old models", total=None)
        task = digits.rotated_digits(range(n_seeds), angle)
        base = digits.old_accuracies(task)
        digits.check_converged(base)
        gradients = sum(int(trial.steps[-1]) * trial.method.gradients for trial in trials)
        progress.update(bar, total=gradients * n_seeds)

        def on_progress(method: str, gradients: int) -> None:
            progress.update(bar, description=method, advance=gradients)

        return base, run_all(task, trials, batch, on_progress)


def _print(rows: list[Row], runs: list[Run], methods: tuple[Method, ...], about: dict[str, Any], output: Path) -> None:
    console = Console(highlight=False, markup=False)
    console.print(table(rows, LEVEL, methods[0].name))
    base, versions = about["old_accuracy_at_start"], about["versions"]
    level, n_seeds, twice = percent(LEVEL), about["seeds"], methods[1]
    console.print(
        f"Measured on held-out digits: accuracy on upright ones (old) when that on the same ones rotated by"
        f" {about['angle']:g} degrees (new) first reaches {level} %; means over {n_seeds} paired seeds ± 95 % Student-t"
        f" intervals. The old models started at {100 * base.mean():.1f} % (the lowest at {100 * base.min():.1f} %)."
        f" {twice.name} averages {twice.gradients} batches a step, as many as PROFIT takes. A cosine between"
        f" displacement and gradient near -1 may announce a collapse."
    )
    for sentence in describe(runs, LEVEL):
        console.print(f"- {sentence}")
    if about["quick"]:
        console.print("A quick run shows that everything works: its numbers mean nothing.")
    console.print(
        f"{about['wall_seconds']:.0f} s for {n_seeds} seeds; {', '.join(f'{k} {v}' for k, v in versions.items())};"
        f" {about['machine']}."
    )
    console.print(f"Picture: {output / 'demo.png'}\nNumbers: {output / 'demo.json'}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
