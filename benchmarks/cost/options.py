"""What the commands' options have in common: lists, folders and progress bars."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# For quick runs, half of which would otherwise go into optimizing programs that run once or twice.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def parse_names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of names out of a list, separated by commas."""
    choices = list(known)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(choices)}.")
        return names

    return parse


def parse_counts(text: str) -> tuple[int, ...]:
    """Positive whole numbers, separated by commas, as an increasing sequence."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of positive whole numbers such as 1,3.")
    return tuple(sorted({int(part) for part in parts}))


def make_folder(path: Path) -> None:
    """Make the output folder, or end the command with the reason why it cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be a folder: {error.strerror}.", param_hint="--output") from None
    if not os.access(path, os.W_OK):
        raise typer.BadParameter(f"{path} cannot be written to.", param_hint="--output")


def progress_bar() -> Progress:
    """A bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
