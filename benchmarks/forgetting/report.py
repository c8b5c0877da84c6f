"""A report, and the table and the picture of methods at equal new accuracy."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.commands import markdown_table
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.summary import Row, crossing, percent
from profit_optax.compare.formats import plus_minus, short_rate
from profit_optax.compare.statistics import interval
from profit_optax.compare.store import write

# Okabe and Ito's colours, which colour-blind readers can tell apart; line styles and markers tell them apart in grey.
_STYLES = (
    ("#000000", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#0072B2", "-", "D"),
    ("#CC79A7", "-.", "^"),
    ("#009E73", ":", "v"),
    ("#D55E00", "--", "P"),
    ("#56B4E9", "-.", "X"),
    ("#8C6D1F", ":", "<"),
)


def page(title: str, about: Mapping[str, Any], *sections: str) -> str:
    """A report: what it is of, with which command, versions and machine it was made, and its sections."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    seconds = f"{about['wall_seconds']:.0f} s, without what it found done already"
    memory = f"; {about['peak_gib']:.1f} GiB at the peak" if about.get("peak_gib") else ""
    made_with = f"`{about['command']}`; {seconds}{memory}; {versions}; {about['machine']}."
    note = ["**A quick run shows that everything works. Its numbers mean nothing.**"] if about["quick"] else []
    return "\n\n".join([f"# {title}", *note, made_with, *sections]) + "\n"


def table(rows: Sequence[Row], level: float, baseline: str, **more: Mapping[str, str]) -> str:
    """A line for each method at a setting: means over seeds ± half of the 95 % interval.

    `more` are further columns, with a cell for each method.
    """
    head = ("method", "rate", "else", "old (%)", f"minus {baseline}", "steps", "grads", "s", "cosine", *more)
    lines = [[*_line(row), *(column[row.method] for column in more.values())] for row in rows]
    title = f"Old accuracy where the new accuracy first reaches {percent(level)} %"
    return "\n".join([title, "", *markdown_table([head, *lines])])


def _line(row: Row) -> list[str]:
    others = ", ".join(f"{name} {value:g}" for name, value in row.setting.items() if name != "rate")
    there = [f"not reached: {row.seeds - row.reached} of {row.seeds} seeds", *4 * [""]]
    if row.old is not None:
        gap, counts = plus_minus(row.difference, 100, "+"), (f"{row.steps:.0f}", f"{row.gradients:.0f}")
        there = [plus_minus(row.old, 100), gap, *counts, f"{row.seconds:.1f}"]
    cosine = f"{row.metrics['cosine']:+.2f}" if "cosine" in row.metrics else ""
    return [row.method, short_rate(row.rate), others, *there, cosine]


def save(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as a PNG, in one go."""
    write(path, lambda file: figure.savefig(file, format="png", dpi=dpi))


def plot(path: Path, panels: Mapping[str, Sequence[Run]], level: float, task: str) -> None:
    """Old against new accuracy along training, a panel for each title, as a PNG.

    A line is the mean over seeds of the old accuracy where each first reaches a level of new accuracy, as far as all
    seeds get; the band around it is one standard deviation. The axis of the new accuracy is logarithmic in the error,
    since that is where methods part.
    """
    runs = [run for each in panels.values() for run in each]
    # What is in every panel looks the same in all of them; the others share what styles are left.
    common = [method for method in _methods(runs) if all(method in _methods(shown) for shown in panels.values())]
    width = 1.2 + 4.4 * len(panels)
    figure = Figure(figsize=(width, 5.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, shown) in zip(axes, panels.items(), strict=True):
        methods = [*common, *(method for method in _methods(shown) if method not in common)]
        styles = dict(zip(methods, itertools.cycle(_STYLES), strict=False))
        for run in sorted(shown, key=lambda run: methods.index(run.method)):
            _draw(axis, run, level, styles[run.method])
        _dress(axis, runs, level, title)
    axes[0].set_ylim(top=min(axes[0].get_ylim()[1], 100.5))
    axes[0].set_ylabel("accuracy on the old task (%)")
    spread = f"mean and standard deviation over {len(runs[0].old)} seeds"
    title = f"What is kept of the old task while learning {task} ({spread})"
    figure.suptitle("\n".join(textwrap.wrap(title, int(10 * width))))
    if set(common) == set(_methods(runs)):
        handles = axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2 * len(panels), frameon=False)
    else:
        for axis in axes:
            axis.legend(loc="lower left", fontsize="small", framealpha=0.8)
    save(figure, path)


def _methods(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.method for run in runs))


def by_rate(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """A panel for each rate."""
    rates = dict.fromkeys(run.rate for run in runs)
    return {f"rate {short_rate(rate)}": [run for run in runs if run.rate == rate] for rate in rates}


def _draw(panel: Axes, run: Run, level: float, style: tuple[str, str, str]) -> None:
    colour, line, marker = style
    top = run.new.max(axis=1).min()
    levels = 1 - np.geomspace(max(1 - run.new[:, 0].max(), 1e-3), max(1 - top, 1e-3), 200)[:-1]
    olds = np.stack([crossing(run, each).old for each in levels], axis=1)
    mean, spread = olds.mean(axis=0), olds.std(axis=0, ddof=1)
    panel.plot(100 * levels, 100 * mean, color=colour, linestyle=line, linewidth=1.8, label=run.method)
    panel.fill_between(
        100 * levels, 100 * (mean - spread), 100 * (mean + spread), color=colour, alpha=0.13, linewidth=0
    )
    at = interval(crossing(run, level).old)
    if at:
        panel.plot(100 * level, 100 * at.mean, color=colour, marker=marker, markersize=7, markeredgecolor="white")


def _dress(panel: Axes, runs: Sequence[Run], level: float, title: str) -> None:
    start = 100 * runs[0].new[:, 0].mean(), 100 * runs[0].old[:, 0].mean()
    end = 100 * max(run.new.max(axis=1).min() for run in runs)
    panel.set_xscale("function", functions=(_stretch, _shrink))
    ticks = [tick for tick in (0, 20, 40, 60, 70, 80, 90, 100 * level, 97, 99) if start[0] - 8 <= tick <= end + 1]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    panel.set_title(title)
    panel.set_xlabel("accuracy on the new task (%)")
    panel.grid(alpha=0.25)
    panel.axvline(100 * level, color="0.4", linewidth=1, linestyle=(0, (2, 2)), label=f"compared at {percent(level)} %")
    panel.plot(*start, marker="*", markersize=13, color="0.3", linestyle="none", label="start: the old model", zorder=5)


def _stretch(accuracy: np.ndarray) -> np.ndarray:
    # One point of error is added, so that an accuracy of 100 % has a place.
    return -np.log(np.maximum(101 - accuracy, 0.1))


def _shrink(place: np.ndarray) -> np.ndarray:
    return 101 - np.exp(-place)
