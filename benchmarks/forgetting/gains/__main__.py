"""The command: all places of the map, as a figure, a table and a JSON file."""

import json
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import make_folder, markdown_table, or_quick, parse_names, plain, progress_bar
from benchmarks.forgetting.gains.digits import DIGITS
from benchmarks.forgetting.gains.figure import plot
from benchmarks.forgetting.gains.gain import EARLY, SHARE, Gain, Prediction, gain, level, predictions
from benchmarks.forgetting.gains.points import Map, Point, Unit, points
from benchmarks.forgetting.gains.toy import TOY
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.runner import Trial, geometrically, run_all
from benchmarks.forgetting.summary import plus_minus, short_rate
from benchmarks.forgetting.tasks import start_scores

SEEDS, QUICK_SEEDS = 10, 2
QUICK_GRADIENTS = 16
EVALUATIONS = 60


class Choice(StrEnum):
    """What is learnt."""

    DIGITS = "digits"
    TOY = "toy"


MAPS = {Choice.DIGITS: DIGITS, Choice.TOY: TOY}
OUTPUTS = {Choice.DIGITS: Path("out/map"), Choice.TOY: Path("out/map_toy")}


def _by_task(defaults: Mapping[Choice, Any]) -> str:
    """How an option's help shows a default that depends on --task."""
    return "; ".join(f"{default} for {task}" for task, default in defaults.items())


def main(
    task: Annotated[Choice, typer.Option(help="What is learnt.")] = Choice.DIGITS,
    factors: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR,FACTOR,...",
            help="What to vary.",
            show_default=_by_task({task: ",".join(mapped.factors) for task, mapped in MAPS.items()}),
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Paired seeds.", show_default=or_quick(SEEDS, QUICK_SEEDS))
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for map.md, .png, .json, and for the runs that a killed command goes on from.",
            show_default=_by_task(OUTPUTS),
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run, which measures nothing.")] = False,
) -> None:
    """Measure what PROFIT and its one line gain on a task, one factor varied at a time."""
    begin = time.perf_counter()
    mapped = MAPS[task]
    names = tuple(mapped.factors) if factors is None else parse_names(mapped.factors, "--factors")(factors)
    output = output or OUTPUTS[task]
    make_folder(output)
    numbers = range(seeds or (QUICK_SEEDS if quick else SEEDS))
    places = [(factor, point) for factor in names for point in points(mapped, factor)]
    gains: list[Gain] = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(places))
        for factor, point in places:
            value = getattr(point, factor)
            progress.update(bar, description=f"{factor} {value}")
            gains += _gains(mapped, factor, point, numbers, output / "runs", quick)
            progress.update(bar, advance=1)
    about = {
        "task": task,
        "quick": quick,
        "seeds": len(numbers),
        "centre": mapped.centre._asdict(),
        "share": SHARE,
        "wall_seconds": time.perf_counter() - begin,
        **environment(),
    }
    _report(output, mapped, gains, about)


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


def _report(output: Path, mapped: Map, gains: list[Gain], about: dict[str, Any]) -> None:
    found = predictions(gains)
    (output / "map.json").write_text(
        json.dumps(plain({**about, "predictions": found, "gains": gains}, digits=6), allow_nan=False) + "\n",
        encoding="utf-8",
    )
    text = "\n".join([*_table(gains, mapped.unit), "", _sentences(found, about, mapped.unit)]) + "\n"
    (output / "map.md").write_text(text, encoding="utf-8")
    plot(output / "map.png", mapped, gains, found, about["seeds"])
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(text)
    console.print(f"Table: {output / 'map.md'}\nPicture: {output / 'map.png'}\nNumbers: {output / 'map.json'}")


def _table(gains: Sequence[Gain], unit: Unit) -> list[str]:
    decimals = f".{unit.decimals}f"
    gain_heads = (f"gain ({unit.gain})", "over one gradient a step")
    head = ("factor", "value", "rate", "form", unit.level, *gain_heads, "reached", "grads / alone", "early cosine")
    rows = [
        (
            each.factor,
            f"{each.value:g}" if isinstance(each.value, float | int) else each.value,
            short_rate(each.rate),
            each.form,
            f"{unit.level_scale * each.level:{decimals}}",
            plus_minus(each.gain, f"+z{decimals}", unit.gain_scale) or "not reached",
            plus_minus(each.over_one, f"+z{decimals}", unit.gain_scale) or "not reached",
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
        f" {predicted} {about['machine']}; {', '.join(f'{k} {v}' for k, v in about['versions'].items())};"
        f" {about['wall_seconds']:.0f} s, without what was done before."
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


if __name__ == "__main__":
    typer.run(main)
