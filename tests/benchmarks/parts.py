"""What a method moves in one step."""

import jax
import jax.numpy as jnp
import numpy as np

from profit_optax.compare import Setting


def assert_moves_nothing_outside(method, part, task, rate=0.1):
    """After one step no leaf outside of the part has moved, and some leaf in it has."""
    setting, params = Setting(rate, 20, task), task.params
    tx = method.optimizer(setting)
    grads = jax.tree.map(jnp.ones_like, params)
    extra = {}
    if method.closure:
        extra = {
            "value_and_grad_fn": lambda params, batch: (jnp.zeros(()), grads),
            "batches": jnp.zeros(method.gradients - 1),
        }
    updates, _ = tx.update(grads, tx.init(params), params, **extra)
    moved = jax.tree.map(lambda update: bool(np.any(np.asarray(update))), updates)
    inside = jax.tree.leaves(jax.tree.map(lambda inside, tree: jax.tree.map(lambda _: inside, tree), part, moved))
    moved = jax.tree.leaves(moved)
    assert not any(each for each, kept in zip(moved, inside, strict=True) if not kept), method.name
    assert any(moved), method.name
