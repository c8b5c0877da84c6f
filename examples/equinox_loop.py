"""PROFIT for an Equinox model: the closure works on the arrays that are trained, the loss on the model."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from profit_optax import profit
from profit_optax.integrations.equinox import make_value_and_grad_fn

N_REF = 2


def loss_fn(model: Any, batch: Any) -> jax.Array:
    return jnp.mean((jax.vmap(model)(batch["x"]) - batch["y"]) ** 2)


def converged_model() -> eqx.nn.MLP:
    """The model before fine-tuning. Yours comes from a checkpoint."""
    return eqx.nn.MLP(4, "scalar", width_size=16, depth=1, activation=jnp.tanh, key=jax.random.key(0))


def new_task(steps: int = 40) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 32, ...]."""
    for key in jax.random.split(jax.random.key(1), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (N_REF + 1, 32, 4))
        yield {"x": x, "y": jnp.sin(jnp.sum(x, axis=-1)) + 0.5 * jax.random.normal(noise, x.shape[:-1])}


tx = profit(optax.adamw(3e-3), optax.sgd(3e-4), n_ref=N_REF)


@eqx.filter_jit
def train_step(model: Any, opt_state: Any, batches: Any) -> Any:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    value_and_grad_fn = make_value_and_grad_fn(loss_fn, model)
    params = eqx.filter(model, eqx.is_inexact_array)
    loss, grads = value_and_grad_fn(params, first)
    updates, opt_state = tx.update(grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return eqx.apply_updates(model, updates), opt_state, loss


def main() -> Any:
    """The fine-tuned model."""
    model = converged_model()
    opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
    losses = []
    for batches in new_task():
        model, opt_state, loss = train_step(model, opt_state, batches)
        losses.append(float(loss))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    return model


if __name__ == "__main__":
    main()
