"""All tasks, by the name that a command is asked for them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.digits import transformed_digits
from benchmarks.forgetting.tasks.far_digits import FAR

# Seeds to the task with a model for each.
MakeTask = Callable[[Sequence[int]], Task]

TASKS: Mapping[str, MakeTask] = {
    kind: partial(transformed_digits, kind, transform=transform) for kind, transform in FAR.items()
}
