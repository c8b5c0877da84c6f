"""Settings that are picked by what they keep of the old task at equal quality on the new one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.runner import Run, Trial, run_all
from benchmarks.forgetting.summary import best, crossing
from benchmarks.forgetting.tasks import Task


class Tuned(NamedTuple):
    """A method's best setting, the runs that it was picked from, and how many of these reached the level."""

    method: Method
    setting: dict[str, float]
    tried: Sequence[Run]
    reached: int


def tune(
    task: Task,
    method: Method,
    steps: np.ndarray,
    level: float,
    batch: int,
    on_progress: Callable[[str, int], None] = lambda *_: None,
    store: Path | None = None,
) -> Tuned:
    """The setting of the method's grid that keeps most of the old task where the new one first stands at `level`.

    `steps` are as a `Trial` has them; what else there is to say, `run_all` says.
    """
    until = level if task.together else None
    trials = [Trial(method, setting, steps, until) for setting in method.settings()]
    tried = run_all(task, trials, batch, on_progress, store)
    reached = sum(not np.isnan(crossing(run, level).old).any() for run in tried)
    return Tuned(method, best(tried, level).setting, tried, reached)
