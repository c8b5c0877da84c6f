"""PROFIT for a Flax NNX model with BatchNorm and dropout: one more argument of `nnx.Optimizer.update`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from profit_optax import profit
from profit_optax.integrations.nnx import update_arguments

N_REF = 2


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(6, 32, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def loss_fn(model: Model, batch: Any) -> jax.Array:
    logits = model(batch["x"])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))


def new_task(steps: int = 40) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 32, ...]."""
    for key in jax.random.split(jax.random.key(1), steps):
        x = jax.random.normal(key, (N_REF + 1, 32, 6))
        yield {"x": x, "label": jnp.argmax(x[..., :3], axis=-1)}


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer, batches: Any) -> jax.Array:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    loss, grads = nnx.value_and_grad(loss_fn)(model, first)
    optimizer.update(model, grads, **update_arguments(loss_fn, model, others, wrt=nnx.Param))
    return loss


def main() -> Model:
    """The fine-tuned model."""
    model = Model(nnx.Rngs(0))  # yours comes from a checkpoint
    tx = profit(optax.adamw(3e-3), optax.sgd(3e-4), n_ref=N_REF)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    losses = [float(train_step(model, optimizer, batches)) for batches in new_task()]
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} after {optimizer.step[...]} steps")
    return model


if __name__ == "__main__":
    main()
