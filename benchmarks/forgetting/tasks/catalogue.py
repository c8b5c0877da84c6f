"""All tasks, by the name that a command is asked for them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import typer

from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.digits import rotated_digits
from benchmarks.forgetting.tasks.far_digits import FAR, far_digits
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import called, load

# Seeds to the task with a model for each.
MakeTask = Callable[[Sequence[int]], Task]

TASKS: Mapping[str, MakeTask] = {kind: partial(far_digits, kind) for kind in FAR}
FROM_FILE = "FILE.py:NAME of a function of seeds that returns a Task."
TASK_HELP = f"One of {', '.join(TASKS)}, or {FROM_FILE} Rotated digits where it is left out."


def task_named(name: str | None, angle: float = 35.0, known: Mapping[str, MakeTask] = TASKS) -> MakeTask:
    """The task of that name or in that file; None for digits rotated by `angle` degrees.

    Raises:
      typer.BadParameter: if there is none of that name.
      CompareError: if the file has none.
    """
    if name is None:
        return lambda seeds: rotated_digits(seeds, angle)
    if name in known:
        return known[name]
    if ".py:" not in name:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}, and no FILE.py:NAME.", param_hint="--task")
    _, make = load(name)
    return lambda seeds: _made(name, make, seeds)


def _made(name: str, make: Callable[[Sequence[int]], Task], seeds: Sequence[int]) -> Task:
    task = called(name, lambda: make(seeds))
    if not isinstance(task, Task):
        raise CompareError(f"{name} must return a Task of benchmarks.forgetting.tasks, got {type(task).__name__}.")
    return task
