"""Agreement with Algorithm 1 to the last digits, and what 64-bit leaves change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import orthogonalize, profit
from tests import agreement, algorithm1, regression
from tests.steps import types

EPS = float(jnp.finfo(jnp.float64).eps)


@pytest.mark.parametrize("n_ref", [1, 2, 3, 5])
@pytest.mark.parametrize("reference", agreement.REFERENCE)
@pytest.mark.parametrize("main", agreement.MAIN)
def test_six_steps_agree_with_algorithm_1(main, reference, n_ref):
    agreement.assert_agrees(main, reference, n_ref, np.float64, tolerance=1e-10)


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        (["float32", "bfloat16"], "float32"),
        (["float32", "complex64"], "float32"),
        (["float32", "float64"], "float64"),
        (["bfloat16", "complex128"], "float64"),
        ([], "float32"),
    ],
    ids=str,
)
def test_metrics_are_float64_where_a_leaf_has_64_bits(leaves, expected):
    tree = {dtype: jnp.ones(2, dtype) for dtype in leaves}
    tx = profit(optax.sgd(0.1), optax.sgd(0.1), warmup_steps=1)
    state = tx.init(tree)
    closure = lambda params, batch: (0.0, params)  # noqa: E731
    for metrics in (
        state.metrics,
        tx.update(tree, state, tree, value_and_grad_fn=closure, batches=())[1].metrics,
        orthogonalize(tree, tree)[1],
    ):
        assert [x.dtype for x in metrics] == [expected, expected, "bool", expected, expected]


def test_float32_training_stays_in_float32():
    def closure(params, batch):
        value, grads = regression.value_and_grad_fn(params, batch)
        return value, jax.tree.map(lambda g: g.astype(jnp.float64), grads)

    tx = profit(optax.adamw(0.1), optax.sgd(0.1, momentum=0.9), 2)
    params = regression.params(np.float32)
    data = jax.tree.map(lambda x: x[0], regression.data(1, 2))
    state = tx.init(params)
    updates, after = tx.update(params, state, params, value_and_grad_fn=closure, batches=data)
    assert types(updates) == types(params)
    assert types(after) == types(state)


@pytest.mark.parametrize("rate", [1e100, 1.0, 1e-30, 1e-120, 1e-200])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_gradient_is_exact_at_scales_that_float32_does_not_know(rate, dtype):
    rng = np.random.default_rng(0)
    g1 = rng.normal(size=(2, 50)).view(dtype) * 1e-30
    g2 = rng.normal(size=(2, 50)).view(dtype) * 1e-30 + g1
    result, metrics = orthogonalize(jnp.asarray(g2), jnp.asarray(-rate * g1))
    exact = algorithm1.project({"x": g2.view(np.float64)}, {"x": -g1.view(np.float64)})
    error = np.linalg.norm(np.asarray(result).view(np.float64) - exact.gradient["x"])
    assert metrics.conflict
    assert error <= 16 * EPS * exact.gradient_norm
    np.testing.assert_allclose(metrics.cosine, exact.cosine, rtol=16 * EPS)


def test_sums_are_accumulated_in_float64_where_a_leaf_has_64_bits():
    # 1 + 1e-10 is 1 in float32.
    g = {"wide": jnp.array([1e-10]), "narrow": jnp.array([-1.0, 1.0], jnp.float32)}
    delta = {"wide": jnp.array([-1.0]), "narrow": jnp.array([1.0, 1.0], jnp.float32)}
    _, metrics = orthogonalize(g, delta)
    np.testing.assert_allclose(metrics.inner_product, -1e-10, rtol=4 * EPS)
