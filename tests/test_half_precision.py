"""Training in bfloat16 in both ways: the parameters, with the state in float32, or only the computation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import tuning
from tests.tuning import HALF_PRECISION, relative_error

ROUNDING = float(jnp.finfo(jnp.bfloat16).eps)


@pytest.mark.parametrize("form", tuning.FORMS)
@pytest.mark.parametrize("case", HALF_PRECISION)
def test_training_in_bfloat16_follows_the_run_in_float32(case, form):
    dtype, loss_fn, options = HALF_PRECISION[case]
    tx = tuning.make(form, **options)
    call = jax.jit(tuning.call_of(form, tx, jax.value_and_grad(loss_fn)))
    result = tuning.run(form, call, tuning.start(dtype), tx.init(tuning.start(dtype)), tuning.data(form))
    expected = tuning.on_one_device(form)

    # Parameters are rounded anew in every one of the steps.
    tolerance = tuning.STEPS * ROUNDING
    assert tolerance < 0.5 * relative_error(tuning.start(), expected.theta)
    assert relative_error(result.theta, expected.theta) <= tolerance
    np.testing.assert_array_equal(result.metrics.conflict, expected.metrics.conflict)
    np.testing.assert_allclose(result.metrics.cosine, expected.metrics.cosine, atol=tolerance)


@pytest.mark.parametrize("form", tuning.FORMS)
@pytest.mark.parametrize("case", HALF_PRECISION)
def test_training_in_bfloat16_keeps_every_dtype(case, form):
    dtype, loss_fn, options = HALF_PRECISION[case]
    tx = tuning.make(form, **options)
    params = tuning.start(dtype)
    batches = jax.tree.map(lambda x: x[0], tuning.data(form))
    step = jax.jit(tuning.call_of(form, tx, jax.value_and_grad(loss_fn)))
    after_params, after_state, _ = step(params, tx.init(params), batches)

    dtypes = lambda tree: jax.tree.map(lambda x: jnp.dtype(x.dtype), tree)  # noqa: E731
    assert dtypes(after_params) == dtypes(params)
    assert dtypes(after_state) == dtypes(tx.init(params))
    # What the optimizers keep is in float32 in both cases, and so is what the form keeps between calls.
    kept = {"closure": (), "transparent": ("displacement",), "one-line": ("previous",)}[form]
    for name in ("mu", "nu", *kept):
        assert {x.dtype for x in jax.tree.leaves(optax.tree.get(after_state, name))} == {jnp.dtype("float32")}
