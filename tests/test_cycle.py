"""The steps that the forms share, where a narrower dtype or a fresh state would go unnoticed elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import orthogonalize, profit, profit_transparent

# In bfloat16 numbers of this size are 4 apart, so that 1004 − 1 is none of them.
FAR = 1003.0


def test_a_displacement_far_larger_than_narrow_parameters_is_undone():
    tx = profit_transparent(optax.sgd(0.0), optax.sgd(1.0))
    params, grads = jnp.ones(3, jnp.bfloat16), jnp.full(3, -FAR, jnp.float32)
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params, 1.0)


def test_a_difference_is_taken_in_the_dtype_that_it_is_kept_in():
    tx = profit(optax.sgd(0.1), optax.sgd(1.0), displacement="subtract", displacement_dtype="float32")
    params, grads = jnp.ones(1, jnp.bfloat16), jnp.full(1, -FAR, jnp.float32)
    closure = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.zeros(1)}
    _, state = tx.update(grads, tx.init(params), params, **closure)
    assert float(state.metrics.displacement_norm) == FAR


@pytest.mark.parametrize("name", ["displacement_norm", "cosine", "inner_product"])
def test_metrics_have_finite_derivatives_where_nothing_is_displaced(name):
    g, d = jnp.array([1.0, 2.0]), jnp.array([-1.0, 0.5])
    derivative = jax.grad(lambda scale: getattr(orthogonalize(g, scale * d)[1], name))(0.0)
    assert np.isfinite(derivative)
    for of_gradient in ("gradient_norm", name):
        derivative = jax.grad(lambda scale, of=of_gradient: getattr(orthogonalize(scale * g, d)[1], of))(0.0)
        assert np.isfinite(derivative)


def from_params(rate):
    """SGD whose state remembers the parameters that `init` was given."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(lambda p: p + 0, params),
        lambda updates, state, params=None: (optax.tree.scale(-rate, updates), state),
    )


@pytest.mark.parametrize("make", [profit, profit_transparent])
@pytest.mark.parametrize("reset", [True, False])
def test_the_reference_state_is_made_anew_at_the_start_of_main_steps_alone_and_only_if_asked(make, reset):
    tx = make(optax.sgd(0.5), from_params(0.25), warmup_steps=2, reset_reference_state=reset)
    params, grads = jnp.array([4.0]), jnp.array([1.0])
    closure = {"value_and_grad_fn": lambda p, b: (0.0, -grads), "batches": jnp.zeros(1)}
    state, held = tx.init(params), params
    for step in range(3):
        updates, state = tx.update(grads, state, held, **(closure if make is profit else {}))
        held = optax.apply_updates(held, updates)
        # After the two steps of the warm-up the parameters are 3, from which the first reference step starts.
        assert float(state.reference_state[0]) == (3.0 if reset and step == 2 else 4.0)
