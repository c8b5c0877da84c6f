"""Elastic weight consolidation: a spring whose stiffness is the old task's Fisher information."""

import functools
from collections.abc import Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax.compare.batches import one_pass
from profit_optax.compare.errors import CompareError
from profit_optax.compare.methods import Main, Method, check_strength
from profit_optax.compare.task import Loss, Task

# The Fisher information takes a gradient for every old example; beyond some thousands it hardly changes.
BATCHES = 50


def fisher(loss: Loss, params: chex.ArrayTree, batches: Iterable[Any]) -> chex.ArrayTree:
    """The diagonal of the empirical Fisher information: the mean over examples of the squared gradient of the loss.

    Args:
      loss: `loss(params, batch)`, the mean over a batch's examples, which are its leading axis.
      params: the old model's parameters.
      batches: of the old task, at least one.

    Returns:
      A pytree like `params`.

    Raises:
      ValueError: if there is no batch.

    Examples:
      >>> import jax.numpy as jnp
      >>> from profit_optax.compare import fisher
      >>> fisher(lambda p, x: jnp.mean(p * x), jnp.ones(()), [jnp.array([1.0, 3.0])]).item()
      5.0

    References:
      Kirkpatrick et al., *Overcoming catastrophic forgetting in neural networks*, PNAS 2017; with the labels of the
      data in place of samples from the model.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def add(total: chex.ArrayTree, params: chex.ArrayTree, batch: Any) -> chex.ArrayTree:
        def of_example(total: chex.ArrayTree, example: Any) -> tuple[chex.ArrayTree, None]:
            gradient = jax.grad(loss)(params, jax.tree.map(lambda x: x[None], example))
            return jax.tree.map(lambda t, g: t + jnp.abs(g) ** 2, total, gradient), None

        return jax.lax.scan(of_example, total, batch)[0]

    total, examples = jax.tree.map(lambda p: jnp.zeros_like(p, dtype=jnp.abs(p).dtype), params), 0
    for batch in batches:
        batch = jax.tree.map(jnp.asarray, batch)
        total = add(total, params, batch)
        examples += len(jax.tree.leaves(batch)[0])
    if not examples:
        raise ValueError("batches must hold at least one batch of the old task, got none.")
    return jax.tree.map(lambda t: t / examples, total)


def consolidated(
    loss: Loss, start: chex.ArrayTree, stiffness: chex.ArrayTree, strength: float | jax.Array = 1000.0
) -> Loss:
    """A loss + strength/2 Σ F |θ − θ₀|².

    Args:
      loss: `loss(params, batch)`, a scalar.
      start: θ₀, the old model's parameters.
      stiffness: F, as `fisher` gives it.
      strength: of the pull.

    Returns:
      `loss(params, batch)`.

    Raises:
      ValueError: if strength is negative.

    Examples:
      >>> import jax.numpy as jnp
      >>> from profit_optax.compare import consolidated
      >>> loss = consolidated(lambda p, x: jnp.zeros(()), jnp.zeros(()), jnp.ones(()), strength=2.0)
      >>> float(loss(jnp.float32(3.0), None))
      9.0

    References:
      Kirkpatrick et al., *Overcoming catastrophic forgetting in neural networks*, PNAS 2017.
    """
    check_strength(strength)

    def with_pull(params: chex.ArrayTree, batch: Any) -> jax.Array:
        pull = jax.tree.map(lambda f, p, p0: jnp.sum(f * jnp.abs(p - p0) ** 2), stiffness, params, start)
        return loss(params, batch) + strength / 2 * optax.tree.sum(pull)

    return with_pull


def ewc(strength: float = 1000.0, main: Main = optax.adamw) -> Method:
    """`main` on the loss + strength/2 Σ F |θ − θ₀|². It needs `Task.old_batches`, of which at most 50 are read.

    The Fisher information takes a gradient for every old example before the first step; they are not counted.
    """

    def keep(task: Task) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        batches = one_pass("old_batches", task.old_batches, task.batch_size, 0, BATCHES)
        try:
            return task.params, fisher(task.scalar_loss, task.params, batches)
        except ValueError as error:
            raise CompareError(f"EWC cannot read the old task: {error}") from error

    return Method(
        f"EWC {strength:g}",
        lambda setting: main(setting.rate),
        keep=keep,
        loss=lambda task, kept: consolidated(task.scalar_loss, kept[0], kept[1], strength),
        needs=("old_batches",),
    )
