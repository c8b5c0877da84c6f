"""L2-SP: a spring to the weights that fine-tuning starts from."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Loss, Method, start
from benchmarks.forgetting.tasks import Task


def l2_sp() -> Method:
    """AdamW on the loss + strength/2 ‖θ − θ₀‖², but for a fresh last layer (Li et al., 2018).

    The pull is part of the gradient, so Adam rescales it with the rest; the paper's own optimizer is SGD. A fresh layer
    has AdamW's weight decay, in place of the paper's further term.
    """
    return Method(
        name="L2-SP",
        gradients=1,
        optimizer=lambda setting: optax.adamw(setting["rate"]),
        keep=start,
        loss=lambda task, kept, setting: pulled_loss(task, kept, setting["strength"]),
        grid=(("rate", FEW_RATES), ("strength", (1e-3, 1e-2, 1e-1))),
    )


def pulled_loss(task: Task, kept: chex.ArrayTree, strength: Any) -> Loss:
    """The task's loss + strength/2 ‖θ − θ₀‖²."""

    def loss(params: chex.ArrayTree, batch: Any) -> jax.Array:
        return task.loss(params, batch) + strength / 2 * _square_distance(task, params, kept)

    return loss


def _square_distance(task: Task, params: chex.ArrayTree, kept: chex.ArrayTree) -> Any:
    def of_leaf(path: Any, p: jax.Array, p0: jax.Array) -> jax.Array:
        return jnp.zeros(()) if task.is_fresh(path) else jnp.sum((p - p0) ** 2)

    return optax.tree.sum(jax.tree_util.tree_map_with_path(of_leaf, params, kept))
