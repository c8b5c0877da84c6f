"""The Markdown report: the paper's table beside ours, and which settings come near it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.commands import markdown_table
from benchmarks.forgetting.experiments.toy.paper import BEFORE, NEAR, TABLE, Errors, constant_errors, factor
from benchmarks.forgetting.experiments.toy.sweep import ONE_LINE, PROFITS, Plan, Result, Setting
from benchmarks.forgetting.report import headline
from profit_optax.compare.statistics import interval

_WITHOUT_RATIO = tuple(row for row in TABLE if row not in PROFITS)


def markdown(
    swept: Sequence[Result], final: Sequence[Result], setting: Setting, about: dict[str, Any], picture: str
) -> str:
    """The whole report.

    Args:
      swept: every row at every setting.
      final: the rows at the setting nearest to the paper, over more seeds.
      setting: that setting.
      about: the plans, the command, versions and machine.
      picture: the file of the heat maps.
    """
    n_sweep, n_final = len(swept[0].old), len(final[0].old)
    constant = constant_errors()
    over = f"means over {n_sweep} seeds" if n_sweep > 1 else "of one seed"
    lines = [
        "# The paper's toy problem (Table 1, C.1)",
        "",
        *headline(about),
        "",
        _explained(about["sweep_plan"]),
        "",
        f"## The rows at the setting nearest to the paper's four: {describe(setting)}",
        "",
        f"Mean squared error against noise-free targets; means over {n_final} seeds ± 95 % Student-t intervals. *Off*:"
        " the factor between the paper's and ours, of the worse of the two errors. Lagged is this project's own form,"
        f" and has no row in the paper. The best constant gets {constant.old:.3g} on the old square and"
        f" {constant.new:.3g} on the new one.",
        "",
        *markdown_table([["row", "old", "paper", "new", "paper", "off"], *map(_final_row, final)]),
        "",
        f"![truth and predictions]({picture})",
        "",
        "## What the paper leaves open",
        "",
        f"Errors old / new, {over}. Bold: both within a factor of {NEAR:g} of the paper's row.",
        "",
        *_rows_without_ratio(swept),
        "",
        "The paper's PROFIT row, in both ways of computing the displacement, with the factor that it is off by:",
        "",
        *_profit_rows(swept),
        "",
        *(f"- {sentence}" for sentence in sentences(swept)),
    ]
    return "\n".join([*lines, ""])


def sentences(results: Sequence[Result]) -> list[str]:
    """For each row of the paper, which settings come near it, and which comes nearest."""
    return [_sentence(row, [result for result in results if result.row == row]) for row in (*TABLE, PROFITS[1])]


def describe(place: Result | Setting) -> str:
    """A setting in words."""
    batch = f", batch {place.batch}" if place.batch else ""
    ratio = f", ratio {place.ratio:g}" if place.ratio else ""
    way = f", {place.profit}" if isinstance(place, Setting) and place.profit != PROFITS[0] else ""
    return f"{place.activation}{batch}{ratio}{way}"


def _explained(plan: Plan) -> str:
    size = plan.size
    return (
        f"{size.examples} training examples of each square; two layers of {size.width}; the old square for"
        f" {size.base_steps} steps of {size.base_batch} examples (the paper gives no batch size), the new one for"
        f" {plan.steps} steps. All else as in the paper."
    )


def _final_row(result: Result) -> list[str]:
    paper = _paper(result.row)
    cells = [_interval(result.old), f"{paper.old:g}" if paper else "", _interval(result.new)]
    cells += [f"{paper.new:g}", _off(result)] if paper else ["", ""]
    return [result.row, *cells]


def _interval(values: np.ndarray) -> str:
    found = interval(values)
    return f"{found.mean:.3g} ± {found.high - found.mean:.2g}" if found else "diverged"


def _rows_without_ratio(results: Sequence[Result]) -> list[str]:
    lines = [["activation", "batch", *_WITHOUT_RATIO, ONE_LINE]]
    before = {result.activation: result for result in results if result.row == BEFORE}
    places = dict.fromkeys((result.activation, result.batch) for result in results if result.batch)
    for activation, batch in places:
        at = [result for result in results if (result.activation, result.batch) == (activation, batch)]
        found = {BEFORE: before[activation]} | {result.row: result for result in at if result.ratio is None}
        lines.append([activation, str(batch), *(_errors(found[row]) for row in (*_WITHOUT_RATIO, ONE_LINE))])
    paper = [*(f"{TABLE[row].old:g} / {TABLE[row].new:g}" for row in _WITHOUT_RATIO), ""]
    return markdown_table([*lines, ["the paper", "?", *paper]])


def _profit_rows(results: Sequence[Result]) -> list[str]:
    lines = [["activation", "batch", "ratio", "PROFIT", "off", "subtracting", "off"]]
    places = [(result.activation, result.batch, result.ratio) for result in results if result.ratio is not None]
    for place in sorted(set(places), key=places.index):
        at = [result for result in results if (result.activation, result.batch, result.ratio) == place]
        found = {result.row: result for result in at}
        cells = [cell for row in PROFITS for cell in (_errors(found[row]), _off(found[row]))]
        lines.append([place[0], str(place[1]), f"{place[2]:g}", *cells])
    paper = TABLE[PROFITS[0]]
    return markdown_table([*lines, ["the paper", "?", "?", "", "", f"{paper.old:g} / {paper.new:g}", ""]])


def _errors(result: Result) -> str:
    paper = _paper(result.row)
    text = f"{result.errors.old:.3g} / {result.errors.new:.3g}"
    return f"**{text}**" if paper and factor(result.errors, paper) <= NEAR else text


def _off(result: Result) -> str:
    paper = _paper(result.row)
    return f"{factor(result.errors, paper):.3g}" if paper else ""


def _paper(row: str) -> Errors | None:
    return TABLE[PROFITS[0]] if row in PROFITS else TABLE.get(row)


def _sentence(row: str, results: Sequence[Result]) -> str:
    paper = _paper(row)
    if paper is None:
        raise ValueError(f"row is {row!r}, which the paper's table does not have.")
    offs = [factor(result.errors, paper) for result in results]
    near = [describe(result) for result, off in zip(results, offs, strict=True) if off <= NEAR]
    best = results[int(np.argmin(offs))]
    count = f"{len(near)} of {len(results)} settings come near the paper's {paper.old:g} / {paper.new:g}"
    which = f" ({'; '.join(near)})" if near else ""
    return (
        f"{row}: {count}{which}. Nearest: {best.errors.old:.3g} / {best.errors.new:.3g} at {describe(best)}, off by a"
        f" factor of {min(offs):.3g}."
    )
