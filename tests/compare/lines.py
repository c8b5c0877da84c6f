"""A regression from 2 numbers to 1: the old task's solution, the new task's data, and scores that are distances."""

import jax.numpy as jnp
import numpy as np

from profit_optax.compare import Task

OLD, NEW = np.array([1.0, -1.0]), np.array([1.5, -0.5])
EXAMPLES, BATCH = 24, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(EXAMPLES, 2)).astype(np.float32)
DATA = {"x": X, "y": (X @ NEW + 0.1 * RNG.normal(size=EXAMPLES)).astype(np.float32)}


def loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def distance(params, solution):
    return -float(np.linalg.norm(np.asarray(params["w"], np.float64) - solution))


def evaluate(params):
    return {"old": distance(params, OLD), "new": distance(params, NEW)}


def lines(batches=DATA, **changes):
    fields = {"params": {"w": jnp.asarray(OLD, jnp.float32)}, "loss": loss, "evaluate": evaluate, "batch_size": BATCH}
    return Task(batches=batches, **(fields | changes))


def loader(seed, epochs=1):
    """An iterator that ends."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for at in rng.permutation(EXAMPLES).reshape(-1, BATCH):
            yield {name: values[at] for name, values in DATA.items()}
