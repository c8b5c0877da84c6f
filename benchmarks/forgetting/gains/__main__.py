"""The command: all places of the map, as a figure, a table and a JSON file."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import make_folder, or_quick, plain, progress_bar
from benchmarks.forgetting.gains.figure import plot
from benchmarks.forgetting.gains.gain import EARLY, SHARE, Gain, Prediction, gain, level, predictions
from benchmarks.forgetting.gains.points import CENTRE, FACTORS, MAINS, RATES, Point, methods, points, task
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.runner import Run, Trial, geometrically, run_all
from benchmarks.forgetting.summary import short_rate
from benchmarks.forgetting.tasks import Scores, Task

SEEDS, QUICK_SEEDS = 10, 2
# Gradients of a run at most at AdamW's lowest rate, three times what PROFIT needs at the centre.
GRADIENTS, QUICK_GRADIENTS = 2400, 16
EVALUATIONS = 60


def main(
    factors: Annotated[
        str, typer.Option(metavar="FACTOR,FACTOR,...", help="What to vary.", show_default=True)
    ] = ",".join(FACTORS),
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
    named = list(dict.fromkeys(name.strip() for name in factors.split(",")))
    unknown = [name for name in named if name not in FACTORS]
    if unknown:
        raise typer.BadParameter(f"{unknown} are none of {', '.join(FACTORS)}.", param_hint="--factors")
    make_folder(output)
    numbers = range(seeds or (QUICK_SEEDS if quick else SEEDS))
    places = [(factor, point) for factor in named for point in points(factor)]
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
    start = _start(here)
    asked = level(float(np.mean(start.new)), float(np.mean(start.old)))
    found = []
    for rate in RATES:
        longest = round(gradients * RATES[0] / rate)
        own = rate * MAINS[point.main].scale
        trials = [
            Trial(
                method,
                method.setting(rate=own, ratio=point.ratio),
                geometrically(max(1, longest // method.gradients), EVALUATIONS),
                until=asked,
            )
            for method in arms.values()
        ]
        runs: dict[str, Run] = dict(zip(arms, run_all(here, trials, point.batch, store=store), strict=True))
        # The lagged form takes no reference steps that could be varied.
        forms = ("PROFIT",) if factor == "n_ref" else ("PROFIT", "lagged")
        found += [gain(factor, point, own, form, runs, asked) for form in forms]
    return found


def _start(task: Task) -> Scores:
    return jax.device_get(jax.jit(jax.vmap(task.evaluate, in_axes=(0, None, 0)))(task.params, task.data, task.held_out))


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
            _points(each.gain),
            _points(each.over_one),
            f"{100 * each.reached:.0f} % (alone {100 * each.alone_reached:.0f} %)",
            "" if each.gradients is None else f"{each.gradients:.1f}",
            f"{each.cosine:+.2f}",
        )
        for each in gains
    ]
    return [f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows)]


def _points(gain: Any) -> str:
    return "not reached" if gain is None else f"{100 * gain.mean:+z.1f} ± {100 * (gain.high - gain.mean):.1f}"


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
