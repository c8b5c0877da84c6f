"""The old model's answers on the new task's batches, to be kept."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import FEW_RATES, Loss, Method, Setting
from benchmarks.forgetting.tasks import Task
from profit_optax.compare import CompareError, distilled


def lwf() -> Method:
    """AdamW on the loss + strength × distillation of the old model at temperature 2 (Li and Hoiem, 2016).

    Each gradient also takes a forward pass of the old model, which is not counted.
    """

    def keep(task: Task, params: chex.ArrayTree, data: Any, train: jax.Array) -> chex.ArrayTree:
        return params

    def loss(task: Task, kept: chex.ArrayTree, setting: Setting) -> Loss:
        if task.outputs is None:
            raise CompareError("LwF needs the model's logits: give the task `outputs`.")
        return distilled(task.loss, task.outputs, kept, setting["strength"])

    grid = (("rate", FEW_RATES), ("strength", (0.1, 0.3, 1.0)))
    return Method("LwF", 1, lambda setting: optax.adamw(setting["rate"]), keep=keep, loss=loss, grid=grid)
