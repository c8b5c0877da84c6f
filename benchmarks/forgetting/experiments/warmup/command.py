"""The command: every method on every task, as a Markdown report and a JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.forgetting.command import Methods, Output, Quick, Size, count_option, job, methods_named, seeds_option
from benchmarks.forgetting.experiments.warmup.arms import BATCH, RATIO, TASKS, methods, trials
from benchmarks.forgetting.experiments.warmup.report import markdown
from benchmarks.forgetting.experiments.warmup.summary import BASELINE, Row, summarize
from benchmarks.forgetting.methods import Method, catalogue
from benchmarks.forgetting.runner import Run, run_all, total
from benchmarks.forgetting.tasks import digits
from benchmarks.forgetting.tasks.catalogue import FROM_FILE, task_named

FULL = Size(seeds=10, rates=(1e-4, 3e-4, 1e-3), steps=600)
QUICK = Size(seeds=2, rates=(1e-3,), steps=40)


def main(
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--tasks",
            metavar="NAME,NAME,...",
            help=f"New tasks. Each is one of these, or {FROM_FILE}",
            show_default=", ".join(TASKS),
        ),
    ] = None,
    methods_: Methods = None,
    seeds: Annotated[int | None, seeds_option(FULL.seeds, QUICK.seeds)] = None,
    steps: Annotated[int | None, count_option("Main steps at every rate.", FULL.steps, QUICK.steps)] = None,
    output: Output = Path("out/warmup"),
    quick: Quick = False,
) -> None:
    """Fine-tune digits models to tasks far from digits, with PROFIT as it is and after a warm-up with AdamW.

    What is done already is not done again: for that, remove the output folder.
    """
    size = (QUICK if quick else FULL).given(seeds=seeds, steps=steps)
    with job("warmup", output, quick) as work:
        names = list(TASKS) if task is None else list(dict.fromkeys(name.strip() for name in task.split(",")))
        make = {name: task_named(name, known=TASKS) for name in names}
        rows: list[Row] = []
        starts: dict[str, float] = {}
        by_task: dict[str, list[Run]] = {}
        arms: Sequence[Method] = methods(size.steps)
        if methods_:
            arms = methods_named(methods_, [*arms, *catalogue.everything()], BASELINE)
        everything = trials(arms, size.rates, size.steps)
        with work.bar(len(names) * total(everything, size.seeds)) as bar:
            for name in names:
                bar(f"old models for {name}", 0)
                learnt = make[name](range(size.seeds))
                if name in TASKS:
                    digits.check_converged(digits.old_accuracies(learnt))

                def on_progress(method: str, gradients: int, name: str = name) -> None:
                    bar(f"{name}: {method}", gradients)

                runs = run_all(learnt, everything, BATCH, on_progress, work.runs)
                rows += summarize(name, runs, size.steps)
                starts[name] = float(np.mean(runs[0].new[:, 0]))
                by_task[name] = runs
        about = work.about(ratio=RATIO, batch=BATCH, **size.named())
        text = markdown(rows, starts, about)
        work.write({**about, "starts": starts, "summary": rows, "runs": by_task}, text)
        work.show(text)
