"""Learning without forgetting: the old model's answers on the new data are to be kept."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax.compare.methods import Main, Method, check_strength
from profit_optax.compare.task import Loss, Task

TEMPERATURE = 2.0


def distilled(
    loss: Loss,
    outputs: Callable[[chex.ArrayTree, Any], jax.Array],
    start: chex.ArrayTree,
    strength: float | jax.Array = 0.3,
) -> Loss:
    """A loss + strength × distillation of the old model at temperature 2.

    Args:
      loss: `loss(params, batch)`, a scalar.
      outputs: `outputs(params, batch)`, logits, [..., classes].
      start: the old model's parameters.
      strength: of the distillation.

    Returns:
      `loss(params, batch)`.

    Raises:
      ValueError: if strength is negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> from profit_optax.compare import distilled
      >>> loss = distilled(lambda p, x: jnp.sum(p), lambda p, x: p * x, jnp.zeros(2), strength=1.0)
      >>> round(float(loss(jnp.zeros(2), jnp.ones(2))), 4)  # log 2
      0.6931

    References:
      Li and Hoiem, *Learning without Forgetting*, ECCV 2016.

    .. note::
      Every gradient also takes a forward pass of the old model.
    """
    check_strength(strength)

    def with_old_answers(params: chex.ArrayTree, batch: Any) -> jax.Array:
        old = jax.nn.softmax(outputs(start, batch) / TEMPERATURE)
        kept = jnp.mean(optax.softmax_cross_entropy(outputs(params, batch) / TEMPERATURE, old))
        return loss(params, batch) + strength * kept

    return with_old_answers


def lwf(strength: float = 0.3, main: Main = optax.adamw) -> Method:
    """`main` on the loss + strength × distillation. It needs `Task.outputs`."""

    def loss(task: Task, start: chex.ArrayTree) -> Loss:
        assert task.outputs is not None
        return distilled(task.scalar_loss, task.outputs, start, strength)

    return Method(
        f"LwF {strength:g}",
        lambda setting: main(setting.rate),
        keep=lambda task: task.params,
        loss=loss,
        needs=("outputs",),
    )
