"""Everything that a user would try instead, each at its best setting, on the digits task.

Every method is tuned with the same number of settings, gradients and seeds, on other seeds than it is reported on.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from benchmarks.commands import ending_with, make_folder, or_quick, progress_bar
from benchmarks.forgetting.demo import ANGLE, BATCH, LEVEL
from benchmarks.forgetting.methods import Method, catalogue
from benchmarks.forgetting.report import environment, markdown, plot, write_json
from benchmarks.forgetting.runner import Run, run_all
from benchmarks.forgetting.summary import percent, summarize
from benchmarks.forgetting.tasks import Task, digits
from benchmarks.forgetting.tuning import Budget, Tuned, trial, tune

# Tuning seeds are counted from here, so that none of them is reported on.
FIRST_TUNING_SEED = 1000
BASELINE = "AdamW"


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    seeds: int
    tuning_seeds: int
    gradients: int


FULL = Size(seeds=10, tuning_seeds=5, gradients=3000)
QUICK = Size(seeds=2, tuning_seeds=2, gradients=16)
EVALUATIONS = 60


def main(
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...", help="Methods by their names, between semicolons where a name has a comma."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2, max=FIRST_TUNING_SEED, help="Seeds to report on.", show_default=or_quick(FULL.seeds, QUICK.seeds)
        ),
    ] = None,
    tuning_seeds: Annotated[
        int | None,
        typer.Option(min=2, help="Seeds to tune on.", show_default=or_quick(FULL.tuning_seeds, QUICK.tuning_seeds)),
    ] = None,
    gradients: Annotated[
        int | None,
        typer.Option(min=2, help="Gradients of a run at most.", show_default=or_quick(FULL.gradients, QUICK.gradients)),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(help="Folder for frontier.md, .png, .json, and for the runs that a killed command goes on from."),
    ] = Path("out/frontier"),
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run, which measures nothing.")] = False,
) -> None:
    """Tune every method on the digits task with the same budget, and compare them at equal new-task quality."""
    begin = time.perf_counter()
    size = QUICK if quick else FULL
    size = Size(seeds or size.seeds, tuning_seeds or size.tuning_seeds, gradients or size.gradients)
    budget = Budget(size.gradients, EVALUATIONS, BATCH)
    make_folder(output)
    task = digits.rotated_digits(range(size.seeds), ANGLE)
    groups = _groups(task, methods)
    tuning_task = digits.rotated_digits(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + size.tuning_seeds), ANGLE)
    with ending_with(digits.NotConvergedError):
        for each in (tuning_task, task):
            digits.check_converged(digits.old_accuracies(each))
    named = [method for group in groups.values() for method in group]
    with progress_bar() as progress:
        n_settings = len(named[0].settings())
        total = len(named) * size.gradients * (size.tuning_seeds * n_settings + size.seeds)
        bar = progress.add_task("", total=total)

        def on_progress(method: str, gradients: int) -> None:
            progress.update(bar, description=method, advance=gradients)

        tuned = tune(tuning_task, named, LEVEL, budget, on_progress, output / "runs")
        trials = [trial(each.method, each.setting, budget) for each in tuned]
        runs = run_all(task, trials, BATCH, on_progress, output / "runs")
    _report(output, groups, tuned, runs, budget, size, time.perf_counter() - begin, quick)


def _groups(task: Task, methods: str | None) -> dict[str, list[Method]]:
    groups = {
        "optimizers": catalogue.optimizers(),
        "against forgetting": catalogue.regularised(task),
        "PROFIT": catalogue.ours(),
    }
    if methods is None:
        return groups
    # Only where they are asked for: there are many.
    groups["one line"] = catalogue.one_lines()
    groups["variants"] = catalogue.variants()
    known = [method.name for group in groups.values() for method in group]
    asked = [name.strip() for name in methods.split(",")]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise typer.BadParameter(
            f"{', '.join(map(repr, unknown))} is none of {', '.join(known)}.", param_hint="--methods"
        )
    if BASELINE not in asked:
        raise typer.BadParameter(f"{BASELINE} must be among them: differences are to it.", param_hint="--methods")
    chosen = {title: [method for method in group if method.name in asked] for title, group in groups.items()}
    return {title: group for title, group in chosen.items() if group}


def _report(
    output: Path,
    groups: dict[str, list[Method]],
    tuned: Sequence[Tuned],
    runs: Sequence[Run],
    budget: Budget,
    size: Size,
    seconds: float,
    quick: bool,
) -> None:
    rows = summarize(runs, LEVEL, BASELINE)
    about: dict[str, Any] = {
        "quick": quick,
        "level": LEVEL,
        "angle": ANGLE,
        **size._asdict(),
        **budget._asdict(),
        "tuned": {each.method.name: {"setting": each.setting, "tried": each.tried, "reached": each.reached}
                  for each in tuned},
        "wall_seconds": seconds,
        **environment(),
    }  # fmt: skip
    text = markdown(rows, LEVEL, BASELINE, {each.method.name: f"{each.reached} of {each.tried}" for each in tuned})
    text += (
        f"\nDigits to digits rotated by {ANGLE:g} degrees. Means over {size.seeds} seeds ± 95 % Student-t intervals;"
        f" settings tuned on {size.tuning_seeds} others, {tuned[0].tried} for every method; {size.gradients} gradients"
        f" a run. *reached*: with how many settings every tuning seed reached {percent(LEVEL)} %."
        f" {about['machine']}; {', '.join(f'{k} {v}' for k, v in about['versions'].items())}.\n"
    )
    (output / "frontier.md").write_text(text, encoding="utf-8")
    # AdamW is in every panel, to compare with.
    panels = {
        title: [run for run in runs if run.method in {BASELINE, *(method.name for method in group)}]
        for title, group in groups.items()
    }
    plot(output / "frontier.png", panels, LEVEL, f"digits rotated by {ANGLE:g} degrees")
    write_json(output / "frontier.json", rows, list(runs), about)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(text)
    console.print(
        f"Table: {output / 'frontier.md'}\nPicture: {output / 'frontier.png'}\nNumbers: {output / 'frontier.json'}"
    )


if __name__ == "__main__":
    typer.run(main)
