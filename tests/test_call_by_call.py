"""What holds of both forms that take one gradient a call."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit_transparent
from tests import forms, regression
from tests.forms import one_line


class CallByCall(NamedTuple):
    """A form, as these tests drive it.

    Attributes:
      name: that of the form in `tests.forms`.
      make: `make(optimizer, reference_optimizer, **options)`.
      rows: main steps, and gradients that each takes: the leading axes of what `run` is given.
      calls: how many calls take all of the gradients.
      n_ref: reference steps in a main step.
      batches: those of the regression, one a call.
    """

    name: str
    make: Callable[..., Any]
    rows: tuple[int, int]
    calls: int
    n_ref: int
    batches: Callable[[], Any]

    def run(self, tx: Any, gradients: Any, params: Any) -> forms.Run:
        return forms.run_on_gradients(tx, self.name, gradients, params, self.n_ref)


TRANSPARENT = CallByCall(
    "transparent",
    functools.partial(profit_transparent, n_ref=2),
    rows=(4, 3),
    calls=4,
    n_ref=2,
    batches=lambda: forms.one_batch_a_call(regression.data(4, 3)),
)
LAGGED = CallByCall(
    "one-line",
    one_line,
    rows=(6, 1),
    calls=4,
    n_ref=1,
    batches=lambda: jax.tree.map(lambda x: x[:, 0], regression.data(6, 1)),
)


@pytest.fixture(params=[TRANSPARENT, LAGGED], ids=lambda form: form.name)
def form(request):
    return request.param


@pytest.mark.parametrize(("params_dtype", "grads_dtype"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_updates_have_the_dtypes_of_the_gradients_at_every_call(form, params_dtype, grads_dtype):
    tx = form.make(optax.sgd(0.1), optax.sgd(0.1))
    params = {"a": jnp.ones(2, params_dtype), "b": jnp.ones(2)}
    grads = {"a": jnp.ones(2, grads_dtype), "b": jnp.ones(2)}
    state = tx.init(params)
    for _ in range(form.calls):
        updates, state = jax.jit(tx.update)(grads, state, params)
        assert (updates["a"].dtype, updates["b"].dtype) == (jnp.dtype(grads_dtype), jnp.float32)
        params = optax.apply_updates(params, updates)


def test_a_complex_leaf_enters_as_its_real_and_imaginary_parts(form):
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=(*form.rows, 5)).astype(np.float32) + 0.5 for name in ("re", "im")}
    start = {"re": jnp.ones(5), "im": jnp.zeros(5)}
    tx = form.make(optax.sgd(0.1), optax.sgd(0.05), displacement_dtype="float32")
    expected = form.run(tx, parts, start)
    run = form.run(tx, {"z": parts["re"] + 1j * parts["im"]}, {"z": start["re"] + 1j * start["im"]})
    assert run.state.displacement["z"].dtype == jnp.complex64
    np.testing.assert_allclose(run.params["z"].real, expected.params["re"], atol=1e-6)
    np.testing.assert_allclose(run.params["z"].imag, expected.params["im"], atol=1e-6)
    np.testing.assert_allclose(run.metrics.inner_product, expected.metrics.inner_product, rtol=1e-5, atol=1e-6)
    assert np.any(expected.metrics.conflict)


@pytest.mark.parametrize("params", [{}, {"none": None, "size 0": jnp.zeros((0, 3))}, {"w": jnp.zeros(2)}])
def test_empty_trees_and_zero_gradients_give_no_nan(form, params):
    tx = form.make(optax.sgd(0.1), optax.sgd(0.05), displacement_dtype="float32")
    update, state, zeros = jax.jit(tx.update), tx.init(params), params
    for _ in range(form.calls):
        updates, state = update(zeros, state, params)
        params = optax.apply_updates(params, updates)
    forms.assert_same(params, zeros)
    assert not np.any(jax.tree.leaves(state.metrics))


def test_leaves_that_are_frozen_in_both_optimizers_count_in_the_norm_of_the_gradient_alone(form):
    rng = np.random.default_rng(0)
    params = {"w": jnp.ones(3), "frozen": jnp.ones(4)}
    gradients = jax.tree.map(lambda x: rng.normal(size=(*form.rows, *x.shape)).astype(np.float32) + 0.5, params)

    def freeze(inner):
        return optax.partition({"train": inner, "freeze": optax.set_to_zero()}, {"w": "train", "frozen": "freeze"})

    main, reference = optax.sgd(0.1, momentum=0.5), optax.sgd(0.05)
    run = form.run(form.make(freeze(main), freeze(reference)), gradients, params)
    frozen = gradients.pop("frozen")
    expected = form.run(form.make(main, reference), gradients, {"w": params["w"]})
    np.testing.assert_allclose(run.params["w"], expected.params["w"], rtol=1e-6)
    np.testing.assert_array_equal(run.params["frozen"], 1.0)
    np.testing.assert_allclose(run.metrics.inner_product, expected.metrics.inner_product, rtol=1e-5)
    np.testing.assert_allclose(run.metrics.displacement_norm, expected.metrics.displacement_norm, rtol=1e-6)
    arrived = frozen[:, 0] if form.name == "one-line" else frozen[:, -1]
    squares = expected.metrics.gradient_norm**2 + np.sum(arrived**2, axis=-1)
    np.testing.assert_allclose(run.metrics.gradient_norm, np.sqrt(squares), rtol=1e-6)


def test_a_vmapped_sweep_of_reference_rates_equals_each_rate_alone(form):
    rates, batches = jnp.array([0.1, 0.02]), form.batches()

    def run(rate):
        tx = form.make(optax.sgd(0.05), optax.sgd(rate), warmup_steps=1)
        return forms.last(forms.run_calls(tx, regression.params(), batches).theta)

    swept = jax.vmap(run)(rates)
    for i, rate in enumerate(rates):
        one = jax.tree.map(lambda x, i=i: x[i], swept)
        assert forms.relative_error(one, run(rate), regression.params()) <= 2e-5


def test_it_refuses_to_be_called_without_params(form):
    tx = form.make(optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match=f"profit_{form.name} needs the parameters"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_it_refuses_gradients_of_another_tree_or_shape(form):
    tx, params = form.make(optax.sgd(0.1), optax.sgd(0.1)), {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="grads must have the tree structure of params"):
        tx.update({"v": jnp.ones(2)}, tx.init(params), params)
    with pytest.raises(ValueError, match=r"grads must have the shapes of params: at \['w'\]"):
        tx.update({"w": jnp.ones(3)}, tx.init(params), params)
