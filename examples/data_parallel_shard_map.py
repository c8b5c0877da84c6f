"""PROFIT over all devices with `jax.shard_map`: every device holds the parameters and takes its part of each batch."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

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
    """The fine-tuned parameters."""
    mesh = jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        train_step,
        mesh=mesh,
        in_specs=(P(), P(), P(None, "devices")),  # the second axis of every batch is split
        out_specs=P(),
    )
    parallel_step = jax.jit(mapped, donate_argnums=(0, 1))

    params, opt_state = jax.device_put((converged_params(), tx.init(converged_params())), NamedSharding(mesh, P()))
    losses = []
    for batches in new_task():
        params, opt_state, loss = parallel_step(params, opt_state, batches)
        losses.append(float(loss))
    print(f"devices: {mesh.size}, loss on the new task: {losses[0]:.2f} at first, {sum(losses[-5:]) / 5:.2f} at last")
    return params


if __name__ == "__main__":
    main()
