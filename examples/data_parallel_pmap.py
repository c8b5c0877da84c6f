"""PROFIT over all devices with `jax.pmap`: every device holds the parameters and takes its part of each batch."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from profit_optax import profit
from profit_optax.distributed import reduced_value_and_grad

N_REF, BATCH = 2, 32


def predict(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((predict(params, batch["x"]) - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    w, b, v = jax.random.split(jax.random.key(0), 3)
    return {"w": jax.random.normal(w, (4, 16)), "b": jax.random.normal(b, (16,)), "v": jax.random.normal(v, (16,)) / 4}


def new_task(steps: int = 40) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, BATCH, ...]."""
    truth = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(jax.random.key(1), p.shape), converged_params())
    for key in jax.random.split(jax.random.key(2), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (N_REF + 1, BATCH, 4))
        yield {"x": x, "y": predict(truth, x) + jax.random.normal(noise, x.shape[:-1])}


tx = profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=N_REF)
# The only line that knows of devices: value and gradients are the means over them.
value_and_grad_fn = reduced_value_and_grad(loss_fn, "devices")


def train_step(params: Any, opt_state: Any, batches: Any) -> Any:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    loss, grads = value_and_grad_fn(params, first)
    updates, opt_state = tx.update(grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), opt_state, loss


def main() -> Any:
    """The fine-tuned parameters of the first device; those of the others are the same."""
    devices = jax.device_count()
    parallel_step = jax.pmap(train_step, axis_name="devices", donate_argnums=(0, 1))

    def replicate(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.stack([x] * devices), tree)

    def split(x: Any) -> Any:
        """[N_REF + 1, BATCH, ...] as [devices, N_REF + 1, BATCH / devices, ...]."""
        return np.moveaxis(np.asarray(x).reshape(N_REF + 1, devices, -1, *x.shape[2:]), 1, 0)

    params = replicate(converged_params())
    opt_state = replicate(tx.init(converged_params()))
    losses = []
    for batches in new_task():
        params, opt_state, loss = parallel_step(params, opt_state, jax.tree.map(split, batches))
        losses.append(float(loss[0]))
    print(f"devices: {devices}, loss on the new task: {losses[0]:.2f} at first, {sum(losses[-5:]) / 5:.2f} at last")
    return jax.tree.map(lambda x: x[0], params)


if __name__ == "__main__":
    main()
