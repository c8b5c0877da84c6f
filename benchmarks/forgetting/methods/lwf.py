"""Learning without forgetting: the old model's answers on the new data are to be kept."""

from typing import Any

import chex
import optax

from benchmarks.forgetting.methods import FEW_RATES, Loss, Method, Setting, start
from benchmarks.forgetting.tasks import Task
from profit_optax.compare import CompareError, distilled


def lwf() -> Method:
    """AdamW on the loss + strength × distillation of the old model at temperature 2 (Li and Hoiem, 2016).

    Each gradient also takes a forward pass of the old model, which is not counted.
    """
    return Method(
        name="LwF",
        gradients=1,
        optimizer=lambda setting: optax.adamw(setting["rate"]),
        keep=start,
        loss=_loss,
        grid=(("rate", FEW_RATES), ("strength", (0.1, 0.3, 1.0))),
    )


def _loss(task: Task, kept: chex.ArrayTree, setting: Setting) -> Loss:
    if task.outputs is None:
        raise CompareError("LwF needs the model's logits: give the task `outputs`.")
    strength: Any = setting["strength"]
    return distilled(task.loss, task.outputs, kept, strength)
