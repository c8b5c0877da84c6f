"""Leaves that `mask` freezes are, in a training loop of every form, as if they were not there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit, profit_transparent
from profit_optax.training import make_train_step
from tests import regression

EPS = float(jnp.finfo(jnp.float32).eps)
FORMS = {"closure": profit, "transparent": profit_transparent}
STEPS, N_REF = 6, 1


def run(tx, loss_fn, params):
    train_step = make_train_step(loss_fn, tx, donate=False)
    state, seen = tx.init(params), []
    for batches in zip(*regression.data(STEPS, N_REF + 1).values(), strict=True):
        params, state, metrics = train_step(params, state, dict(zip(("x", "y"), batches, strict=True)))
        seen.append(metrics)
    return eval_params(state, params), jax.tree.map(lambda *x: jnp.stack(x), *seen)


@pytest.mark.parametrize("form", FORMS)
def test_frozen_leaves_take_no_part_in_the_projection_and_the_metrics(form):
    params = regression.params()
    frozen = {"w": params["w"], "b": params["b"]}
    main, reference = optax.adamw(0.05), optax.sgd(0.05)
    mask = {"w": False, "b": False, "v": True}
    masked, seen = run(FORMS[form](main, reference, mask=mask), regression.loss_fn, params)
    alone, expected = run(
        FORMS[form](main, reference), lambda p, batch: regression.loss_fn({**frozen, **p}, batch), {"v": params["v"]}
    )
    np.testing.assert_allclose(masked["v"], alone["v"], rtol=64 * EPS, atol=64 * EPS)
    jax.tree.map(np.testing.assert_array_equal, {"w": masked["w"], "b": masked["b"]}, frozen)
    assert seen.keys() == expected.keys()
    for name in seen:
        np.testing.assert_allclose(seen[name], expected[name], rtol=256 * EPS, atol=256 * EPS)
    assert jnp.any(seen["conflict"])
