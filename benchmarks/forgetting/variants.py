"""Variants of a form beside it, on the demo's task, rates and seeds: what a choice in the design costs or brings."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.commands import ending_with, progress_bar
from benchmarks.forgetting.demo import ANGLE, BATCH, EVALUATIONS, FULL, LEVEL, RATIO
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.methods.profit_lagged import lagged_along, momentum, profit_lagged, projected_gradient
from benchmarks.forgetting.report import environment, table
from benchmarks.forgetting.runner import at_rates, run_all
from benchmarks.forgetting.summary import summarize
from benchmarks.forgetting.tasks import digits


class Choice(StrEnum):
    """What is varied."""

    LAGGED = "lagged"
    COMPACT = "compact"


def _lagged() -> list[Method]:
    """Along what the lagged form displaces: the raw gradient, the projected one, or AdamW's momentum."""
    along = [("along projected", projected_gradient), ("along momentum", momentum)]
    return [profit_lagged(), *(lagged_along(name, direction) for name, direction in along), adamw()]


def _compact() -> list[Method]:
    """The dtype in which the displacement is kept."""
    return [profit(), profit(displacement_dtype="bfloat16"), adamw()]


_METHODS: dict[Choice, Callable[[], list[Method]]] = {Choice.LAGGED: _lagged, Choice.COMPACT: _compact}


def main(choice: Annotated[Choice, typer.Argument(help="What to vary.")]) -> None:
    """Run the form and its variants and print old accuracies at equal new accuracy, with differences to the form."""
    methods = _METHODS[choice]()
    task = digits.rotated_digits(range(FULL.seeds), angle=ANGLE)
    with ending_with(digits.NotConvergedError):
        digits.check_converged(digits.old_accuracies(task))
    trials = at_rates(methods, FULL.rates, FULL.steps, EVALUATIONS, ratio=RATIO)
    with progress_bar() as progress:
        total = sum(int(trial.steps[-1]) * trial.method.gradients for trial in trials) * FULL.seeds
        bar = progress.add_task("", total=total)
        runs = run_all(task, trials, BATCH, lambda name, n: progress.update(bar, description=name, advance=n))
    console = Console(highlight=False)
    console.print(table(summarize(runs, LEVEL, methods[0].name), LEVEL, methods[0].name))
    console.print(f"{FULL.seeds} paired seeds; {environment()['machine']}.")


if __name__ == "__main__":
    typer.run(main)
