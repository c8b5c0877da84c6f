"""Clipping with PROFIT: inside both optimizers, because each of them sees gradients that the other one does not."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from profit_optax import profit

MAX_NORM = 1.0


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    return {"w": jnp.linspace(-1, 1, 8)}


def new_task(steps: int = 60) -> Iterator[Any]:
    """The batches of each step: leaves [n_ref + 1 = 2, 16, ...]. Noise with heavy tails makes gradients explode."""
    truth = jnp.linspace(-1, 1, 8) + 0.3 * jax.random.normal(jax.random.key(0), (8,))
    for key in jax.random.split(jax.random.key(1), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (2, 16, 8))
        yield {"x": x, "y": x @ truth + 0.2 * jax.random.cauchy(noise, (2, 16))}


def clipped(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(MAX_NORM), optimizer)


# Not chain(clip, profit(...)): that would clip the gradient of the first reference step, and no other.
tx = profit(clipped(optax.sgd(0.02, momentum=0.9)), clipped(optax.sgd(0.002)))
value_and_grad_fn = jax.value_and_grad(loss_fn)


@jax.jit
def train_step(params: Any, opt_state: Any, batches: Any) -> Any:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    _, grads = value_and_grad_fn(params, first)
    updates, opt_state = tx.update(grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), opt_state


def main() -> Any:
    """The fine-tuned parameters."""
    params = converged_params()
    opt_state = tx.init(params)
    norms = []
    for batches in new_task():
        params, opt_state = train_step(params, opt_state, batches)
        norms.append(float(optax.tree.get(opt_state, "gradient_norm")))
    print(f"largest gradient norm {max(norms):.0f}, clipped to {MAX_NORM:g} inside both optimizers")
    return params


if __name__ == "__main__":
    main()
