"""The table and the picture."""

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.console import Console
from rich.table import Table

from profit_optax.compare import store
from profit_optax.compare.formats import megabytes, plus_minus, scale_of, score, seconds, short_rate
from profit_optax.compare.summary import Curve, Row, best

# Okabe and Ito's colours, which colour-blind readers can tell apart, and three more; line styles and markers tell them
# apart in grey. There is one for every method at hand.
_STYLES = (
    ("#000000", "-", "o"),
    ("#7F7F7F", "--", "s"),
    ("#0072B2", "-", "D"),
    ("#56B4E9", "--", "^"),
    ("#8C6D1F", ":", "v"),
    ("#D55E00", "-.", "P"),
    ("#009E73", "-", "X"),
    ("#CC79A7", "--", "<"),
    ("#5D3A9B", ":", ">"),
    ("#E69F00", "-", "p"),
    ("#A50F15", "-.", "h"),
)
# Wider than any table of the methods at hand, which fit a terminal: none is wrapped.
WIDTH = 140


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
        result.add_column(name, justify="right", no_wrap=name == "old")
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
    figure = Figure(figsize=(10.2, 5.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(curve.method for curve in curves))
    shown: list[Row] = []
    top = scale * max(*levels, *(curve.new.mean(axis=0).max() for curve in curves))
    start = scale * curves[0].new[:, 0].mean(), scale * curves[0].old[:, 0].mean()
    end = _stretch(axes, start[0], top)
    for i, name in enumerate(names):
        chosen = _best_rate(rows, levels, name)
        curve = next(each for each in curves if (each.method, each.rate) == (name, chosen))
        at_levels = [row for row in rows if (row.method, row.rate) == (name, chosen)]
        # Beside each other on the stretched axis, so that no bar hides another one.
        place = lambda level, i=i: level + (i - (len(names) - 1) / 2) * 0.012 * (end - level)  # noqa: E731
        _draw(axes, curve, at_levels, scale, _style(i), place)
        shown += at_levels
    for level in levels:
        label = "compared at" if level == levels[0] else None
        axes.axvline(scale * level, color="0.4", linewidth=1, linestyle=(0, (2, 2)), label=label, zorder=0)
    axes.plot(*start, marker="*", markersize=13, color="0.3", linestyle="none", label="start: the old model", zorder=5)
    _limit(axes, [scale * row.old.mean for row in shown if row.old], start[1], scale)
    unit = " (%)" if scale == 100 else ""
    axes.set_xlabel(f"score on the new task{unit}")
    axes.set_ylabel(f"score on the old task{unit}")
    axes.grid(alpha=0.25)
    title = textwrap.wrap(f"What is kept of the old task while learning {task}", 80)
    shown_at = f"each at its best rate for the highest level; means over {len(curves[0].seeds)} seeds, 95 % intervals"
    axes.set_title("\n".join([*title, shown_at]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    store.write(path, lambda file: figure.savefig(file, format="png", dpi=130))


def _style(i: int) -> tuple[str, str, str]:
    """The colour, line and marker of a method; beyond those at hand, other lines and markers on the same colours."""
    turn = i // len(_STYLES)
    others = _STYLES[(i + turn) % len(_STYLES)]
    return (_STYLES[i % len(_STYLES)][0], *others[1:])


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
        seconds(row.seconds),
        memory,
    )


def _draw(
    axes: Axes,
    curve: Curve,
    rows: Sequence[Row],
    scale: float,
    style: tuple[str, str, str],
    place: Callable[[float], float],
) -> None:
    colour, line, marker = style
    old, new = scale * curve.old.mean(axis=0), scale * curve.new.mean(axis=0)
    label = f"{curve.method}, {short_rate(curve.rate)}"
    axes.plot(new, old, color=colour, linestyle=line, linewidth=1.6, alpha=0.85, label=label)
    for row in rows:
        if row.old:
            half = scale * (row.old.high - row.old.mean)
            axes.errorbar(
                place(scale * row.level),
                scale * row.old.mean,
                yerr=half if np.isfinite(half) else None,
                color=colour,
                marker=marker,
                markersize=6,
                markeredgecolor="white",
                elinewidth=1,
                capsize=2,
            )


def _stretch(axes: Axes, start: float, top: float) -> float:
    """An axis that is logarithmic in what is missing to a score, which is returned: near it is where methods part."""
    way = top - start
    if way <= 0:
        # Nothing stood higher than the start, and so there is no way to it.
        return start
    end = top + 0.1 * way

    def stretched(new: np.ndarray) -> np.ndarray:
        return -np.log(np.maximum(end - new, 1e-3 * way))

    def shrunk(place: np.ndarray) -> np.ndarray:
        return end - np.exp(-place)

    axes.set_xscale("function", functions=(stretched, shrunk))
    axes.set_xlim(start - 0.04 * way, top + 0.01 * way)
    ticks = MaxNLocator(10).tick_values(start, top)
    axes.set_xticks([tick for tick in ticks if start - 0.04 * way <= tick <= top + 0.01 * way])
    axes.set_xticks([], minor=True)
    return end


def _limit(axes: Axes, olds: Sequence[float], start: float, scale: float) -> None:
    """The old scores that are compared: a method that collapses would leave no room for the others."""
    low, high = min([start, *olds]), max([start, *olds])
    margin = 0.15 * (high - low or 1.0)
    axes.set_ylim(low - margin, min(high + margin, 100.5) if scale == 100 else high + margin)
