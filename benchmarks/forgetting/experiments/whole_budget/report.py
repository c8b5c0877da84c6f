"""Tables of what stands at the end of the budget, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.commands import markdown_table
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import (
    LOWER,
    TUNING_SEED,
    Failed,
    Final,
    Finals,
    Outcome,
    Plan,
    best,
)
from profit_optax.compare import Comparison, Curve, Interval
from profit_optax.compare.formats import short_rate
from profit_optax.compare.report import as_text, table
from profit_optax.compare.statistics import interval
from profit_optax.compare.summary import level_rows


class Score(NamedTuple):
    """A column.

    Attributes:
      title: its head.
      name: the score's name in `Task.evaluate`.
      scale: what it is multiplied by: 100 for percent, -1 for an error, which a score has with a minus.
      places: decimals.
    """

    title: str
    name: str
    scale: float = 100.0
    places: int = 1


def protocol(plan: Plan, batches: str, ratio: float, n_ref: int = 1, like: str = "") -> str:
    """How long a run is, what its methods share, and what stands in the tables.

    Args:
      plan: what is run.
      batches: what one gradient is computed on.
      ratio: PROFIT's main rate over its reference rate.
      n_ref: its reference steps.
      like: whose n_ref and ratio these are, as a phrase behind the ratio.
    """
    text = f"A run takes {plan.size.gradients:,} gradients on {batches}, at a rate that falls along a cosine to 0."
    names = [method.name for method in plan.methods]
    warmup = f"a warm-up of {arms.WARMUP:.0%} of AdamW alone"
    if "PROFIT" in names:
        text += (
            f" PROFIT has n_ref {n_ref}, λ_main/λ_ref = {ratio:,g}{like} and {warmup}, whose steps also take"
            f" {n_ref + 1} gradients, of which AdamW uses only the last."
        )
    if "one line" in names:
        text += f" *one line*, which is ours, is `orthogonalize_to_previous` before AdamW, after {warmup}."
    return text + (
        f" Means over {len(plan.seeds)} seeds ± half of the 95 % Student-t interval; differences are paired by seed."
    )


def tables(outcome: Outcome, plan: Plan, scores: Sequence[Score], paper: Mapping[str, str]) -> str:
    """The whole budget, as many steps as PROFIT takes, old at equal new where there are curves, and the tuning.

    Args:
      outcome: what was measured.
      plan: what was asked for.
      scores: the columns; each has one for its difference to the baseline behind it.
      paper: the paper's figures, by method.
    """
    start = outcome.whole.about["start"]
    begin = ", ".join(f"{score.title} {_number(start[score.name], score)}" for score in scores)
    text = [
        f"Before fine-tuning: {begin}.",
        f"### The whole budget: {plan.size.gradients:,} gradients",
        _table(outcome.whole, scores, paper, failed=outcome.failed),
    ]
    if outcome.fewer:
        beside = [curve for curve in outcome.whole.curves if curve.method == plan.steps_of.name]
        text += [
            f"### As many steps as {plan.steps_of.name}: {plan.fewer_gradients:,} gradients",
            _table(outcome.fewer, scores, {}, beside, outcome.failed_fewer),
        ]
    if plan.size.evaluations > 1:
        text += ["### Old at equal new", _read_off(outcome.whole), _block(outcome.whole.table())]
        text += _where_it_ends(outcome.whole, plan)
    text += ["### Tuning: one seed", _tuning(outcome.tried, scores), _picked(outcome, plan)]
    return "\n\n".join(text)


def _where_it_ends(comparison: Comparison, plan: Plan) -> list[str]:
    """The same at the score that PROFIT ends with: levels of the baseline's may be beyond it."""
    name = plan.steps_of.name
    ends = [float(curve.new[:, -1].min()) for curve in comparison.curves if curve.method == name]
    if not ends or ends[0] <= comparison.about["start"]["new"]:
        return []
    rows = level_rows(comparison.curves, ends[0], comparison.baseline)
    explained = f"And at the new score with which {name} ends, on the seed on which it learns least:"
    return [explained, _block(as_text(table(rows, ends, comparison.baseline)))]


def _read_off(comparison: Comparison) -> str:
    """How fine the curves are that scores at equal new stand on, and what a sign means there."""
    baseline = next(curve for curve in comparison.curves if curve.method == comparison.baseline)
    *before, last = (f"{count:,}" for count in baseline.gradients[1:])
    text = (
        "Each method where it first gets there, on straight lines between scores: those of one gradient a step are"
        f" taken after {', '.join(before)} and {last} gradients. Higher is better, and so errors have a minus."
    )
    if any(curve.along != "steps" for curve in comparison.curves):
        text += " WiSE-FT lies on the straight line between the scores of its two ends, which alone were scored."
    return text


def _block(text: str) -> str:
    lines = text.strip("\n")
    return f"```\n{lines}\n```"


def _table(
    comparison: Comparison,
    scores: Sequence[Score],
    paper: Mapping[str, str],
    beside: Sequence[Curve] = (),
    failed: Sequence[Failed] = (),
) -> str:
    minus = f"minus {comparison.baseline}"
    titles = [title for score in scores for title in (score.title, minus)]
    head = ["method", "rate", "gradients", "steps", *titles, *(["the paper"] if paper else [])]
    baseline = next(curve for curve in comparison.curves if curve.method == comparison.baseline)
    lines = [_line(curve, baseline, scores, paper) for curve in (*comparison.curves, *beside)]
    for method, rate in failed:
        cells = [method, short_rate(rate), "", "", "not finite on a seed"]
        lines.append([*cells, *[""] * (len(head) - len(cells))])
    return "\n".join(markdown_table([head, *lines]))


def _line(curve: Curve, baseline: Curve, scores: Sequence[Score], paper: Mapping[str, str]) -> list[str]:
    trains = curve.along == "steps"
    cells = [short_rate(curve.rate) if trains else "", f"{curve.gradients[-1]:,}"]
    cells.append(f"{curve.positions[-1]:,.0f}" if trains else "")
    for score in scores:
        own, other = (_finals(each, score.name) for each in (curve, baseline))
        cells.append(_plus_minus(interval(own), score))
        cells.append("" if curve is baseline else _plus_minus(interval(own - other), score, "+z"))
    return [curve.method, *cells, *([paper.get(curve.method, "")] if paper else [])]


def _finals(curve: Curve, name: str) -> np.ndarray:
    values = {"old": curve.old, "new": curve.new, **curve.others}[name]
    return values[:, -1]


def _plus_minus(value: Interval | None, score: Score, sign: str = "") -> str:
    if value is None:
        return ""
    half = abs(score.scale) * (value.high - value.mean)
    spread = f" ± {half:.{score.places}f}" if np.isfinite(half) else ""
    return f"{score.scale * value.mean:{sign}.{score.places}f}{spread}"


def _number(value: float, score: Score) -> str:
    return f"{score.scale * value:.{score.places}f}"


def _tuning(tried: dict[str, Finals], scores: Sequence[Score]) -> str:
    """What both tasks came to at each rate, so that a lower rate can be told from another method."""
    shown = [score for score in scores if score.name in Final._fields]
    columns = max(len(finals) for finals in tried.values())

    def cell(rate: float, final: Final, picked: bool) -> str:
        if final.new == -np.inf:
            return f"{short_rate(rate)}: not finite"
        text = f"{short_rate(rate)}: " + ", ".join(_number(getattr(final, score.name), score) for score in shown)
        return f"**{text}**" if picked else text

    lines = []
    for method, finals in tried.items():
        cells = [cell(rate, final, rate == best(finals)) for rate, final in finals.items()]
        lines.append([method, *cells, *[""] * (columns - len(cells))])
    head = ["method", f"rate: {', '.join(score.title for score in shown)}", *[""] * (columns - 1)]
    return "\n".join(markdown_table([head, *lines]))


def _picked(outcome: Outcome, plan: Plan) -> str:
    """How rates were picked, which were not finite, and which picks lie at an edge of what was tried."""
    factors = ", ".join(f"{each.name} times {each.rate_factor:g}" for each in plan.methods if each.rate_factor != 1)
    factors = f" ({factors})" if factors else ""
    edges, failed, lower = [], [], False
    for where, tried in (("", outcome.tried), (" at fewer gradients", outcome.tried_fewer)):
        for method, finals in tried.items():
            picked = best(finals)
            if picked in (min(finals), max(finals)) and len(plan.size.rates) > 1:
                edges.append(
                    f"{method} ({short_rate(picked)}, the {'lowest' if picked == min(finals) else 'highest'}{where})"
                )
            failed += [f"{method} at {short_rate(rate)}{where}" for rate in finals if finals[rate].new == -np.inf]
            lower |= len(finals) > len(plan.size.rates)
    rates = ", ".join(short_rate(rate) for rate in plan.size.rates)
    text = (
        f"Each method's rate is the one with the best new score at the end of a run on seed {TUNING_SEED}, on held-out"
        f" training data, out of {rates}{factors}, of equals the lowest; what was left of the old task had no say."
    )
    if failed:
        text += f" Not finite, and so below all others: {', '.join(failed)}."
    if lower:
        parts = " and then ".join(f"{part:g}" for part in LOWER)
        text += f" Where none was finite, {parts} of the lowest rate was tried."
    at_same = [each for each in plan.ablations if each.share == 1]
    for name in dict.fromkeys(each.of.name for each in at_same):
        text += f" At the rate of {name}: {'; '.join(each.method.name for each in at_same if each.of.name == name)}."
    return text + (f" At an edge of what was tried: {', '.join(edges)}." if edges else "")
