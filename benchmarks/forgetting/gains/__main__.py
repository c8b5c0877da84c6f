"""The command: all places of the map, as a figure, a table and a JSON file."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import make_folder, markdown_table, or_quick, parse_names, plain, progress_bar
from benchmarks.forgetting.gains.figure import plot
from benchmarks.forgetting.gains.gain import EARLY, SHARE, Gain, Prediction, gain, level, predictions
from benchmarks.forgetting.gains.points import CENTRE, FACTORS, MAINS, RATES, Point, methods, points, task
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.runner import Trial, geometrically, run_all
from benchmarks.forgetting.summary import plus_minus, short_rate
from benchmarks.forgetting.tasks import start_scores

SEEDS, QUICK_SEEDS = 10, 2
# Gradients of a run at most at AdamW's lowest rate, three times what PROFIT needs at the centre.
GRADIENTS, QUICK_GRADIENTS = 2400, 16
EVALUATIONS = 60


def main(
    factors: Annotated[
        Any,
        typer.Option(
            parser=parse_names(FACTORS),
            metavar="FACTOR,FACTOR,...",
            help="What to vary.",
            show_default=",".join(FACTORS),
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="Paired seeds.", show_default=or_quick(SEEDS, QUICK_SEEDS))
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for map.md, .png, .json, and for the runs that a killed command goes on from.")
    ] = Path("out/map"),
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run, which measures nothing.")] = False,
) -> None:
    """Measure what PROFIT and its lagged form gain on the digits task, one factor varied at a time."""
    begin = time.perf_counter()
    make_folder(output)
    numbers = range(seeds or (QUICK_SEEDS if quick else SEEDS))
    places = [(factor, point) for factor in factors or FACTORS for point in points(factor)]
    gains: list[Gain] = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(places))
        for factor, point in places:
            value = getattr(point, factor)
            progress.update(bar, description=f"{factor} {value}")
            gains += _gains(factor, point, numbers, QUICK_GRADIENTS if quick else GRADIENTS, output / "runs")
            progress.update(bar, advance=1)
    about = {
        "quick": quick,
        "seeds": len(numbers),
        "centre": CENTRE._asdict(),
        "share": SHARE,
        "wall_seconds": time.perf_counter() - begin,
        **environment(),
    }
    _report(output, gains, about)


def _gains(factor: str, point: Point, seeds: Sequence[int], gradients: int, store: Path) -> list[Gain]:
    """The gains of both forms at one place, at every rate."""
    here, arms = task(point, seeds), methods(point)
    start = start_scores(here)
    asked = level(float(np.mean(start.new)), float(np.mean(start.old)))
    rates = [rate * MAINS[point.main].scale for rate in RATES]
    places = [(name, rate) for rate in rates for name in arms]
    trials = [
        Trial(
            arms[name],
            arms[name].setting(rate=rate, ratio=point.ratio),
            geometrically(max(1, round(gradients * rates[0] / rate) // arms[name].gradients), EVALUATIONS),
            until=asked,
        )
        for name, rate in places
    ]
    runs = dict(zip(places, run_all(here, trials, point.batch, store=store), strict=True))
    # The lagged form takes no reference steps that could be varied.
    forms = ("PROFIT",) if factor == "n_ref" else ("PROFIT", "lagged")
    return [
        gain(factor, point, rate, form, {name: runs[name, rate] for name in arms}, asked)
        for rate in rates
        for form in forms
    ]


def _report(output: Path, gains: list[Gain], about: dict[str, Any]) -> None:
    found = predictions(gains)
    (output / "map.json").write_text(
        json.dumps(plain({**about, "predictions": found, "gains": gains}, digits=6), allow_nan=False) + "\n",
        encoding="utf-8",
    )
    text = "\n".join([*_table(gains), "", _sentences(found, about)]) + "\n"
    (output / "map.md").write_text(text, encoding="utf-8")
    plot(output / "map.png", gains, found, about["seeds"])
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(text)
    console.print(f"Table: {output / 'map.md'}\nPicture: {output / 'map.png'}\nNumbers: {output / 'map.json'}")


def _table(gains: Sequence[Gain]) -> list[str]:
    numbers = ("level (%)", "gain", "over one gradient a step", "reached", "grads / alone", "early cosine")
    head = ("factor", "value", "rate", "form", *numbers)
    rows = [
        (
            each.factor,
            f"{each.value:g}" if isinstance(each.value, float | int) else each.value,
            short_rate(each.rate),
            each.form,
            f"{100 * each.level:.1f}",
            plus_minus(each.gain, "+z.1f") or "not reached",
            plus_minus(each.over_one, "+z.1f") or "not reached",
            f"{100 * each.reached:.0f} % (alone {100 * each.alone_reached:.0f} %)",
            "" if each.gradients is None else f"{each.gradients:.1f}",
            f"{each.cosine:+.2f}",
        )
        for each in gains
    ]
    return markdown_table([head, *rows])


def _sentences(found: Sequence[Prediction], about: dict[str, Any]) -> str:
    predicted = " ".join(map(_predicted, found)) or "Too few places reached the level for a correlation."
    return (
        f"Gains in points of old accuracy over the main optimizer alone at the same rate and as many gradients a step,"
        f" where both reach the level, over {about['seeds']} paired seeds ± 95 % Student-t intervals. The level lies"
        f" {SHARE:.0%} of the way from the old model's accuracy on the new task to its accuracy on the old one."
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
