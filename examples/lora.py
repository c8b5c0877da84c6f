"""LoRA with PROFIT: low-rank adapters are trained, and frozen weights cost neither state nor a backward pass."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from profit_optax import profit

N_REF, WIDTH, RANK = 1, 64, 2


def loss_fn(params: Any, batch: Any) -> jax.Array:
    weights, adapters = params["weights"], params["adapters"]
    hidden = jnp.tanh(batch["x"] @ weights["hidden"])
    mixed = jnp.tanh(hidden @ weights["mixed"] + hidden @ adapters["a"] @ adapters["b"])
    return jnp.mean((mixed @ weights["head"] - batch["y"]) ** 2)


def initial_params() -> Any:
    """The weights, which come from your checkpoint, and adapters that change nothing yet."""
    hidden, mixed, head, a = jax.random.split(jax.random.key(0), 4)
    return {
        "weights": {
            "hidden": jax.random.normal(hidden, (4, WIDTH)) / 2,
            "mixed": jax.random.normal(mixed, (WIDTH, WIDTH)) / 8,
            "head": jax.random.normal(head, (WIDTH,)) / 8,
        },
        "adapters": {"a": jax.random.normal(a, (WIDTH, RANK)) / 8, "b": jnp.zeros((RANK, WIDTH))},
    }


def new_task(steps: int = 40) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 32, ...]."""
    for key in jax.random.split(jax.random.key(1), steps):
        x = jax.random.normal(key, (N_REF + 1, 32, 4))
        yield {"x": x, "y": jnp.tanh(jnp.sum(x, axis=-1))}


tx = profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=N_REF, mask={"weights": False, "adapters": True})
value_and_grad_fn = jax.value_and_grad(loss_fn)


@jax.jit
def train_step(params: Any, opt_state: Any, batches: Any) -> Any:
    first = jax.tree.map(lambda x: x[0], batches)
    others = jax.tree.map(lambda x: x[1:], batches)
    loss, grads = value_and_grad_fn(params, first)
    updates, opt_state = tx.update(grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), opt_state, loss


def size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def main() -> tuple[Any, Any]:
    """The fine-tuned parameters and the state of the optimizer."""
    params = initial_params()
    opt_state = tx.init(params)
    losses = []
    for batches in new_task():
        params, opt_state, loss = train_step(params, opt_state, batches)
        losses.append(float(loss))
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}; {size(params['adapters'])} of {size(params)} weights are trained")
    print(f"optimizer state: {size(opt_state)} numbers")
    return params, opt_state


if __name__ == "__main__":
    main()
