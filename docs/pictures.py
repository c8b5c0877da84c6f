"""The site's pictures: a step drawn, and the committed results as plots. `python -m docs.pictures` draws them anew.

No number is written down here. The step is computed with this package; everything else is read from the tables in
`benchmarks/results`. The pictures are committed, so that a host of repositories shows them as well; each carries a
digest of what is drawn, by which a test sees that it is of the present results.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from profit_optax import orthogonalize

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
PICTURES = Path(__file__).parent / "pictures"
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
# Of the map's factors, those that a user chooses. "lagged" is what the results call the form at one gradient a step.
FACTORS = {
    "n_ref": "n_ref",
    "ratio": "λ_main / λ_ref",
    "batch": "examples in a batch",
    "angle": "rotation of the new task (degrees)",
    "base_steps": "steps for which the old model was trained",
}
FORMS = {"PROFIT": (BLUE, "o"), "lagged": (GREEN, "s")}

Row = Mapping[str, str]


def table(text: str) -> list[Row]:
    """The rows of the first Markdown table in a text, by the names of its columns."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    cells = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def mean_and_half(cell: str) -> tuple[float, float] | None:
    """What "+0.8 ± 0.4" says; None for a level that was not reached. A remark may follow."""
    found = re.match(r"([+-]?[\d.]+) ± ([\d.]+)", cell)
    return (float(found[1]), float(found[2])) if found else None


def one_step() -> Figure:
    """One step of PROFIT on two weights, computed with this package."""
    theta = jnp.array([0.0, 0.0])
    # What two batches ask for, and how sharply: each loss is (θ - target)² along each weight.
    first, second, sharpness = jnp.array([2.2, 0.6]), jnp.array([1.5, 1.9]), jnp.array([1.0, 1.0])
    delta = -0.24 * jax.grad(lambda p: jnp.sum(sharpness * (p - first) ** 2))(theta)
    gradient = jax.grad(lambda p: jnp.sum(sharpness * (p - second) ** 2))(theta + delta)
    projected, metrics = orthogonalize(gradient, delta)
    assert bool(metrics.conflict), "the step that is drawn must have a conflict"
    main = -0.42 * projected
    figure = Figure(figsize=(8, 4.3), layout="constrained")
    axes = figure.subplots()
    displaced = theta + delta
    removed = -0.42 * (gradient - projected)
    _arrow(axes, theta, displaced, BLUE, "1. Δ: the reference step on batch 1", (-0.1, -0.22))
    _arrow(axes, displaced, displaced - 0.42 * gradient, GREY, "2. −g: what batch 2 asks for there", (0.06, 0.0))
    _arrow(axes, displaced, displaced + removed, ORANGE, "3. the part along Δ,\nwhich is removed", (0.0, -0.3), "--")
    _arrow(axes, displaced, displaced + main, GREEN, "4. what is left", (-0.6, 0.1))
    _arrow(axes, theta, theta + main, GREEN, "5. θ is put back, and the\nmain step is taken there", (-1.0, -0.12))
    for point, name, shift in (
        (theta, "θ", (-14, -4)),
        (displaced, "θ + Δ", (-32, 4)),
        (theta + main, "next θ", (-44, 0)),
    ):
        axes.plot(*np.asarray(point), "o", color="black", markersize=5, zorder=5)
        axes.annotate(name, tuple(np.asarray(point)), shift, textcoords="offset points")
    axes.set_aspect("equal")
    axes.margins(x=0.12, y=0.14)
    axes.set_axis_off()
    return figure


def _arrow(axes: Axes, tail: Any, head: Any, colour: str, label: str, shift: Any, line: str = "-") -> None:
    tail, head = np.asarray(tail), np.asarray(head)
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "linestyle": line, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", head, tail, arrowprops=style)
    x, y = (tail + head) / 2 + shift
    axes.text(x, y, label, color=colour, fontsize=9.5)
    axes.plot(*np.stack([tail, head]).T, alpha=0)


def factor(name: str) -> Figure:
    """What PROFIT keeps more of the old task than its main optimizer at the same rate, as one factor varies."""
    rows = [row for row in table((RESULTS / "map.md").read_text(encoding="utf-8")) if row["factor"] == name]
    values = list(dict.fromkeys(row["value"] for row in rows))
    rates = list(dict.fromkeys(row["rate"] for row in rows))
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    grid = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, rate in zip(grid, rates, strict=True):
        here = [row for row in rows if row["rate"] == rate]
        forms = [form for form in FORMS if any(row["form"] == form for row in here)]
        for form, shift in zip(forms, (-0.08, 0.08) if len(forms) > 1 else (0.0,), strict=True):
            colour, marker = FORMS[form]
            chosen = [row for row in here if row["form"] == form]
            label = "PROFIT" if form == "PROFIT" else "one gradient a step"
            _errorbars(axes, values, chosen, shift, label, colour, marker)
        axes.axhline(0, color="0.4", linewidth=1)
        axes.set_xticks(range(len(values)), values)
        axes.set_title(f"AdamW at {rate}", fontsize="medium")
        axes.set_xlabel(FACTORS[name])
        axes.grid(axis="y", alpha=0.25)
    grid[0].set_ylabel("kept more than AdamW (points)")
    # Above all bars: legends on the panels would hide some.
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _errorbars(
    axes: Axes, values: Sequence[str], rows: Sequence[Row], shift: float, label: str, colour: str, marker: str
) -> None:
    found = [(values.index(row["value"]) + shift, mean_and_half(row["gain (points)"])) for row in rows]
    reached = [(x, *gain) for x, gain in found if gain]
    if reached:
        x, y, half = zip(*reached, strict=True)
        axes.errorbar(x, y, yerr=half, color=colour, marker=marker, linestyle="none", capsize=3, label=label)
    missing = [x for x, gain in found if not gain]
    if missing:
        axes.plot(missing, [0.04] * len(missing), "x", color=colour, transform=axes.get_xaxis_transform(), zorder=4)
        axes.plot([], [], "x", color=colour, label=f"{label}: not reached by every seed")


def warmup() -> Figure:
    """The new task's accuracy after as many steps, with and without warm-up, task by task and rate by rate."""
    text = (RESULTS / "warmup.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+) \(the old models get .+\)$", text, flags=re.MULTILINE)
    tasks = dict(zip(parts[1::2], map(table, parts[2::2]), strict=True))
    methods = {"AdamW": (GREY, "o"), "PROFIT": (BLUE, "s"), "PROFIT, warmed up": (ORANGE, "D")}
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    labels: list[str] = []
    for task, rows in tasks.items():
        for rate in dict.fromkeys(row["rate"] for row in rows):
            for shift, (method, (colour, marker)) in zip((-0.2, 0.0, 0.2), methods.items(), strict=True):
                row = next(row for row in rows if (row["rate"], row["method"]) == (rate, method))
                mean, half = mean_and_half(row["new, equal steps"]) or (np.nan, 0)
                label = method if not labels else None
                at = len(labels) + shift
                axes.errorbar(
                    mean, at, xerr=half, color=colour, marker=marker, linestyle="none", capsize=2, label=label
                )
            labels.append(f"{task.replace(' by 35 degrees', '')}, {rate}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on the new task after as many steps (%)")
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def figures() -> dict[str, Figure]:
    """Every picture, by its name."""
    return {"one_step": one_step(), "warmup": warmup()} | {name: factor(name) for name in FACTORS}


def digest(figure: Figure) -> str:
    """Of what a figure shows, whichever release of matplotlib puts it on paper."""
    shown: list[Any] = []
    for axes in figure.axes:
        shown += [[text.get_text() for text in axes.texts], axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        shown += [[label.get_text() for label in axis.get_ticklabels()] for axis in (axes.xaxis, axes.yaxis)]
        points = [line.get_xydata() for line in axes.lines]
        points += [path.vertices for collection in axes.collections for path in collection.get_paths()]
        shown += [np.asarray(x, np.float64).round(3).tolist() for x in points]
    return hashlib.sha256(repr(shown).encode()).hexdigest()


def draw(folder: Path) -> None:
    """Write every picture into a folder, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "profit_optax"}):
        for name, figure in figures().items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Identifier": digest(figure)})


if __name__ == "__main__":
    draw(PICTURES)
