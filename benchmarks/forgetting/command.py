"""What the experiments' commands share: options, methods by name, the output folder, progress, errors, and the end."""

import contextlib
import functools
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.commands import MOST_STEPS, ending_with, make_folder, or_quick, progress_bar
from benchmarks.forgetting.compared import as_arm
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.catalogue import TASKS, MakeTask
from profit_optax import compare
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import called, load
from profit_optax.compare.store import opened, write_json, write_text

MOST_SEEDS = 1000

# Is told what is done now, and how much was done since last time.
Bar = Callable[[str, float], None]

FROM_FILE = "FILE.py:NAME of a function of seeds that returns a Task."
NEAR = next(iter(TASKS))
TaskName = Annotated[str, typer.Option("--task", help=f"What is learnt. One of {', '.join(TASKS)}, or {FROM_FILE}")]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="NAME,NAME,...",
        help="Methods by their names, or FILE.py:NAME of a Method of the experiments or of profit_optax.compare.",
        show_default="the experiment's own",
    ),
]
Output = Annotated[
    Path, typer.Option(help="Folder for what it writes, and for the runs that a killed command goes on from.")
]
BUDGET = "Gradients of a run: the budget."
Quick = Annotated[bool, typer.Option("--quick", help="A smoke run, which measures nothing.")]


def seeds_option(full: int, quick: int) -> Any:
    """The option for how many seeds are reported on."""
    text = "Paired seeds to report on, from 0: each has its own order of batches, and more where the task has it."
    return typer.Option(min=2, max=MOST_SEEDS, help=text, show_default=or_quick(full, quick))


def count_option(what: str, full: Any, quick: Any = None, least: int = 1) -> Any:
    """The option for another number of something."""
    shown = full if quick is None else or_quick(full, quick)
    return typer.Option(min=least, max=MOST_STEPS, help=what, show_default=str(shown))


def names(text: str) -> list[str]:
    """The names in a list between commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def named(names: Sequence[str], known: Mapping[str, Any], from_file: Callable[[str], Any], hint: str) -> list[Any]:
    """What names stand for: something known, or what `from_file` makes of FILE.py:NAME; `hint` is the option.

    Raises:
      typer.BadParameter: for a name that is neither.
    """
    for name in names:
        if name not in known and ".py:" not in name:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}, and no FILE.py:NAME.", param_hint=hint)
    return [known[name] if name in known else from_file(name) for name in names]


def methods_named(text: str, known: Sequence[Method], baseline: str | None = None) -> list[Method]:
    """The methods of a list, which must have the baseline among them: that to which differences are, or None."""
    found = named(names(text), {method.name: method for method in known}, method_of, "--methods")
    if baseline is not None and baseline not in [method.name for method in found]:
        raise typer.BadParameter(f"{baseline} must be among them: differences are to it.", param_hint="--methods")
    return found


def method_of(name: str) -> Method:
    """The method in a file, as FILE.py:NAME.

    Raises:
      CompareError: if there is none that can be run.
    """
    _, found = load(name)
    if isinstance(found, compare.Method):
        return as_arm(found)
    if not isinstance(found, Method):
        raise CompareError(f"{name} must be a Method, got {type(found).__name__}.")
    return found


def task_named(name: str) -> MakeTask:
    """The task of that name. One that is in a file is made by a function of seeds there."""
    (make,) = named([name], TASKS, lambda name: functools.partial(_task_of, name, load(name)[1]), "--task")
    return make


def _task_of(name: str, make: MakeTask, seeds: Sequence[int]) -> Task:
    task = called(name, lambda: make(seeds))
    if not isinstance(task, Task):
        raise CompareError(f"{name} must return a Task of benchmarks.forgetting.tasks, got {type(task).__name__}.")
    return task


class Job:
    """One run of a command, which is the only one in its folder.

    Attributes:
      runs: a folder for the runs that a killed command goes on from.
      quick: whether it measures nothing.
    """

    def __init__(self, name: str, output: Path, quick: bool):
        self.runs, self.quick = output / "runs", quick
        self._name, self._output, self._begin = name, output, time.perf_counter()

    @contextlib.contextmanager
    def bar(self, total: float) -> Iterator[Bar]:
        """A progress bar on standard error."""
        with progress_bar() as progress:
            bar = progress.add_task("", total=total)
            yield lambda name, taken: progress.update(bar, description=name, advance=taken)

    def about(self, **settings: Any) -> dict[str, Any]:
        """The settings, and what numbers were made with."""
        return {
            "command": shlex.join(["python", "-m", "benchmarks.forgetting", *sys.argv[1:]]),
            "quick": self.quick,
            **settings,
            "wall_seconds": time.perf_counter() - self._begin,
            **environment(),
        }

    def write(
        self,
        content: dict[str, Any] | None,
        report: str | None = None,
        draw: Callable[[Path], None] | None = None,
    ) -> None:
        """The numbers as JSON, the report as Markdown and the picture, as far as they are given."""
        if report is not None:
            write_text(self._path("md"), report)
        if draw is not None:
            draw(self._path("png"))
        if content is not None:
            write_json(self._path("json"), content, digits=6, indent=None)

    def show(self, report: str | None = None) -> None:
        """Print the report, and where everything is."""
        console = Console(highlight=False, markup=False, soft_wrap=True)
        if report is not None:
            console.print(report)
        for kind, what in (("md", "Report"), ("png", "Picture"), ("json", "Numbers")):
            if self._path(kind).exists():
                console.print(f"{what}: {self._path(kind)}")

    def _path(self, kind: str) -> Path:
        return self._output / f"{self._name}.{kind}"


@contextlib.contextmanager
def job(name: str, output: Path, quick: bool) -> Iterator[Job]:
    """One run of a command; what cannot go on ends it with a sentence in place of a traceback."""
    make_folder(output)
    try:
        with ending_with(CompareError, OSError), opened(output):
            yield Job(name, output, quick)
    except KeyboardInterrupt:
        typer.echo(f"Stopped. Start the same command again to go on: {output} has what was finished.", err=True)
        raise typer.Exit(130) from None
