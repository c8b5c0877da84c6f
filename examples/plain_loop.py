"""PROFIT in a plain JAX training loop: the model is a dictionary of arrays, and each step takes n_ref + 1 batches."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from profit_optax import profit

N_REF = 2


def predict(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((predict(params, batch["x"]) - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    w, b, v = jax.random.split(jax.random.key(0), 3)
    return {"w": jax.random.normal(w, (4, 16)), "b": jax.random.normal(b, (16,)), "v": jax.random.normal(v, (16,)) / 4}


def new_task(steps: int = 60) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 32, ...]. The new task lies near the old one; labels are noisy."""
    truth = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(jax.random.key(1), p.shape), converged_params())
    for key in jax.random.split(jax.random.key(2), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (N_REF + 1, 32, 4))
        yield {"x": x, "y": predict(truth, x) + 0.3 * jax.random.normal(noise, x.shape[:-1])}


tx = profit(optax.adamw(3e-3), optax.sgd(3e-4), n_ref=N_REF)
value_and_grad_fn = jax.value_and_grad(loss_fn)


@jax.jit
def train_step(params: Any, opt_state: Any, batches: Any) -> Any:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    loss, grads = value_and_grad_fn(params, first)
    updates, opt_state = tx.update(grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), opt_state, loss


def main() -> Any:
    """The fine-tuned parameters."""
    params = converged_params()
    opt_state = tx.init(params)
    losses = []
    for batches in new_task():
        params, opt_state, loss = train_step(params, opt_state, batches)
        losses.append(float(loss))
    print(f"loss on the new task: {losses[0]:.2f} at first, {sum(losses[-5:]) / 5:.2f} in the last five steps")
    return params


if __name__ == "__main__":
    main()
