"""The command: a task out of a file, compared."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from profit_optax.compare.comparison import compare
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import called, load
from profit_optax.compare.methods import Method
from profit_optax.compare.methods.catalogue import METHODS
from profit_optax.compare.progress import in_lines
from profit_optax.compare.task import Task


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1e-4,3e-4.") from None


def _seeds(text: str) -> int | tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 20 for part in parts):
        raise typer.BadParameter(f"{text!r} is neither a number of seeds such as 5 nor a list such as 5,6,7.")
    seeds = tuple(int(part) for part in parts)
    return seeds if len(seeds) > 1 else seeds[0]


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",")))


def main(
    task: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:TASK",
            help="A Python file, and the name in it of a Task or of a function without arguments that returns one.",
        ),
    ],
    methods: Annotated[
        Any,
        typer.Option(
            parser=_names,
            metavar="NAME,...",
            help=f"Of {', '.join(METHODS)}, names of Methods in the file, and FILE.py:NAME; the first is the baseline.",
            show_default="every one that needs nothing which the task has not",
        ),
    ] = None,
    rates: Annotated[
        Any,
        typer.Option(
            parser=_numbers,
            metavar="RATE,...",
            help="Learning rates, at each of which every method runs; SGD at 30 times these.",
            show_default="1e-4,3e-4,1e-3",
        ),
    ] = None,
    gradients: Annotated[
        int, typer.Option(min=1, metavar="N", help="Gradients that each run takes; a step of PROFIT takes two.")
    ] = 1000,
    seeds: Annotated[
        Any,
        typer.Option(
            parser=_seeds,
            metavar="N",
            help="How many paired seeds of the batches, or which ones: 5,6,7.",
            show_default="3",
        ),
    ] = None,
    levels: Annotated[
        Any,
        typer.Option(
            parser=_numbers,
            metavar="SCORE,...",
            help="Scores of the new task at which methods are compared.",
            show_default="80, 90 and 95 % of the baseline's way",
        ),
    ] = None,
    evaluations: Annotated[int, typer.Option(min=1, metavar="N", help="How often a run is scored, about.")] = 24,
    output: Annotated[
        Path, typer.Option(help="Folder for compare.json, compare.png and what a killed comparison goes on from.")
    ] = Path("out/compare"),
) -> None:
    """Fine-tune your model with several methods and tell what each keeps of the old task at equal new quality.

    Killed and started again with the same arguments, it goes on where it was. Methods, rates and seeds may be added
    in the same folder; what is shown and written is of those of the last start.
    """
    terminal = _console(stderr=True).is_terminal
    try:
        module, found = _load(task)
        result = compare(
            found,
            None if methods is None else [_method(module, name) for name in methods],
            rates=rates or (1e-4, 3e-4, 1e-3),
            gradients=gradients,
            seeds=3 if seeds is None else seeds,
            levels=levels,
            output=output,
            evaluations=evaluations,
            on_progress=None if terminal else in_lines(lambda line: typer.echo(line, err=True)),
        )
    except (CompareError, ValueError) as error:
        _end(str(error))
    except KeyboardInterrupt:
        _end(f"Stopped. Start the same command again to go on: {output} has what was finished.", 130)
    console = _console()
    console.print(result.table(), soft_wrap=True)
    console.print(result.advice(), soft_wrap=not console.is_terminal)
    left_out = [f"{name} (needs Task.{', Task.'.join(needed)})" for name, needed in result.about["left_out"].items()]
    if left_out:
        console.print(f"Left out: {', '.join(left_out)}.", soft_wrap=not console.is_terminal)
    console.print(f"\nPicture: {output / 'compare.png'}\nNumbers: {output / 'compare.json'}", soft_wrap=True)


def _console(stderr: bool = False) -> Console:
    """Prints text as it is; a terminal gets it broken between words, anything else in lines as long as they are."""
    return Console(stderr=stderr, highlight=False, markup=False)


def _method(module: Any, name: str) -> str | Method:
    """A method of the file's own or of another file, or a name of `METHODS`."""
    _, own = load(name) if ".py:" in name else (module, getattr(module, name, None))
    if ".py:" in name and not isinstance(own, Method):
        raise CompareError(f"{name} must be a Method, got {type(own).__name__}.")
    return own if isinstance(own, Method) else name


def _load(text: str) -> tuple[Any, Task]:
    console = _console(stderr=True)
    if console.is_terminal:
        # It may train a model, or load a large one.
        console.print(f"Reading {text}", soft_wrap=True)
    module, task = load(text)
    if callable(task) and not isinstance(task, Task):
        task = called(text.rpartition(":")[0], task)
    if not isinstance(task, Task):
        raise CompareError(f"{text} must be a Task, got {type(task).__name__}.")
    return module, task


def _end(message: str, code: int = 1) -> Any:
    console = _console(stderr=True)
    console.print(message if code == 130 else f"Error: {message}", soft_wrap=not console.is_terminal)
    raise typer.Exit(code)


def run() -> None:
    """Run the command."""
    typer.run(main)
