"""The command: all places of the map, as a figure, a table and a JSON file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from benchmarks.commands import markdown_table, parse_names
from benchmarks.forgetting.command import Output, Quick, job, seeds_option
from benchmarks.forgetting.experiments.map.figure import plot
from benchmarks.forgetting.experiments.map.gain import EARLY, SHARE, Gain, Prediction, gain, level, predictions
from benchmarks.forgetting.experiments.map.places import MAPS, Map, Point, Unit
from benchmarks.forgetting.report import made_with
from benchmarks.forgetting.runner import Trial, geometrically, run_all
from benchmarks.forgetting.tasks import start_scores
from profit_optax.compare.formats import plus_minus, short_rate

SEEDS, QUICK_SEEDS = 10, 2
QUICK_GRADIENTS = 16
EVALUATIONS = 60


def main(
    task: Annotated[Literal["digits", "toy"], typer.Option(help="What is learnt.")] = "digits",
    factors: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR,FACTOR,...",
            help="What to vary.",
            show_default="; ".join(f"{','.join(mapped.factors)} for {task}" for task, mapped in MAPS.items()),
        ),
    ] = None,
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    output: Output = Path("out/map"),
    quick: Quick = False,
) -> None:
    """Measure what PROFIT and its one line gain on a task, one factor varied at a time."""
    mapped = MAPS[task]
    names = tuple(mapped.factors) if factors is None else parse_names(mapped.factors, "--factors")(factors)
    numbers = range(seeds or (QUICK_SEEDS if quick else SEEDS))
    places = [(factor, point) for factor in names for point in mapped.points(factor)]
    gains: list[Gain] = []
    with job(mapped.name, output, quick) as work:
        with work.bar(len(places)) as bar:
            for factor, point in places:
                bar(f"{factor} {getattr(point, factor)}", 0)
                gains += _gains(mapped, factor, point, numbers, work.runs, quick)
                bar(factor, 1)
        found = predictions(gains)
        about = work.about(task=task, seeds=len(numbers), centre=mapped.centre._asdict(), share=SHARE)
        text = "\n".join([*_table(gains, mapped.unit), "", _sentences(found, about, mapped.unit)]) + "\n"
        content = {**about, "predictions": found, "gains": gains}
        work.write(content, text, lambda path: plot(path, mapped, gains, found, len(numbers)))
        work.show(text)


def _gains(mapped: Map, factor: str, point: Point, seeds: Sequence[int], store: Path, quick: bool) -> list[Gain]:
    """The gains of both forms at one place, at every rate."""
    here, arms, rates = mapped.task(point, seeds, store, quick), mapped.methods(point), mapped.rates(point)
    start = start_scores(here)
    asked = level(float(np.mean(start.new)), float(np.mean(start.old)))
    gradients = QUICK_GRADIENTS if quick else mapped.gradients
    places = [(name, rate) for rate in rates for name in arms]
    trials = [
        Trial(
            arms[name],
            arms[name].setting(rate=rate, ratio=point.ratio, decay=0.0),
            geometrically(max(1, round(gradients * rates[0] / rate) // arms[name].gradients), EVALUATIONS),
            until=asked,
        )
        for name, rate in places
    ]
    runs = dict(zip(places, run_all(here, trials, point.batch, store=store), strict=True))
    # The one line takes no reference steps that could be varied.
    forms = ("PROFIT",) if factor == "n_ref" else ("PROFIT", "one line")
    return [
        gain(factor, point, rate, form, {name: runs[name, rate] for name in arms}, asked)
        for rate in rates
        for form in forms
    ]


def _table(gains: Sequence[Gain], unit: Unit) -> list[str]:
    gain_heads = (f"gain ({unit.gain})", "over one gradient a step")
    head = ("factor", "value", "rate", "form", unit.level, *gain_heads, "reached", "grads / alone", "early cosine")
    rows = [
        (
            each.factor,
            f"{each.value:g}" if isinstance(each.value, float | int) else each.value,
            short_rate(each.rate),
            each.form,
            f"{unit.level_scale * each.level:.{unit.decimals}f}",
            plus_minus(each.gain, unit.gain_scale, "+", unit.decimals) or "not reached",
            plus_minus(each.over_one, unit.gain_scale, "+", unit.decimals) or "not reached",
            f"{100 * each.reached:.0f} % (alone {100 * each.alone_reached:.0f} %)",
            "" if each.gradients is None else f"{each.gradients:.1f}",
            f"{each.cosine:+.2f}",
        )
        for each in gains
    ]
    return markdown_table([head, *rows])


def _sentences(found: Sequence[Prediction], about: dict[str, Any], unit: Unit) -> str:
    predicted = " ".join(map(_predicted, found)) or "Too few places reached the level for a correlation."
    return (
        f"Gains in {unit.gains} over the main optimizer alone at the same rate and as many gradients a step,"
        f" where both reach the level, over {about['seeds']} paired seeds ± 95 % Student-t intervals. The level lies"
        f" {SHARE:.0%} of the way from the old model's {unit.score} on the new task to its {unit.score} on the old one."
        f" {predicted} {made_with(about)}"
    )


def _predicted(found: Prediction) -> str:
    text = (
        f"{found.form}: Spearman's rank correlation of the cosine over the first {EARLY} steps with the gain is"
        f" {found.rank_correlation:+.2f} [{found.low:+.2f}, {found.high:+.2f}] over {found.places} places and rates."
    )
    if found.collapse_auc is None:
        return text
    return (
        f"{text} Where the main optimizer alone reaches the level, a run that does not has the lower early cosine in"
        f" {100 * found.collapse_auc:.0f} % of its pairs with runs that do."
    )
