"""The Markdown report, the paper's table beside ours and which settings come near it, and the paper's figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.commands import markdown_table
from benchmarks.forgetting.experiments.toy.sweep import PROFITS, TABLE, Errors, Result, Setting
from benchmarks.forgetting.report import page, save
from benchmarks.forgetting.tasks.toy import NEW_SQUARE, OLD_SQUARE, truth
from profit_optax.compare.statistics import interval

# What "near the paper" means here: neither error is off by a larger factor.
NEAR = 1.5
# Of the figure: both squares and a little around them.
_RANGE = (-1.2, 1.6)


def markdown(
    swept: Sequence[Result], final: Sequence[Result], setting: Setting, about: dict[str, Any], picture: str
) -> str:
    """The whole report: the rows over more seeds at the setting nearest to the paper, and the sweep that led there."""
    n_sweep, n_final = len(swept[0].old), len(final[0].old)
    constant, plan = constant_errors(), about["sweep_plan"]
    size = plan.size
    over = f"means over {n_sweep} seeds" if n_sweep > 1 else "of one seed"
    return page(
        "The paper's toy problem (Table 1, C.1)",
        about,
        f"{size.examples} training examples of each square; two layers of {size.width}; the old square for"
        f" {size.base_steps} steps of {size.base_batch} examples (the paper gives no batch size), the new one for"
        f" {plan.steps} steps. All else as in the paper.",
        f"## The rows at the setting nearest to the paper's four: {describe(setting)}",
        f"Mean squared error against noise-free targets; means over {n_final} seeds ± 95 % Student-t intervals. *Off*:"
        " the factor between the paper's and ours, of the worse of the two errors. The one line is this project's own,"
        f" and has no row in the paper. The best constant gets {constant.old:.3g} on the old square and"
        f" {constant.new:.3g} on the new one.",
        "\n".join(markdown_table([["row", "old", "paper", "new", "paper", "off"], *map(_final_row, final)])),
        f"![truth and predictions]({picture})",
        "## What the paper leaves open",
        f"Errors old / new, {over}. Bold: both within a factor of {NEAR:g} of the paper's row.",
        "\n".join(_rows_without_ratio(swept)),
        "The paper's PROFIT row, in both ways of computing the displacement, with the factor that it is off by:",
        "\n".join(_profit_rows(swept)),
        "\n".join(f"- {sentence}" for sentence in sentences(swept)),
    )


def sentences(results: Sequence[Result]) -> list[str]:
    """For each row of the paper, which settings come near it, and which comes nearest."""
    found = []
    for row in (*TABLE, PROFITS[1]):
        of_row = [result for result in results if result.row == row]
        if not of_row:
            continue
        near = [describe(result) for result in of_row if result.off <= NEAR]
        which = f" ({'; '.join(near)})" if near else ""
        best = min(of_row, key=lambda result: result.off)
        found.append(
            f"{row}: {len(near)} of {len(of_row)} settings come near the paper's {_pair(best.paper, 'g')}{which}."
            f" Nearest: {_pair(best.errors)} at {describe(best)}, off by a factor of {best.off:.3g}."
        )
    return found


def describe(place: Result | Setting) -> str:
    """A setting in words."""
    batch = f", batch {place.batch}" if place.batch else ""
    ratio = f", ratio {place.ratio:g}" if place.ratio else ""
    way = f", {place.profit}" if isinstance(place, Setting) and place.profit != PROFITS[0] else ""
    return f"{place.activation}{batch}{ratio}{way}"


def constant_errors() -> Errors:
    """The errors of the best constant on each square, which is what a model gets that learns nothing but a mean."""
    variances = []
    for low, high in (OLD_SQUARE, NEW_SQUARE):
        side = np.linspace(low, high, 1_000, dtype=np.float32)
        points = np.stack(np.meshgrid(side, side), axis=-1)
        variances.append(float(np.var(truth(jnp.asarray(points)))))
    return Errors(*variances)


def _final_row(result: Result) -> list[str]:
    old, new = (interval(values) for values in (result.old, result.new))
    shown = [f"{x.mean:.3g} ± {x.high - x.mean:.2g}" if x else "diverged" for x in (old, new)]
    paper = [f"{x:g}" for x in result.paper] if result.paper else ["", ""]
    return [result.row, shown[0], paper[0], shown[1], paper[1], _off(result)]


def _rows_without_ratio(results: Sequence[Result]) -> list[str]:
    names = list(dict.fromkeys(result.row for result in results if result.ratio is None))
    lines = [["activation", "batch", *names]]
    for activation, batch in dict.fromkeys((result.activation, result.batch) for result in results if result.batch):
        at = [result for result in results if result.activation == activation and result.batch in (None, batch)]
        found = {result.row: _errors(result) for result in at}
        lines.append([activation, str(batch), *(found[row] for row in names)])
    paper = [_pair(TABLE[row], "g") if row in TABLE else "" for row in names]
    return markdown_table([*lines, ["the paper", "?", *paper]])


def _profit_rows(results: Sequence[Result]) -> list[str]:
    ways = [way for way in PROFITS if any(result.row == way for result in results)]
    lines = [["activation", "batch", "ratio", *(cell for way in ways for cell in (way.split(", ")[-1], "off"))]]
    places = [(result.activation, result.batch, result.ratio) for result in results if result.row in ways]
    for place in dict.fromkeys(places):
        at = {each.row: each for each in results if (each.activation, each.batch, each.ratio) == place}
        cells = [cell for way in ways for cell in (_errors(at[way]), _off(at[way]))]
        lines.append([place[0], str(place[1]), f"{place[2]:g}", *cells])
    # The paper subtracts.
    paper = [cell for way in ways for cell in ("" if way == PROFITS[0] else _pair(TABLE[PROFITS[0]], "g"), "")]
    return markdown_table([*lines, ["the paper", "?", "?", *paper]])


def _errors(result: Result) -> str:
    text = _pair(result.errors)
    return f"**{text}**" if result.off <= NEAR else text


def _off(result: Result) -> str:
    return f"{result.off:.3g}" if result.paper else ""


def _pair(errors: Errors | None, style: str = ".3g") -> str:
    return " / ".join(f"{error:{style}}" for error in errors or ())


def grid(points: int) -> np.ndarray:
    """`points` x `points` places over both squares, [points², 2]."""
    side = np.linspace(*_RANGE, points, dtype=np.float32)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def draw(path: Path, maps: Mapping[str, np.ndarray], title: str) -> None:
    """A heat map for the truth and for what each row's model predicts on `grid`, as a PNG."""
    columns = -(-len(maps) // 2)
    figure = Figure(figsize=(3.3 * columns + 0.8, 7.2), layout="constrained")
    panels = figure.subplots(2, columns, sharex=True, sharey=True).ravel()
    for panel, (name, values) in zip(panels, maps.items(), strict=False):
        side = round(len(values) ** 0.5)
        image = values.reshape(side, side)
        panel.imshow(image, origin="lower", extent=(*_RANGE, *_RANGE), vmin=-1.0, vmax=1.0, cmap="coolwarm")
        for (low, high), style in ((OLD_SQUARE, "-"), (NEW_SQUARE, "--")):
            panel.add_patch(Rectangle((low, low), high - low, high - low, fill=False, linestyle=style, linewidth=1.2))
        panel.set_title(name)
    for panel in panels[len(maps) :]:
        panel.set_axis_off()
    figure.colorbar(panels[0].images[0], ax=panels.tolist(), shrink=0.6, extend="both")
    figure.suptitle(title)
    save(figure, path, dpi=110)
