"""The old task at equal quality on the new one, with intervals over seeds.

Where a run reaches a level of the new task is its *first* crossing: the evaluation at which it first stands at the
level or above, and a point on the straight line to it from the evaluation before. What else is told of it is
interpolated on that line. A seed that never stands at the level has no such point (NaN), and a setting that any seed
does not reach the level with has no mean.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats


class Interval(NamedTuple):
    """A mean over seeds and the 95 % Student-t interval around it.

    Attributes:
      mean: the mean.
      low: where the interval begins; -inf for a single seed, which says nothing of others.
      high: where it ends.
    """

    mean: float
    low: float
    high: float


def interval(values: np.ndarray) -> Interval | None:
    """Mean and interval of one value a seed. None if any is NaN, so that nothing is averaged away."""
    if np.isnan(values).any():
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, -np.inf, np.inf)
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def crossing(new: np.ndarray, level: float) -> float:
    """Where `new` first stands at `level`, as an index between evaluations, [evaluations]; NaN if it never does."""
    there = np.flatnonzero(new >= level)
    if not there.size:
        return float("nan")
    after = int(there[0])
    if not after:
        return 0.0
    before = new[after - 1]
    return after - 1 + float((level - before) / (new[after] - before))


def at_crossing(values: np.ndarray, new: np.ndarray, level: float) -> np.ndarray:
    """`values` where each seed first reaches `level`, both [seeds, evaluations]; NaN for seeds that do not, [seeds]."""
    return np.array([_between(each, crossing(scores, level)) for each, scores in zip(values, new, strict=True)])


def _between(values: np.ndarray, index: float) -> float:
    return float("nan") if np.isnan(index) else float(np.interp(index, np.arange(len(values)), values))
