"""The table and the picture."""

import io
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from profit_optax.compare import store
from profit_optax.compare.formats import megabytes, plus_minus, scale_of, score, short_rate
from profit_optax.compare.summary import Curve, Row, best

# Okabe and Ito's colours, which colour-blind readers can tell apart; line styles and markers tell them apart in grey.
_COLOURS = ("#000000", "#0072B2", "#E69F00", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#8C6D1F")
_LINES = ("-", "-", "--", "-.", ":", "--", "-.")
_MARKERS = ("o", "D", "s", "^", "v", "P", "X", "<", ">", "p", "h")
WIDTH = 88


def table(rows: Sequence[Row], levels: Sequence[float], baseline: str) -> Table:
    """Level by level, each method at the best of its rates there: means over seeds ± half of the 95 % interval."""
    scale = scale_of(rows)
    unit = " (%)" if scale == 100 else ""
    seeds = rows[0].seeds
    title = f"Kept of the old task{unit} where the new one first stands at a level ({seeds} seeds)"
    result = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    result.add_column("new", no_wrap=True)
    result.add_column("method", no_wrap=True)
    for name in ("rate", "old", f"minus {baseline}", "grads", "s", "MB"):
        result.add_column(name, justify="right")
    for level in levels:
        names = dict.fromkeys(row.method for row in rows)
        for i, name in enumerate(names):
            row = best([row for row in rows if (row.level, row.method) == (level, name)])
            result.add_row("" if i else score(level, scale).removesuffix(" %"), *_cells(row, scale))
        result.add_section()
    return result


def as_text(table: Table) -> str:
    """A table without colours."""
    text = io.StringIO()
    Console(file=text, width=WIDTH, highlight=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def plot(path: Path, curves: Sequence[Curve], rows: Sequence[Row], levels: Sequence[float], task: str) -> None:
    """Old against new scores along training, as a PNG: each method at its best rate, means over seeds.

    The best rate is that at the highest level. Markers with bars stand at the levels that every seed reached: the mean
    of the old scores there and its 95 % interval.
    """
    scale = scale_of(rows)
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(curve.method for curve in curves))
    for name, colour, line, marker in zip(
        names, itertools.cycle(_COLOURS), itertools.cycle(_LINES), itertools.cycle(_MARKERS), strict=False
    ):
        chosen = _best_rate(rows, levels, name)
        curve = next(each for each in curves if (each.method, each.rate) == (name, chosen))
        at_levels = [row for row in rows if (row.method, row.rate) == (name, chosen)]
        _draw(axes, curve, at_levels, scale, (colour, line, marker))
    _dress(axes, curves, rows, levels, scale)
    spread = f"means over {len(curves[0].seeds)} seeds, 95 % intervals"
    title = f"What is kept of the old task while learning {task} ({spread})"
    figure.suptitle("\n".join(textwrap.wrap(title, 90)))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    store.write(path, lambda file: figure.savefig(file, format="png", dpi=130))


def _best_rate(rows: Sequence[Row], levels: Sequence[float], name: str) -> float:
    for level in reversed(levels):
        row = best([row for row in rows if (row.level, row.method) == (level, name)])
        if row.old or level == levels[0]:
            return row.rate
    raise AssertionError("there is no level")


def _cells(row: Row, scale: float) -> tuple[str, ...]:
    memory = megabytes(row.memory)
    if row.old is None or row.seconds is None:
        missing = f"not reached: {row.seeds - row.reached}/{row.seeds}"
        return row.method, short_rate(row.rate), missing, "", "", "", memory
    return (
        row.method,
        short_rate(row.rate),
        plus_minus(row.old, scale),
        plus_minus(row.difference, scale, "+"),
        f"{row.gradients:.0f}",
        f"{row.seconds:.2g}" if row.seconds < 10 else f"{row.seconds:.0f}",
        memory,
    )


def _draw(axes: Axes, curve: Curve, rows: Sequence[Row], scale: float, style: tuple[str, str, str]) -> None:
    colour, line, marker = style
    old, new = scale * curve.old.mean(axis=0), scale * curve.new.mean(axis=0)
    label = f"{curve.method}, {short_rate(curve.rate)}"
    axes.plot(new, old, color=colour, linestyle=line, linewidth=1.6, alpha=0.85, label=label)
    for row in rows:
        if row.old:
            half = scale * (row.old.high - row.old.mean)
            axes.errorbar(
                scale * row.level,
                scale * row.old.mean,
                yerr=half if np.isfinite(half) else None,
                color=colour,
                marker=marker,
                markersize=6,
                markeredgecolor="white",
                elinewidth=1,
                capsize=2,
            )


def _dress(axes: Axes, curves: Sequence[Curve], rows: Sequence[Row], levels: Sequence[float], scale: float) -> None:
    unit = " (%)" if scale == 100 else ""
    start = scale * curves[0].new[:, 0].mean(), scale * curves[0].old[:, 0].mean()
    for level in levels:
        label = "compared at" if level == levels[0] else None
        axes.axvline(scale * level, color="0.4", linewidth=1, linestyle=(0, (2, 2)), label=label)
    axes.plot(*start, marker="*", markersize=13, color="0.3", linestyle="none", label="start: the old model", zorder=5)
    # A method that collapses would leave no room for the others: the picture shows where they are compared.
    shown = [scale * value for row in rows if row.old for value in (row.old.mean, row.old.low, row.old.high)]
    finite = [value for value in (*shown, start[1]) if np.isfinite(value)]
    margin = 0.08 * (max(finite) - min(finite) or 1.0)
    axes.set_ylim(min(finite) - margin, min(max(finite) + margin, 100.5) if scale == 100 else max(finite) + margin)
    right = max(scale * levels[-1], *(scale * curve.new.mean(axis=0).max() for curve in curves))
    axes.set_xlim(start[0] - 0.03 * (right - start[0]), right + 0.03 * (right - start[0]))
    axes.set_xlabel(f"score on the new task{unit}")
    axes.set_ylabel(f"score on the old task{unit}")
    axes.grid(alpha=0.25)
