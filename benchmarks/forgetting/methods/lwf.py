"""Learning without forgetting: the old model's answers on the new data are to be kept."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Loss, Method, Setting, start
from benchmarks.forgetting.tasks import Task

TEMPERATURE = 2.0


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


def distillation(logits: jax.Array, old_logits: jax.Array) -> jax.Array:
    """The cross entropy of softened outputs with the old model's softened outputs, meaned over examples."""
    old = jax.nn.softmax(old_logits / TEMPERATURE)
    return jnp.mean(optax.softmax_cross_entropy(logits / TEMPERATURE, old))


def _loss(task: Task, kept: chex.ArrayTree, setting: Setting) -> Loss:
    if task.outputs is None:
        raise ValueError("LwF needs the model's logits: give the task `outputs`.")
    outputs = task.outputs

    def loss(params: chex.ArrayTree, batch: Any) -> jax.Array:
        kept_answers = distillation(outputs(params, batch), outputs(kept, batch))
        return task.loss(params, batch) + setting["strength"] * kept_answers

    return loss
