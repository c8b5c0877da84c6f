"""A small problem with complex parameters, in JAX and, on their real and imaginary parts, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.algorithm1 import Profit, Sgd, Tree

STEPS, N_REF = 6, 2
RATE, REFERENCE_RATE = 0.2, 0.1


def start() -> jax.Array:
    return jnp.asarray([1 + 1j, -1 + 2j, 0.5 - 1j], jnp.complex64)


def data() -> np.ndarray:
    """Batches [STEPS, N_REF + 1, 8, 3] of complex targets: eight examples, which eight devices can share."""
    rng = np.random.default_rng(1)
    shape = (STEPS, N_REF + 1, 8, 3)
    # So noisy that two gradients agree or conflict by chance.
    return (3 * rng.normal(size=shape) + 3j * rng.normal(size=shape)).astype(np.complex64)


def loss_fn(z: jax.Array, batch: jax.Array) -> jax.Array:
    """Not holomorphic, as no loss is: its gradient and the conjugate of that differ."""
    return jnp.mean(jnp.sum(jnp.log1p(jnp.abs(z[None] - batch) ** 2), axis=-1))


def gradient(theta: Tree, batch: np.ndarray) -> Tree:
    """The gradient of `loss_fn` by the real and the imaginary parts, by hand."""
    z = theta["real"] + 1j * theta["imag"] - batch.astype(np.complex128)
    slope = np.mean(2 * z / (1 + np.abs(z) ** 2), axis=0)
    return {"real": slope.real, "imag": slope.imag}


def by_hand() -> np.ndarray:
    """θ after PROFIT's steps with plain SGD for both, from Algorithm 1 on the parts."""
    theta = {"real": np.float64(start().real), "imag": np.float64(start().imag)}
    algorithm = Profit(Sgd(RATE), Sgd(REFERENCE_RATE), N_REF)
    for batches in data():
        theta = algorithm.step(theta, gradient, list(batches))
    assert {projection.conflict for projection in algorithm.projections} == {True, False}
    return theta["real"] + 1j * theta["imag"]


def assert_right(z: jax.Array) -> None:
    """Whether a run on `data` ended where it should."""
    expected = by_hand()
    moved = np.linalg.norm(expected - np.asarray(start()))
    assert np.linalg.norm(np.asarray(z) - expected) <= 1000 * float(jnp.finfo(jnp.float32).eps) * moved
