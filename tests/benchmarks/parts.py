"""What a method moves in one step."""

import jax
import jax.numpy as jnp
import numpy as np

from profit_optax.compare import Setting
from profit_optax.compare.methods.head_first import in_head


def assert_moves_nothing_outside(method, part, task):
    """After one step some leaf has moved, and none outside of the part, a prefix of the parameters."""
    params, tx = task.params, method.optimizer(Setting(0.1, 20, task))
    grads, extra = jax.tree.map(jnp.ones_like, params), {}
    if method.closure:
        extra = {
            "value_and_grad_fn": lambda params, batch: (jnp.zeros(()), grads),
            "batches": jnp.zeros(method.gradients - 1),
        }
    updates, _ = tx.update(grads, tx.init(params), params, **extra)
    moved = jax.tree.leaves(jax.tree.map(lambda update: bool(np.any(np.asarray(update))), updates))
    inside = jax.tree.leaves(in_head(part, params))
    assert any(moved), method.name
    assert all(kept for each, kept in zip(moved, inside, strict=True) if each), method.name
