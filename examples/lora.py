"""LoRA with PROFIT: only the adapters are parameters, and the frozen weights cost neither state nor gradients."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from profit_optax import profit
from profit_optax.integrations.nnx import update_arguments

N_REF, WIDTH, RANK = 1, 64, 2


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(4, WIDTH, rngs=rngs)
        base = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.mixed = nnx.LoRA(WIDTH, RANK, WIDTH, base_module=base, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.tanh(self.mixed(nnx.tanh(self.hidden(x)))))[..., 0]


def loss_fn(model: Model, batch: Any) -> jax.Array:
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2)


def new_task(steps: int = 40) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 32, ...]."""
    for key in jax.random.split(jax.random.key(1), steps):
        x = jax.random.normal(key, (N_REF + 1, 32, 4))
        yield {"x": x, "y": jnp.sin(jnp.sum(x, axis=-1))}


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer, batches: Any) -> jax.Array:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    trained = nnx.DiffState(0, nnx.LoRAParam)  # gradients of the adapters alone
    loss, grads = nnx.value_and_grad(loss_fn, argnums=trained)(model, first)
    optimizer.update(model, grads, **update_arguments(loss_fn, model, others, wrt=nnx.LoRAParam))
    return loss


def size(state: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(state))


def main() -> tuple[Model, nnx.Optimizer]:
    """The fine-tuned model and its optimizer."""
    model = Model(nnx.Rngs(0))  # yours comes from a checkpoint
    optimizer = nnx.Optimizer(model, profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=N_REF), wrt=nnx.LoRAParam)
    losses = [float(train_step(model, optimizer, batches)) for batches in new_task()]
    trained, weights = size(nnx.state(model, nnx.LoRAParam)), size(nnx.state(model, nnx.Param))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {trained} of {weights} weights are trained")
    print(f"optimizer state: {size(optimizer.opt_state)} numbers")
    return model, optimizer


if __name__ == "__main__":
    main()
