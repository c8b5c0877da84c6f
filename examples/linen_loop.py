"""PROFIT for a Flax Linen model with BatchNorm and dropout: statistics from the pass at θ, dropout keys as data."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from profit_optax import profit
from profit_optax.integrations import linen

N_REF = 2


class Model(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(32, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)


class TrainState(linen.TrainState):
    batch_stats: Any


def initial_state() -> TrainState:
    """The state before fine-tuning. Your variables come from a checkpoint."""
    variables = Model().init(jax.random.key(0), jnp.zeros((1, 6)), train=False)
    tx = profit(optax.adamw(3e-3), optax.sgd(3e-4), n_ref=N_REF)
    return TrainState.create(
        apply_fn=Model().apply, params=variables["params"], batch_stats=variables["batch_stats"], tx=tx
    )


def new_task(steps: int = 40) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 32, ...], and a dropout key for each batch."""
    for key in jax.random.split(jax.random.key(1), steps):
        inputs, dropout = jax.random.split(key)
        x = jax.random.normal(inputs, (N_REF + 1, 32, 6))
        yield {"x": x, "label": jnp.argmax(x[..., :3], axis=-1), "key": jax.random.split(dropout, N_REF + 1)}


@jax.jit
def train_step(state: TrainState, batches: Any) -> tuple[TrainState, jax.Array]:
    def loss_fn(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        rngs = {"dropout": batch["key"]}
        logits, updated = state.apply_fn(variables, batch["x"], train=True, rngs=rngs, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(loss), updated["batch_stats"]

    value_and_grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    (loss, batch_stats), grads = value_and_grad_fn(state.params, first)
    state = state.apply_gradients(
        grads=grads, batch_stats=batch_stats, value_and_grad_fn=value_and_grad_fn, batches=others
    )
    return state, loss


def main() -> TrainState:
    """The state after fine-tuning."""
    state = initial_state()
    losses = []
    for batches in new_task():
        state, loss = train_step(state, batches)
        losses.append(float(loss))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; evaluate state.eval_params with state.batch_stats")
    return state


if __name__ == "__main__":
    main()
