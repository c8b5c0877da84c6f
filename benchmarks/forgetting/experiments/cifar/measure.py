"""Tunes each arm and runs it at what tuning picked."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.forgetting.experiments.cifar.arms import Arm
from benchmarks.forgetting.experiments.cifar.setups import Setup
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all, total
from benchmarks.forgetting.summary import best
from benchmarks.forgetting.tasks import Task

# No run that is reported has it.
TUNING_SEED = 100


class Outcome(NamedTuple):
    """What became of an arm.

    Attributes:
      arm: the arm.
      tried: the tuning runs that its setting was picked from; none where there was nothing to pick.
      run: its run at that setting, over the seeds that are reported.
    """

    arm: Arm
    tried: Sequence[Run]
    run: Run


def measure(
    tuning_task: Task,
    task: Task,
    arms: Sequence[Arm],
    setup: Setup,
    on_progress: Callable[[str, int], None] = lambda *_: None,
    store: Path | None = None,
) -> Iterator[Outcome]:
    """The arms, one after the other. What an ablation takes its rate from is tuned even if it is none of them.

    Args:
      tuning_task: the task with seeds that are not reported.
      task: the task with those that are.
      arms: what is reported.
      setup: lengths, sizes and the level.
      on_progress: as for `run_all`.
      store: as for `run_all`.
    """

    @functools.cache
    def picked(arm: Arm) -> tuple[dict[str, float], list[Run]]:
        first, *_ = arm.method.settings()
        if arm.like:
            return picked(arm.like)[0] | first, []
        runs = run_all(tuning_task, tuning(arm, setup), setup.batch, on_progress, store)
        return best(runs, setup.level).setting if runs else first, runs

    for arm in arms:
        setting, runs = picked(arm)
        trial = Trial(arm.method, setting, evenly(setup.steps, setup.evaluations))
        (run,) = run_all(task, [trial], setup.batch, on_progress, store)
        yield Outcome(arm, runs, run)


def tuning(arm: Arm, setup: Setup) -> list[Trial]:
    """Every setting of an arm, with as many gradients for every arm; none where there is nothing to pick."""
    steps = evenly(max(setup.tune_gradients // arm.method.gradients, 1), setup.evaluations)
    settings = arm.method.settings()
    return [Trial(arm.method, setting, steps) for setting in settings] if len(settings) > 1 else []


def gradients(arms: Sequence[Arm], setup: Setup, seeds: int) -> int:
    """How many gradients all of it takes, for progress bars."""
    tuned = dict.fromkeys(arm.like or arm for arm in arms)
    reported = seeds * setup.steps * sum(arm.method.gradients for arm in arms)
    return reported + sum(total(tuning(arm, setup), seeds=1) for arm in tuned)
