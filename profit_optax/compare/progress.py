"""How far a comparison is: a table and a bar with the time left on a terminal, or a call of the user's."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from profit_optax.compare.formats import short_rate
from profit_optax.compare.report import table
from profit_optax.compare.summary import Row


class Progress(NamedTuple):
    """How far a comparison is.

    Attributes:
      method: the name of the method that trains.
      rate: its learning rate.
      seed: its seed.
      gradients: how many gradients were taken, over all runs.
      total: how many there will be.
      rows: the rows of the methods that are finished; none before the baseline is.
    """

    method: str
    rate: float
    seed: int
    gradients: int
    total: int
    rows: tuple[Row, ...]


@contextlib.contextmanager
def watched(on_progress: Callable[[Progress], None] | None) -> Iterator[Callable[[Progress], None]]:
    """Where progress is told to: the user's function, else a terminal on standard error, else nobody."""
    console = Console(stderr=True)
    if on_progress:
        yield on_progress
    elif console.is_terminal:
        with _on_terminal(console) as tell:
            yield tell
    else:
        yield lambda progress: None


def in_lines(tell: Callable[[str], None]) -> Callable[[Progress], None]:
    """Progress for a file: a line as each method begins at a rate."""
    told: list[tuple[str, float]] = []

    def on_progress(progress: Progress) -> None:
        now = progress.method, progress.rate
        if now not in told:
            told.append(now)
            share = progress.gradients / progress.total
            tell(f"{share:4.0%}  {progress.method} at rate {short_rate(progress.rate)}")

    return on_progress


@contextlib.contextmanager
def _on_terminal(console: Console) -> Iterator[Callable[[Progress], None]]:
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    task = bar.add_task("starting", total=None)
    with Live(bar, console=console, transient=True, refresh_per_second=4) as live:

        def tell(progress: Progress) -> None:
            description = f"{progress.method} at {short_rate(progress.rate)}, seed {progress.seed}"
            bar.update(task, description=description, completed=progress.gradients, total=progress.total)
            live.update(Group(_latest(progress.rows), bar) if progress.rows else bar)

        yield tell


def _latest(rows: tuple[Row, ...]) -> Table:
    """The table at the highest level alone, so that it fits a terminal."""
    level = max(row.level for row in rows)
    return table([row for row in rows if row.level == level], [level], rows[0].method)
