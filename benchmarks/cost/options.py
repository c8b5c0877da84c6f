"""What the commands' options have in common: lists of names and numbers."""

from collections.abc import Callable, Iterable

import typer

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
