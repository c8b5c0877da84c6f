"""The command: all places of the map, as a figure, a table and a JSON file."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from benchmarks.commands import markdown_table
from benchmarks.forgetting.command import Experiment, Job, named
from benchmarks.forgetting.experiments.map.figure import plot
from benchmarks.forgetting.experiments.map.gain import EARLY, SHARE, Gain, Prediction, gain, level, predictions
from benchmarks.forgetting.experiments.map.places import DIGITS, MAPS, Map, Point, Unit
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.report import page
from benchmarks.forgetting.runner import Trial, geometrically, run_all
from benchmarks.forgetting.tasks import start_scores
from profit_optax.compare.formats import plus_minus, short_rate

QUICK_GRADIENTS = 16
EVALUATIONS = 60


def run(
    job: Job,
    factors: Annotated[
        str | None,
        typer.Option(
            metavar="FACTOR,FACTOR,...",
            help="What to vary.",
            show_default="; ".join(f"{','.join(mapped.factors)} for {task}" for task, mapped in MAPS.items()),
        ),
    ] = None,
) -> None:
    """Measure what PROFIT and its one line gain on a task, one factor varied at a time."""
    mapped: Map
    (mapped,) = job.tasks.values()
    varied = mapped.factors if factors is None else named(factors, mapped.factors, "--factors")
    places = [(factor, point) for factor in varied for point in mapped.points(factor)]
    gains: list[Gain] = []
    with job.bar(len(places)) as bar:
        for factor, point in places:
            bar(f"{factor} {getattr(point, factor)}", 0)
            gains += _gains(job, mapped, factor, point)
            bar(factor, 1)
    found = predictions(gains)
    about = job.about(centre=mapped.centre._asdict(), share=SHARE)
    text = page("The map", about, "\n".join(_table(gains, mapped.unit)), _sentences(found, job.seeds, mapped.unit))
    content = {**about, "predictions": found, "gains": gains}
    job.write(text, content, lambda path: plot(path, mapped, gains, found, job.seeds))
    job.show(text)


def _gains(job: Job, mapped: Map, factor: str, point: Point) -> list[Gain]:
    """The gains of the forms at one place, at every rate."""
    chosen: dict[str, Method] = job.chosen(mapped.forms(point))
    # Nothing but PROFIT takes reference steps that could be varied.
    forms = {name: form for name, form in chosen.items() if factor != "n_ref" or name == "PROFIT"}
    if not forms:
        return []
    here = mapped.task(point, range(job.seeds), job.runs, job.quick)
    start = start_scores(here)
    asked = level(float(np.mean(start.new)), float(np.mean(start.old)))
    rates, most = mapped.rates(point), QUICK_GRADIENTS if job.quick else mapped.gradients
    alone = {
        gradients: mapped.alone(point, gradients) for gradients in (1, *(form.gradients for form in forms.values()))
    }
    trials = [
        Trial(
            method,
            method.setting(rate=rate, ratio=point.ratio, decay=0.0),
            geometrically(max(1, round(most * rates[0] / rate) // method.gradients), EVALUATIONS),
            until=asked,
        )
        for rate in rates
        for method in (*alone.values(), *forms.values())
    ]
    runs = run_all(here, trials, point.batch, store=job.runs)
    found = {(each.method, each.rate): each for each in runs}
    gains = []
    for rate in rates:
        one = found[alone[1].name, rate]
        for name, form in forms.items():
            own, equal = found[form.name, rate], found[alone[form.gradients].name, rate]
            label = form.name if ".py:" in name else name
            gains.append(gain(factor, point, rate, label, own, equal, one, asked))
    return gains


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
            "" if np.isnan(each.cosine) else f"{each.cosine:+.2f}",
        )
        for each in gains
    ]
    return markdown_table([head, *rows])


def _sentences(found: Sequence[Prediction], seeds: int, unit: Unit) -> str:
    predicted = " ".join(map(_predicted, found)) or "Too few places reached the level for a correlation."
    return (
        f"Gains in {unit.gains} over the main optimizer alone at the same rate and as many gradients a step,"
        f" where both reach the level, over {seeds} paired seeds ± 95 % Student-t intervals. The level lies"
        f" {SHARE:.0%} of the way from the old model's {unit.score} on the new task to its {unit.score} on the old one."
        f" {predicted}"
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


EXPERIMENT = Experiment(
    name="map", run=run, tasks=MAPS, methods=DIGITS.forms(DIGITS.centre), baseline=None, seeds=(10, 2)
)
