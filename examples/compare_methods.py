"""Will it help on my model? Ways to fine-tune a digits model to rotated digits, compared at equal new accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage
from sklearn.datasets import load_digits

from profit_optax.compare import METHODS, Comparison, Method, Task, compare

IMAGES, LABELS = load_digits(return_X_y=True)
UPRIGHT = (IMAGES / 16).astype(np.float32)
ROTATED = ndimage.rotate(UPRIGHT.reshape(-1, 8, 8), 35, axes=(1, 2), reshape=False, order=1).reshape(-1, 64)
TRAIN, HELD_OUT = slice(0, 1200), slice(1200, None)


def outputs(params: Any, batch: Any) -> jax.Array:
    hidden = jax.nn.relu(batch["x"] @ params["hidden"]["w"] + params["hidden"]["b"])
    return hidden @ params["head"]["w"] + params["head"]["b"]


def loss(params: Any, batch: Any) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs(params, batch), batch["y"]))


def converged_params() -> Any:
    """A network trained on upright digits. Yours come from a checkpoint."""
    keys = jax.random.split(jax.random.key(0))
    params = {
        "hidden": {"w": jax.random.normal(keys[0], (64, 64)) / 8, "b": jnp.zeros(64)},
        "head": {"w": jax.random.normal(keys[1], (64, 10)) / 8, "b": jnp.zeros(10)},
    }
    batch, tx = {"x": UPRIGHT[TRAIN], "y": LABELS[TRAIN]}, optax.adam(1e-2)

    def step(carry: Any, _: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=200)[0])((params, tx.init(params)))[0]


@jax.jit
def accuracy(params: Any, x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(outputs(params, {"x": x}), axis=-1) == LABELS[HELD_OUT])


def evaluate(params: Any) -> dict[str, Any]:
    """Any Python will do here."""
    return {"old": accuracy(params, UPRIGHT[HELD_OUT]), "new": accuracy(params, ROTATED[HELD_OUT])}


def rotated_digits() -> Task:
    """What `python -m profit_optax.compare examples/compare_methods.py:rotated_digits` takes, too."""
    return Task(
        converged_params(),
        loss,
        {"x": ROTATED[TRAIN], "y": LABELS[TRAIN]},
        evaluate,
        batch_size=64,
        outputs=outputs,
        head={"hidden": False, "head": True},
        old_batches={"x": UPRIGHT[TRAIN], "y": LABELS[TRAIN]},
        name="rotated digits",
    )


def main() -> Comparison:
    """What came of it."""
    methods: list[str | Method] = ["adamw", "profit", "wise_ft", METHODS["l2_sp"](strength=0.1)]
    result = compare(rotated_digits(), methods, rates=[1e-3], gradients=200, seeds=3)
    print(result.table())
    print(result.advice())
    return result


if __name__ == "__main__":
    main()
