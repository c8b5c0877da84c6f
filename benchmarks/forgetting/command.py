"""An experiment as a value, and the command that it becomes: options, the output folder, progress, errors, the end."""

import dataclasses
import inspect
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.commands import MOST_STEPS, ending_with, make_folder, or_quick, progress_bar
from benchmarks.forgetting.compared import as_arm
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.tasks import Task
from profit_optax import compare
from profit_optax.compare.environment import PACKAGES, environment
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import called, load
from profit_optax.compare.fingerprint import of_text
from profit_optax.compare.store import Store, opened, write_json, write_text

# Tuning takes seeds from here on, where a report may have more than a hundred.
MOST_SEEDS = 1000

# Is told what is done now, and how much was done since last time.
Bar = Callable[[str, float], None]


def count_option(what: str, full: Any, quick: Any = None, least: int = 1) -> Any:
    """An option of an experiment's own for a number of something."""
    shown = full if quick is None else or_quick(full, quick)
    return typer.Option(min=least, max=MOST_STEPS, help=what, show_default=str(shown))


def named(
    text: str, known: Mapping[str, Any], hint: str, from_file: Callable[[str], Any] | None = None
) -> dict[str, Any]:
    """What names between commas stand for: what is known, in its order, then what `from_file` makes of FILE.py:NAME.

    Raises:
      typer.BadParameter: for a name that is neither; `hint` is the option.
    """
    parts, names = [part.strip() for part in text.split(",")], []
    while parts:
        # A known name may have a comma of its own.
        length = next((n for n in range(len(parts), 0, -1) if ", ".join(parts[:n]) in known), 1)
        names.append(", ".join(parts[:length]))
        parts = parts[length:]
    others = [name for name in names if name not in known]
    for name in others:
        if not (from_file and ".py:" in name):
            either = ", and no FILE.py:NAME" if from_file else ""
            raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}{either}.", param_hint=hint)
    found = {name: known[name] for name in known if name in names}
    return found | {name: from_file(name) for name in others if from_file}


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


def task_of(name: str) -> Callable[[Sequence[int]], Task]:
    """The function of seeds in a file, as FILE.py:NAME, that makes a task."""
    _, make = load(name)

    def task(seeds: Sequence[int]) -> Task:
        made = called(name, lambda: make(seeds))
        if not isinstance(made, Task):
            raise CompareError(f"{name} must return a Task of benchmarks.forgetting.tasks, got {type(made).__name__}.")
        return made

    return task


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of an experiment, which is the only one in its folder.

    Attributes:
      name: the experiment's.
      output: the folder for what it writes.
      quick: whether it measures nothing.
      tasks: what is learnt, by the names that were asked for.
      methods: what is compared, likewise.
      seeds: how many are reported on, from 0.
      begin: when it began.
    """

    name: str
    output: Path
    quick: bool
    tasks: Mapping[str, Any]
    methods: Mapping[str, Any]
    seeds: int
    begin: float = dataclasses.field(default_factory=time.perf_counter)

    @property
    def runs(self) -> Path:
        """A folder for the runs that a killed command goes on from."""
        return self.output / "runs"

    def chosen(self, arms: Mapping[str, Any]) -> dict[str, Any]:
        """Of arms that were made for this run those that were asked for, and what came out of files."""
        return {name: arms.get(name, own) for name, own in self.methods.items() if name in arms or ".py:" in name}

    @contextmanager
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
            "task": ", ".join(self.tasks),
            "seeds": self.seeds,
            **settings,
            "wall_seconds": time.perf_counter() - self.begin,
            **environment((*PACKAGES, "flax")),
        }

    def write(self, report: str, content: Any = None, draw: Callable[[Path], None] | None = None) -> None:
        """The report as Markdown, the numbers as JSON and the picture, as far as they are given."""
        write_text(self._path("md"), report)
        if draw is not None:
            draw(self._path("png"))
        if content is not None:
            write_json(self._path("json"), content, digits=6, indent=None)

    def show(self, report: str) -> None:
        """Print the report, and where everything is."""
        console = Console(highlight=False, markup=False, soft_wrap=True)
        console.print(Markdown(report) if console.is_terminal else report)
        for kind, what in (("md", "Report"), ("png", "Picture"), ("json", "Numbers")):
            if self._path(kind).exists():
                console.print(f"{what}: {self._path(kind)}")

    def _path(self, kind: str) -> Path:
        return self.output / f"{self.name}.{kind}"


class Experiment(NamedTuple):
    """What is learnt, by which methods, over how many seeds, and what is made of that.

    Attributes:
      name: of its command, and of what it writes.
      run: `run(job, **options)`: its docstring is the command's help, its other parameters are options of its own.
      tasks: what can be learnt, by name.
      methods: what is compared unless others are asked for, by name.
      baseline: the method that must be among them, for the others to be shown beside it; None for none.
      seeds: how many are reported on, and how many with --quick.
      together: whether a report is of several tasks, and of all unless some are asked for. Else every task has a run
        and a report of its own, and the first is learnt unless others are asked for.
      also: methods that are compared where they are asked for.
      task_of: makes a task of FILE.py:NAME; None where none can come out of a file.
      method_of: makes a method of FILE.py:NAME.
      most_seeds: how many can be asked for.
    """

    name: str
    run: Callable[..., None]
    tasks: Mapping[str, Any]
    methods: Mapping[str, Any]
    baseline: str | None
    seeds: tuple[int, int]
    together: bool = False
    also: Mapping[str, Any] = MappingProxyType({})
    task_of: Callable[[str], Any] | None = None
    method_of: Callable[[str], Any] = method_of
    most_seeds: int = MOST_SEEDS

    @property
    def usual_tasks(self) -> str:
        """What is learnt unless something else is asked for."""
        return ",".join(self.tasks) if self.together else next(iter(self.tasks))

    def jobs(self, task: str | None, methods: str | None, seeds: int | None, output: Path, quick: bool) -> list[Job]:
        """What the options ask for: one run, or one for each task."""
        tasks = named(self.usual_tasks if task is None else task, self.tasks, "--task", self.task_of)
        arms: Mapping[str, Any] = self.methods
        if methods is not None:
            arms = named(methods, {**self.methods, **self.also}, "--methods", self.method_of)
        if self.baseline and self.baseline not in arms:
            said = f"{self.baseline} must be among them: the others are shown beside it."
            raise typer.BadParameter(said, param_hint="--methods")
        job = Job(self.name, output, quick, tasks, arms, seeds or self.seeds[quick])
        if self.together or len(tasks) == 1:
            return [job]
        folders = {name: output / name.rpartition(":")[2] for name in tasks}
        return [dataclasses.replace(job, output=folders[name], tasks={name: tasks[name]}) for name in tasks]


def check_own_files(store: Store, jobs: Sequence[Job]) -> None:
    """Runs in a folder are told apart by names: those of another version of a user's file would be taken for its own.

    Raises:
      CompareError: if a file has changed since the runs that are kept were made.
    """
    names = {name for job in jobs for name in (*job.tasks, *job.methods) if ".py:" in name}
    paths = {Path(name.rpartition(":")[0]) for name in names}
    settings = {
        str(path.resolve()): of_text(path.read_text(encoding="utf-8", errors="replace")) for path in sorted(paths)
    }
    store.check(settings, unused=not any(job.runs.exists() for job in jobs))


def command(experiment: Experiment) -> Callable[..., None]:
    """The experiment as a function that typer makes a command of: what all share, then what is its own."""
    known, all_methods = ", ".join(experiment.tasks), ", ".join(dict.fromkeys([*experiment.methods, *experiment.also]))
    whose = ", or FILE.py:NAME of a function of seeds that returns a Task" if experiment.task_of else ""
    what_seeds = "Paired seeds to report on, from 0: each has its own order of batches, and more where the task has it."

    def main(
        task: Annotated[
            str | None,
            typer.Option(
                metavar="NAME,...", help=f"What is learnt: {known}{whose}.", show_default=experiment.usual_tasks
            ),
        ] = None,
        methods: Annotated[
            str | None,
            typer.Option(
                metavar="NAME,...",
                help=f"What is compared: {all_methods}, or FILE.py:NAME of a Method.",
                show_default="all" if not experiment.also else ",".join(experiment.methods),
            ),
        ] = None,
        seeds: Annotated[
            int | None,
            typer.Option(min=2, max=experiment.most_seeds, help=what_seeds, show_default=or_quick(*experiment.seeds)),
        ] = None,
        output: Annotated[
            Path, typer.Option(help="Folder for what it writes, and for the runs that a killed command goes on from.")
        ] = Path("out") / experiment.name,
        quick: Annotated[bool, typer.Option("--quick", help="A smoke run, which measures nothing.")] = False,
        **own: Any,
    ) -> None:
        make_folder(output)
        try:
            with ending_with(CompareError, OSError), opened(output):
                jobs = experiment.jobs(task, methods, seeds, output, quick)
                check_own_files(Store(output), jobs)
                for job in jobs:
                    experiment.run(dataclasses.replace(job, begin=time.perf_counter()), **own)
        except KeyboardInterrupt:
            typer.echo(f"Stopped. Start the same command again to go on: {output} has what was finished.", err=True)
            raise typer.Exit(130) from None

    *shared, _ = inspect.signature(main).parameters.values()
    _, *own = inspect.signature(experiment.run).parameters.values()
    options = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in (*shared, *own)]
    main.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    main.__doc__ = experiment.run.__doc__
    return main
