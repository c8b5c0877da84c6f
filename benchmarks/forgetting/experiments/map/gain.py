"""Gains at equal new-task quality, and what the cosine said early in the run."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from benchmarks.forgetting.experiments.map.places import Point
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.summary import crossing, difference
from profit_optax.compare.statistics import Interval

# How much of the way from the old model's score on the new task to its score on the old one is asked for.
SHARE = 0.9
# What counts as early in a run, in steps.
EARLY = 20
# Places with a gain from which on a correlation is worth its name.
FEWEST = 5


class Gain(NamedTuple):
    """What one form gained at one place and one rate.

    Attributes:
      factor: what was varied.
      point: the place.
      rate: the main optimizer's rate.
      form: "PROFIT", "one line", or the name of a method out of a file.
      level: score on the new task at which old scores are compared.
      gain: old score minus that of the main optimizer alone with as many gradients a step, paired by seed. None if a
        seed of either did not reach the level.
      over_one: the same, minus that of the main optimizer with one gradient a step.
      reached: share of the seeds that reached the level.
      alone_reached: that of the main optimizer alone with as many gradients a step.
      cosine: between displacement and gradient, its mean over the first steps and all seeds. NaN where no step was
        needed, or a method has none.
      gradients: mean gradients until the level over those of the main optimizer alone at one gradient a step.
    """

    factor: str
    point: Point
    rate: float
    form: str
    level: float
    gain: Interval | None
    over_one: Interval | None
    reached: float
    alone_reached: float
    cosine: float
    gradients: float | None

    @property
    def value(self) -> float | str:
        """What the factor was set to."""
        value: float | str = getattr(self.point, self.factor)
        return value


def level(new_at_start: float, old_at_start: float) -> float:
    """What is asked of the new task: fixed by the old model alone, before anything is fine-tuned."""
    return new_at_start + SHARE * (old_at_start - new_at_start)


def gain(factor: str, point: Point, rate: float, form: str, run: Run, equal: Run, one: Run, level: float) -> Gain:
    """The gain of a form's run, over the main optimizer alone at as many gradients a step, and at one."""
    reached = [float(np.mean(~np.isnan(crossing(each, level).old))) for each in (run, equal)]
    # NaN where a seed of either did not reach the level; and nothing is a multiple of no gradients at all.
    gradients, others = (float(np.mean(crossing(each, level).steps)) * each.gradients for each in (run, one))
    return Gain(
        factor=factor,
        point=point,
        rate=rate,
        form=form,
        level=level,
        gain=difference(run, equal, level),
        over_one=difference(run, one, level),
        reached=reached[0],
        alone_reached=reached[1],
        cosine=early_cosine(run),
        gradients=gradients / others if others > 0 and not np.isnan(gradients) else None,
    )


def early_cosine(run: Run) -> float:
    """The mean cosine over the evaluations within the first steps, each weighted with the steps that it stands for."""
    if len(run.steps) == 1 or "cosine" not in run.metrics:
        return float("nan")
    early = max(1, int(np.searchsorted(run.steps[1:], EARLY, side="right")))
    weights = np.diff(run.steps)[:early]
    return float(np.mean(np.average(run.metrics["cosine"][:, :early], axis=1, weights=weights)))


class Prediction(NamedTuple):
    """Whether the early cosine of one form tells what comes.

    Attributes:
      form: as `Gain` has it.
      places: how many places and rates have a gain.
      rank_correlation: Spearman's, of the early cosine with the gain.
      low: the lower end of its 95 % interval (Bonett and Wright's, as if places were independent).
      high: the upper end.
      collapse_auc: the probability that a run that does not reach the level has a lower early cosine than one that
        does, where the main optimizer alone reaches it; None without such runs.
    """

    form: str
    places: int
    rank_correlation: float
    low: float
    high: float
    collapse_auc: float | None


def predictions(gains: Sequence[Gain]) -> list[Prediction]:
    """How well the early cosine predicts gains and collapses, for each form of which enough places have a gain."""
    found = []
    for form in dict.fromkeys(each.form for each in gains):
        # Each place and rate once: the centre is a value of every factor.
        of_form = [each for each in gains if each.form == form and not np.isnan(each.cosine)]
        places = list({(each.point, each.rate): each for each in of_form}.values())
        compared = [(each.cosine, each.gain.mean) for each in places if each.gain is not None]
        if len(compared) < FEWEST:
            continue
        correlation = float(scipy.stats.spearmanr(*np.transpose(compared)).statistic)
        half = 1.96 * np.sqrt((1 + correlation**2 / 2) / (len(compared) - 3))
        low, high = np.tanh(np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9)) + np.array([-half, half]))
        found.append(Prediction(form, len(compared), correlation, float(low), float(high), _collapse_auc(places)))
    return found


def _collapse_auc(gains: Sequence[Gain]) -> float | None:
    comparable = [each for each in gains if each.alone_reached == 1]
    collapsed = [each.cosine for each in comparable if each.reached < 1]
    kept = [each.cosine for each in comparable if each.reached == 1]
    if not collapsed or not kept:
        return None
    return float(scipy.stats.mannwhitneyu(kept, collapsed).statistic) / (len(kept) * len(collapsed))
