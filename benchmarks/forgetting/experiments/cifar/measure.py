"""Tunes each arm and runs it at what tuning picked."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.experiments.cifar.arms import Arm
from benchmarks.forgetting.experiments.cifar.setups import Setup
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tuning import best

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
    keys: Sequence[str],
    setup: Setup,
    on_progress: Callable[[str, int], None] = lambda *_: None,
    store: Path | None = None,
) -> Iterator[Outcome]:
    """The arms named by `keys`, one after the other.

    Args:
      tuning_task: the task with seeds that are not reported.
      task: the task with those that are.
      arms: all that there are.
      keys: which of them are reported. What an ablation takes its rate from is tuned all the same.
      setup: lengths, sizes and the level.
      on_progress: as for `run_all`.
      store: as for `run_all`.
    """
    by_key, picked = {arm.key: arm for arm in arms}, dict[str, tuple[dict[str, float], list[Run]]]()

    def pick(arm: Arm) -> tuple[dict[str, float], list[Run]]:
        if arm.key not in picked:
            picked[arm.key] = tuned(arm)
        return picked[arm.key]

    def tuned(arm: Arm) -> tuple[dict[str, float], list[Run]]:
        settings = arm.method.settings()
        if arm.like:
            setting, _ = pick(by_key[arm.like])
            return {**setting, **settings[0]}, []
        if len(settings) == 1:
            return settings[0], []
        trials = [Trial(arm.method, setting, tuning_steps(arm, setup)) for setting in settings]
        runs = run_all(tuning_task, trials, setup.batch, on_progress, store)
        return best(runs, setup.level).setting, runs

    for key in keys:
        arm = by_key[key]
        setting, runs = pick(arm)
        trial = Trial(arm.method, setting, evenly(setup.steps, setup.evaluations))
        (run,) = run_all(task, [trial], setup.batch, on_progress, store)
        yield Outcome(arm, runs, run)


def tuning_steps(arm: Arm, setup: Setup) -> np.ndarray:
    """Evaluations of a tuning run, which takes as many gradients for every arm."""
    return evenly(max(setup.tune_gradients // arm.method.gradients, 1), setup.evaluations)


def gradients(arms: Sequence[Arm], keys: Sequence[str], setup: Setup, seeds: int) -> int:
    """How many gradients all of it takes, for progress bars."""
    shown = [arm for arm in arms if arm.key in keys]
    tuned = {arm.like or arm.key for arm in shown}
    tuning = [arm for arm in arms if arm.key in tuned and len(arm.method.settings()) > 1]
    return sum(seeds * setup.steps * arm.method.gradients for arm in shown) + sum(
        len(arm.method.settings()) * int(tuning_steps(arm, setup)[-1]) * arm.method.gradients for arm in tuning
    )
