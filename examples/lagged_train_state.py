"""The lagged form in an untouched Flax `TrainState` loop: the optimizer is another one, and so is what is evaluated."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from profit_optax import eval_params, profit_lagged


class Model(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(nn.tanh(nn.Dense(16)(x)))[..., 0]


def initial_state() -> TrainState:
    """The state before fine-tuning. Your parameters come from a checkpoint."""
    params = Model().init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    tx = profit_lagged(optax.adamw(3e-3), optax.sgd(3e-4))  # was optax.adamw(3e-3)
    return TrainState.create(apply_fn=Model().apply, params=params, tx=tx)


def new_task(steps: int = 60) -> Iterator[Any]:
    """Single batches of 32."""
    for key in jax.random.split(jax.random.key(1), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (32, 4))
        yield {"x": x, "y": jnp.sin(jnp.sum(x, axis=-1)) + 0.5 * jax.random.normal(noise, (32,))}


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((Model().apply({"params": params}, batch["x"]) - batch["y"]) ** 2)


@jax.jit
def train_step(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
    loss, grads = jax.value_and_grad(loss_fn)(state.params, batch)
    return state.apply_gradients(grads=grads), loss


def main() -> tuple[TrainState, Any]:
    """The state after fine-tuning, whose parameters are displaced, and the parameters to evaluate and to export."""
    state = initial_state()
    losses = []
    for batch in new_task():
        state, loss = train_step(state, batch)
        losses.append(float(loss))
    theta = eval_params(state.opt_state, state.params)  # was state.params
    distance = optax.tree.norm(optax.tree.sub(state.params, theta))
    print(
        f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; what the loop holds lies {distance:.1e} away from what is evaluated"
    )
    return state, theta


if __name__ == "__main__":
    main()
