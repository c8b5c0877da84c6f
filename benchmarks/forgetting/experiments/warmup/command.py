"""The command: every method on every task, as a Markdown report and a JSON file."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import ending_with, make_folder, or_quick, parse_names, progress_bar
from benchmarks.forgetting.experiments.warmup.arms import BATCH, RATIO, TASKS, trials
from benchmarks.forgetting.experiments.warmup.report import markdown
from benchmarks.forgetting.experiments.warmup.summary import Row, summarize
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.runner import Run, run_all
from benchmarks.forgetting.tasks import digits
from profit_optax.compare.store import plain


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    rates: tuple[float, ...]
    seeds: int
    steps: int


FULL = Size((1e-4, 3e-4, 1e-3), seeds=10, steps=600)
QUICK = Size((1e-3,), seeds=2, steps=40)


def main(
    tasks: Annotated[
        Any,
        typer.Option(parser=parse_names(TASKS), metavar="NAME,...", help="New tasks.", show_default=", ".join(TASKS)),
    ] = None,
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
        typer.Option(min=1, help="Main steps at every rate.", show_default=or_quick(FULL.steps, QUICK.steps)),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for warmup.md and warmup.json, and for what a killed command goes on from.")
    ] = Path("out/warmup"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke run of a few seconds, which measures nothing.")
    ] = False,
) -> None:
    """Fine-tune digits models to tasks far from digits, with PROFIT as it is and after a warm-up with AdamW.

    What is done already is not done again: for that, remove the output folder.
    """
    begin = time.perf_counter()
    size = QUICK if quick else FULL
    size = size._replace(seeds=seeds or size.seeds, steps=steps or size.steps)
    make_folder(output)
    with ending_with(digits.NotConvergedError):
        rows, starts, runs = _measure(tasks or tuple(TASKS), size, output / "runs")
    about = {
        "quick": quick,
        "command": " ".join(["python -m benchmarks.forgetting warmup", *sys.argv[1:]]),
        "ratio": RATIO,
        "batch": BATCH,
        **size._asdict(),
        "wall_seconds": time.perf_counter() - begin,
        **environment(),
    }
    text = markdown(rows, starts, about)
    (output / "warmup.md").write_text(text, encoding="utf-8")
    content = plain({**about, "starts": starts, "summary": rows, "runs": runs}, digits=6)
    (output / "warmup.json").write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(text)
    console.print(f"Report: {output / 'warmup.md'}\nNumbers: {output / 'warmup.json'}")


def _measure(names: Sequence[str], size: Size, store: Path) -> tuple[list[Row], dict[str, float], dict[str, list[Run]]]:
    """The rows, what the old models get of each new task, and all runs."""
    everything = trials(size.rates, size.steps)
    total = sum(int(trial.steps[-1]) * trial.method.gradients for trial in everything) * size.seeds * len(names)
    rows, starts, by_task = [], {}, {}
    with progress_bar() as progress:
        bar = progress.add_task("", total=total)
        for name in names:
            progress.update(bar, description=f"old models for {name}")
            task = TASKS[name](range(size.seeds))
            digits.check_converged(digits.old_accuracies(task))

            def on_progress(method: str, gradients: int, name: str = name) -> None:
                progress.update(bar, description=f"{name}: {method}", advance=gradients)

            runs = run_all(task, everything, BATCH, on_progress, store)
            rows += summarize(name, runs, size.steps)
            starts[name] = float(np.mean(runs[0].new[:, 0]))
            by_task[name] = runs
    return rows, starts, by_task
