"""PROFIT as one line of a chain, in an untouched Flax `TrainState` loop: nothing but the optimizer is another one."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from profit_optax import orthogonalize_to_previous


class Model(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(nn.tanh(nn.Dense(16)(x)))[..., 0]


def initial_state() -> TrainState:
    """The state before fine-tuning. Your parameters come from a checkpoint."""
    params = Model().init(jax.random.key(0), jnp.zeros((1, 4)))["params"]
    tx = optax.chain(orthogonalize_to_previous(), optax.adamw(3e-3))  # was optax.adamw(3e-3)
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


def main() -> TrainState:
    """The state after fine-tuning."""
    state = initial_state()
    losses = []
    for batch in new_task():
        state, loss = train_step(state, batch)
        losses.append(float(loss))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; last cosine {optax.tree.get(state.opt_state, 'cosine'):+.2f}")
    return state


if __name__ == "__main__":
    main()
