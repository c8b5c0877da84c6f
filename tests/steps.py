"""Single steps of the closure form, and the comparison of pytrees."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests import regression

EPS = float(jnp.finfo(jnp.float32).eps)


def given(params: Any, batch: Any) -> Any:
    """A closure whose batches are the gradients themselves."""
    return jnp.zeros(()), batch


def take_step(
    tx: optax.GradientTransformationExtraArgs,
    params: Any,
    grads: Any,
    batches: Any,
    state: Any = None,
    value_and_grad_fn: Any = given,
) -> tuple[Any, Any]:
    """The updates and the state after one jitted update, from the initial state or a given one."""

    @jax.jit
    def update(grads: Any, state: Any, params: Any, batches: Any) -> Any:
        return tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=batches)

    return update(grads, tx.init(params) if state is None else state, params, batches)


def one_step(
    tx: optax.GradientTransformationExtraArgs,
    params: Any = None,
    *,
    n_ref: int = 2,
    value_and_grad_fn: Any = regression.value_and_grad_fn,
    **extra_args: Any,
) -> tuple[Any, Any]:
    """The updates and the state after one step of the regression."""
    data = jax.tree.map(lambda x: x[0], regression.data(1, n_ref + 1))
    first, others = jax.tree.map(lambda x: x[0], data), jax.tree.map(lambda x: x[1:], data)

    @jax.jit
    def step(params: Any) -> Any:
        _, grads = value_and_grad_fn(params, first)
        state = tx.init(params)
        return tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others, **extra_args)

    return step(regression.params() if params is None else params)


def assert_close(tree: Any, other: Any, tolerance: float = 64 * EPS) -> None:
    """Two pytrees differ by no more than `tolerance`, relative to each entry or to 1."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), tree, other)


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.abs(np.asarray(x, np.float64)) ** 2) for x in jax.tree.leaves(tree))))


def types(tree: Any) -> Any:
    """What of a pytree decides whether a call compiles anew."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
