"""A small nonlinear regression, in JAX and in NumPy: what most tests fine-tune."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.algorithm1 import Tree


def params(dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,), "v": (4,)}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def data(steps: int, n_batches: int, dtype: Any = np.float32, *, seed: int = 1, size: int = 4) -> dict[str, np.ndarray]:
    """Leaves [steps, n_batches, size, ...]; labels so noisy that two gradients agree or conflict by chance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, n_batches, size, 3))
    y = np.sin(x.sum(axis=-1)) + 2 * rng.normal(size=x.shape[:-1])
    return {"x": x.astype(dtype), "y": y.astype(dtype)}


def loss_fn(params: Any, batch: Any) -> jax.Array:
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    return jnp.mean((hidden @ params["v"] - batch["y"]) ** 2)


value_and_grad_fn = jax.value_and_grad(loss_fn)


def gradient(theta: Tree, batch: Tree) -> Tree:
    """The gradient of `loss_fn`, by hand."""
    x, y = batch["x"], batch["y"]
    hidden = np.tanh(x @ theta["w"] + theta["b"])
    d_out = 2 * (hidden @ theta["v"] - y) / len(y)
    d_pre = np.outer(d_out, theta["v"]) * (1 - hidden**2)
    return {"w": x.T @ d_pre, "b": d_pre.sum(axis=0), "v": hidden.T @ d_out}
