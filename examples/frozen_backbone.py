"""A frozen backbone and a trained head, by a mask."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from profit_optax import profit

N_REF = 1


def loss_fn(params: Any, batch: Any) -> jax.Array:
    features = jnp.tanh(batch["x"] @ params["backbone"])
    return jnp.mean((features @ params["head"] - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    backbone, head = jax.random.split(jax.random.key(0))
    return {"backbone": jax.random.normal(backbone, (4, 16)) / 2, "head": jax.random.normal(head, (16,)) / 4}


def new_task(steps: int = 60) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 16, ...]."""
    for key in jax.random.split(jax.random.key(1), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (N_REF + 1, 16, 4))
        yield {"x": x, "y": jnp.sum(jnp.tanh(x), axis=-1) + 0.5 * jax.random.normal(noise, x.shape[:-1])}


tx = profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=N_REF, mask={"backbone": False, "head": True})
value_and_grad_fn = jax.value_and_grad(loss_fn)


@jax.jit
def train_step(params: Any, opt_state: Any, batches: Any) -> Any:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    loss, grads = value_and_grad_fn(params, first)
    updates, opt_state = tx.update(grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), opt_state, loss


def main() -> tuple[Any, Any]:
    """The fine-tuned parameters and the state of the optimizer."""
    params = converged_params()
    opt_state = tx.init(params)
    losses = []
    for batches in new_task():
        params, opt_state, loss = train_step(params, opt_state, batches)
        losses.append(float(loss))
    norm = optax.tree.get(opt_state, "gradient_norm")
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; gradient norm {norm:.2f}, of the head alone")
    return params, opt_state


if __name__ == "__main__":
    main()
