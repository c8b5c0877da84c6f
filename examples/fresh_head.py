"""A fresh head on a converged backbone: the head is trained first, alone, and then PROFIT fine-tunes the whole model.

PROFIT takes the weights for the solution of the old task. A fresh head solves nothing, so it is no start for PROFIT.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from profit_optax import profit
from profit_optax.training import make_train_step


def loss_fn(params: Any, batch: Any) -> jax.Array:
    features = jnp.tanh(batch["x"] @ params["backbone"])
    return jnp.mean((features @ params["head"] - batch["y"]) ** 2)


def converged_backbone() -> jax.Array:
    """Yours comes from a checkpoint."""
    return jax.random.normal(jax.random.key(0), (4, 16)) / 2


def new_task(steps: int, batches_a_step: int, seed: int) -> Iterator[Any]:
    """The batches of each step: leaves [batches_a_step, 16, ...]."""
    for key in jax.random.split(jax.random.key(seed), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (batches_a_step, 16, 4))
        yield {"x": x, "y": jnp.sum(jnp.tanh(x), axis=-1) + 0.5 * jax.random.normal(noise, x.shape[:-1])}


def main() -> tuple[Any, Any]:
    """The head after its own training, and the whole model after both stages."""
    backbone, head = converged_backbone(), jnp.zeros(16)

    tx = optax.adam(1e-2)
    train_head = make_train_step(lambda head, batch: loss_fn({"backbone": backbone, "head": head}, batch), tx)
    opt_state = tx.init(head)
    for batches in new_task(steps=80, batches_a_step=1, seed=1):
        head, opt_state, metrics = train_head(head, opt_state, batches)
    print(f"head alone: loss {metrics['loss']:.2f}")

    params = {"backbone": backbone, "head": head}
    tx = profit(optax.adam(1e-3), optax.sgd(1e-4))  # a new optimizer with a new state
    train_all = make_train_step(loss_fn, tx, donate=False)  # head is still needed, to be returned
    opt_state = tx.init(params)
    for batches in new_task(steps=40, batches_a_step=2, seed=2):
        params, opt_state, metrics = train_all(params, opt_state, batches)
    print(f"whole model: loss {metrics['loss']:.2f}")
    return head, params


if __name__ == "__main__":
    main()
