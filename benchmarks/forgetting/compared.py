"""To and from `profit_optax.compare`: a method of its as an arm, one of a task's seeds as a user's task."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import chex
import jax
import numpy as np

from benchmarks.forgetting.methods import Loss, Method, Setting, plain_step
from benchmarks.forgetting.methods.profit import closure_step
from benchmarks.forgetting.tasks import Task
from profit_optax import compare
from profit_optax.compare.batches import stream


def as_arm(method: compare.Method) -> Method:
    """A method of compare's as one of the experiments, with all seeds in one program.

    Raises:
      CompareError: if it trains nothing of its own, or asks for a part of the model.
    """
    if method.points or "head" in method.needs:
        raise compare.CompareError(f"{method.name} runs in profit_optax.compare alone: no experiment trains it.")

    def optimizer(setting: Setting) -> Any:
        # No task and no number of steps: only what asks for a part of the model needs them.
        return method.optimizer(compare.Setting(setting["rate"] * method.rate_factor, 0, None))  # type: ignore[arg-type]

    def keep(task: Task, params: chex.ArrayTree, data: Any, train: jax.Array) -> tuple[chex.ArrayTree, Any]:
        own = _as_task(task, params, data, train)
        for name in method.needs:
            if getattr(own, name) is None:
                raise compare.CompareError(f"{method.name} needs {name}, which the task {task.name!r} has not.")
        return params, method.keep(own) if method.keep else None

    def loss(task: Task, kept: tuple[chex.ArrayTree, Any], setting: Setting) -> Loss:
        params, own = kept
        return method.loss(_as_task(task, params), own) if method.loss else task.loss

    step: Any = closure_step if method.closure else plain_step
    arm = Method(method.name, method.gradients, optimizer, step, eval_params=method.eval_params)
    return arm._replace(keep=keep, loss=loss) if method.keep or method.loss else arm


def as_task(task: Task, batch: int, i: int = 0) -> compare.Task:
    """The model of one of a task's seeds, as a user would bring it to `compare`."""
    train = task.train[i]
    held_out, params = jax.tree.map(lambda x: x[i], (task.held_out, task.params))

    def batches(seed: int) -> Iterator[Any]:
        for number, at in enumerate(stream("batches", np.asarray(train), batch, seed)):
            yield make_batch(task.data, at, jax.random.fold_in(jax.random.key(seed), number))

    make_batch, scores = jax.jit(task.batch), jax.jit(task.evaluate)

    def evaluate(params: Any) -> dict[str, Any]:
        found = scores(params, task.data, held_out)
        return {"old": found.old, "new": found.new}

    return dataclasses.replace(_as_task(task, params, task.data, train), batches=batches, evaluate=evaluate)


def _as_task(task: Task, params: chex.ArrayTree, data: Any = None, train: Any = None) -> compare.Task:
    """One seed's model and old examples; what is not asked for where all seeds are one program is not there."""

    def nothing(*_: Any) -> Any:
        raise AssertionError

    def old_batches(seed: int) -> Iterator[Any]:
        assert task.old_batch is not None
        yield task.old_batch(data, train, jax.random.key(seed))

    return compare.Task(
        params,
        task.loss,
        batches=nothing,
        evaluate=nothing,
        outputs=task.outputs,
        old_batches=old_batches if task.old_batch else None,
        head=task.head,
        name=task.name,
    )
