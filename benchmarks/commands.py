"""What the benchmarks' commands have in common: options, folders, progress, tables."""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# Counts beyond these would take weeks, or no machine has room for them: they are slips of the finger.
MOST_STEPS = 10**6
MOST_ROUNDS = 10**4
MOST_N_REF = 1000


def or_quick(full: Any, quick: Any) -> str:
    """How an option's help shows a default that depends on --quick."""
    return f"{full}; with --quick {quick}"


def parse_names(known: Iterable[str], hint: str | None = None) -> Callable[[str], tuple[str, ...]]:
    """A parser of names out of a list, separated by commas.

    Args:
      known: the list.
      hint: the option that errors name; None where typer knows it, which is while it parses the options.
    """
    choices = list(known)

    def parse(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(choices)}.", param_hint=hint)
        return names

    return parse


def parse_counts(most: int) -> Callable[[str], tuple[int, ...]]:
    """A parser of positive whole numbers up to `most`, separated by commas, as an increasing sequence."""

    def parse(text: str) -> tuple[int, ...]:
        parts = text.split(",")
        # Python reads no numbers of some thousand digits.
        short = all(part.isdecimal() and len(part) <= len(str(most)) for part in parts)
        if not short or not all(0 < int(part) <= most for part in parts):
            raise typer.BadParameter(f"{text!r} is not a list of whole numbers from 1 to {most:,} such as 1,3.")
        return tuple(sorted({int(part) for part in parts}))

    return parse


def parse_rates(text: str) -> tuple[float, ...]:
    """Learning rates, separated by commas."""
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1e-4,3e-4.") from None
    if not all(0 < rate < math.inf for rate in rates):
        raise typer.BadParameter(f"every rate must be positive and finite, and {text!r} has another.")
    if len(set(rates)) < len(rates):
        raise typer.BadParameter(f"every rate must be given once, and {text!r} repeats one.")
    return rates


def make_folder(path: Path) -> None:
    """Make the output folder, or end the command with the reason why it cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be a folder: {error.strerror}.", param_hint="--output") from None
    if not os.access(path, os.W_OK):
        typer.echo(f"Error: {path} cannot be written to: name another folder with --output.", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def ending_with(*errors: type[Exception]) -> Iterator[None]:
    """Ends the command with what an error of one of these kinds says, in place of a traceback."""
    try:
        yield
    except errors as error:
        typer.echo(f"Error: {str(error) or type(error).__name__}", err=True)
        raise typer.Exit(1) from None


def in_a_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """A command that a full disk, memory that is not there, or Ctrl-C ends with a sentence in place of a traceback."""

    @functools.wraps(main)
    def command(*args: Any, **options: Any) -> None:
        try:
            with ending_with(OSError, MemoryError):
                main(*args, **options)
        except jax.errors.JaxRuntimeError as error:
            typer.echo(f"Error: {str(error).splitlines()[0]}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("Stopped.", err=True)
            raise typer.Exit(130) from None

    return command


def progress_bar() -> Progress:
    """A bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, whose first is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return [head, "|---" * len(lines[0]) + "|", *body]
