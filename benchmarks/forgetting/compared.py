"""To and from `profit_optax.compare`: a method of its as an arm, one of a task's seeds as a user's task."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.forgetting.methods import Method, Setting, plain_step
from benchmarks.forgetting.methods.profit import closure_step
from benchmarks.forgetting.runner import batch_order
from benchmarks.forgetting.tasks import Task
from profit_optax import compare

# Enough for any comparison: the order is made in one piece.
EPOCHS = 1000


def as_arm(method: compare.Method) -> Method:
    """An optimizer of compare's as a method of the experiments, with all seeds in one program.

    Raises:
      ValueError: if it is more than an optimizer: one that keeps something of the old task, or trains nothing.
    """
    if method.needs or method.keep or method.loss or method.points:
        raise ValueError(f"{method.name} must be an optimizer alone to be an arm, and it is more.")

    def optimizer(setting: Setting) -> Any:
        # No task and no number of steps: it needs neither.
        return method.optimizer(compare.Setting(setting["rate"] * method.rate_factor, 0, None))  # type: ignore[arg-type]

    step: Any = closure_step if method.closure else plain_step
    return Method(method.name, method.gradients, optimizer, step, eval_params=method.eval_params)


def as_task(task: Task, batch: int, i: int = 0) -> compare.Task:
    """The model of one of a task's seeds, as a user would bring it to `compare`."""
    train = task.train[i]
    held_out, params = jax.tree.map(lambda x: x[i], (task.held_out, task.params))

    def batches(seed: int) -> Iterator[Any]:
        key = jax.random.key(seed)
        order = batch_order(key, EPOCHS * (len(train) // batch), batch, len(train))
        for number in itertools.count():
            at = order[number % len(order)]
            yield make_batch(task.data, train[at], jax.random.fold_in(key, number))

    make_batch, scores = jax.jit(task.batch), jax.jit(task.evaluate)

    def evaluate(params: Any) -> dict[str, Any]:
        found = scores(params, task.data, held_out)
        return {"old": found.old, "new": found.new}

    def head(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: task.is_head(path), params)

    def old_batches(seed: int) -> Iterator[Any]:
        assert task.old_batch is not None
        yield task.old_batch(task.data, train, jax.random.key(seed))

    has_head = any(jax.tree.leaves(head(params)))
    return compare.Task(
        params,
        task.loss,
        batches,
        evaluate,
        outputs=task.outputs,
        old_batches=old_batches if task.old_batch else None,
        head=head if has_head else None,
        name=task.name,
    )
