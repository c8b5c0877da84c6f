"""Leaves frozen by `optax.partition` inside both optimizers are, for every form, as if they were not there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit, profit_lagged, profit_transparent
from profit_optax.training import make_train_step
from tests import regression

EPS = float(jnp.finfo(jnp.float32).eps)
FORMS = {"closure": profit, "transparent": profit_transparent, "lagged": profit_lagged}
STEPS, N_REF = 6, 1


def head_only(optimizer):
    labels = {"w": "frozen", "b": "frozen", "v": "trained"}
    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


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
    partitioned, seen = run(FORMS[form](head_only(main), head_only(reference)), regression.loss_fn, params)
    alone, expected = run(
        FORMS[form](main, reference), lambda p, batch: regression.loss_fn({**frozen, **p}, batch), {"v": params["v"]}
    )
    np.testing.assert_allclose(partitioned["v"], alone["v"], rtol=64 * EPS, atol=64 * EPS)
    jax.tree.map(np.testing.assert_array_equal, {"w": partitioned["w"], "b": partitioned["b"]}, frozen)
    assert seen.keys() == expected.keys()
    for name in seen:
        np.testing.assert_allclose(seen[name], expected[name], rtol=256 * EPS, atol=256 * EPS)
    assert jnp.any(seen["conflict"])
