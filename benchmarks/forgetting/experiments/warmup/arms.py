"""What is compared: tasks, methods, and how far each goes."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.methods.one_line import one_line
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.runner import Trial, evenly
from benchmarks.forgetting.tasks import catalogue, digits

# A near task, whose naive PROFIT needs no warm-up, for comparison.
NEAR = "rotated by 35 degrees"
TASKS: Mapping[str, catalogue.MakeTask] = {NEAR: partial(digits.rotated_digits, angle=35.0), **catalogue.TASKS}
RATIO = 10.0
BATCH = 128
# In the paper 10 of 100 epochs.
_WARM = 0.1


def warm_steps(steps: int) -> int:
    """How many of the main steps are the warm-up's."""
    return max(1, round(_WARM * steps))


def methods(steps: int) -> tuple[Method, ...]:
    """AdamW, and PROFIT and its one line, as they are and with AdamW alone for the first tenth of the steps."""
    warm = warm_steps(steps)
    return (
        adamw(),
        profit(),
        profit(warmup_steps=warm)._replace(name="PROFIT, warmed up"),
        one_line(),
        one_line(warmup_steps=warm)._replace(name="PROFIT one line, warmed up"),
    )


def trials(arms: Sequence[Method], rates: Sequence[float], steps: int) -> list[Trial]:
    """Every method at every rate, for `steps` main steps, and on to as many gradients as PROFIT takes in these."""
    most = max(method.gradients for method in arms)
    found = []
    for method in arms:
        times = most // method.gradients
        # A whole number of evaluations for each `steps`, so that there is one exactly there.
        at = np.concatenate([evenly(steps, 10) + i * steps for i in range(times)])
        others = method.middle() | {"ratio": RATIO, "decay": 0.0}
        found += [Trial(method, method.setting(rate=rate, **others), np.unique(at)) for rate in rates]
    return found
