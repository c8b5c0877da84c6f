"""All tasks, by the name that a command is asked for them: digits, then what is made of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.digits import Transform, check_converged, rotated_digits, transformed_digits
from benchmarks.forgetting.tasks.far_digits import FAR

# Seeds to the task with a model for each.
MakeTask = Callable[[Sequence[int]], Task]

ANGLE = 35.0


def _near(seeds: Sequence[int]) -> Task:
    return check_converged(rotated_digits(seeds, ANGLE))


def _far(kind: str, transform: Transform, seeds: Sequence[int]) -> Task:
    return check_converged(transformed_digits(kind, seeds, transform))


# The near one is first: what is learnt unless another is asked for.
TASKS: Mapping[str, MakeTask] = {
    f"rotated by {ANGLE:g} degrees": _near,
    **{kind: partial(_far, kind, transform) for kind, transform in FAR.items()},
}
