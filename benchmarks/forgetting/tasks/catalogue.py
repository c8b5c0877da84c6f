"""All tasks, by the name that a command is asked for them."""

from collections.abc import Callable, Sequence

from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.digits import rotated_digits
from benchmarks.forgetting.tasks.far_digits import FAR, far_digits
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import called, load

# Seeds to the task with a model for each.
MakeTask = Callable[[Sequence[int]], Task]

TASK_HELP = f"One of {', '.join(FAR)}, or FILE.py:NAME of a function of seeds that returns a Task."


def task_named(name: str | None, angle: float) -> MakeTask:
    """The task of that name or in that file; None for digits rotated by `angle` degrees.

    Raises:
      CompareError: if there is none.
    """
    if name is None:
        return lambda seeds: rotated_digits(seeds, angle)
    if name in FAR:
        return lambda seeds: far_digits(name, seeds)
    if ".py:" not in name:
        raise CompareError(f"{name!r} is none of {', '.join(FAR)}, and no FILE.py:NAME.")
    _, make = load(name)
    return lambda seeds: called(name, lambda: make(seeds))
