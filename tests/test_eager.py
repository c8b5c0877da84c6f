"""Calls outside of jit: nothing is compiled from the second one on, and their results are those of compiled ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import orthogonalize, orthogonalize_to_previous, profit, profit_transparent, reject_nonfinite
from tests.steps import EPS, assert_close

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(4)}
MAIN, REFERENCE = optax.adamw(1e-2), optax.sgd(1e-3, momentum=0.5)
OPTIMIZERS = {
    "profit": (profit(MAIN, REFERENCE), 1),
    "n_ref 3": (profit(MAIN, REFERENCE, 3), 3),
    "n_ref 9": (profit(MAIN, REFERENCE, 9), 9),
    "subtract": (profit(MAIN, REFERENCE, 2, displacement="subtract"), 2),
    "warm-up": (profit(MAIN, REFERENCE, 2, warmup_steps=2), 2),
    "masked": (profit(MAIN, REFERENCE, mask={"w": True, "b": False}), 1),
    "transparent": (profit_transparent(MAIN, REFERENCE, 2, warmup_steps=1), 0),
    "one line": (optax.chain(orthogonalize_to_previous(), MAIN), 0),
    "guarded": (reject_nonfinite(profit(MAIN, REFERENCE), 2), 1),
}


@jax.jit
def value_and_grad(params, batch):
    # Gradients of different batches have different directions: what is left after projecting is no rounding.
    loss = lambda p: jnp.sum(jnp.sin(3 * batch * p["w"] + batch**2)) + jnp.sum(jnp.cos(p["b"] * batch))  # noqa: E731
    return jax.value_and_grad(loss)(params)


def steps(tx, n_ref, count, update):
    params, state = PARAMS, tx.init(PARAMS)
    batches = jnp.arange(1.0, n_ref + 1.0)
    extra = {"value_and_grad_fn": value_and_grad, "batches": batches} if n_ref else {}
    for i in range(count):
        _, grads = value_and_grad(params, 1.0 + i)
        updates, state = update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_is_compiled_after_every_kind_of_call_was_made_once(name, compilations):
    tx, n_ref = OPTIMIZERS[name]
    steps(tx, n_ref, 6, tx.update)
    before = len(compilations)
    steps(tx, n_ref, 6, tx.update)
    assert len(compilations) == before
    jax.jit(lambda x: x * 1.2345)(jnp.ones(5))
    assert len(compilations) > before, "the counter must count for this to say anything"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_calls_outside_of_jit_are_those_inside(name):
    tx, n_ref = OPTIMIZERS[name]

    def compiled(grads, state, params, **extra):
        function = extra.pop("value_and_grad_fn", None)
        if function is None:
            return jax.jit(tx.update)(grads, state, params)
        return jax.jit(lambda g, s, p, b: tx.update(g, s, p, value_and_grad_fn=function, batches=b))(
            grads, state, params, extra["batches"]
        )

    assert_close(steps(tx, n_ref, 4, tx.update), steps(tx, n_ref, 4, compiled), 512 * EPS)


def test_orthogonalize_compiles_once(compilations):
    g, d = PARAMS, jax.tree.map(lambda x: -x, PARAMS)
    orthogonalize(g, d)
    before = len(compilations)
    projected, _ = orthogonalize(g, d)
    assert len(compilations) == before
    np.testing.assert_allclose(projected["b"], 0, atol=8 * EPS)


@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_a_state_may_hold_python_numbers(make):
    def init(params):
        del params
        return {"count": 0}

    def update(updates, state, params=None):
        del params
        return optax.tree.scale(-0.1, updates), {"count": state["count"] + 1}

    counting = optax.GradientTransformation(init, update)
    tx = make(counting, optax.sgd(0.01))
    state = tx.init(PARAMS)
    closure = {"value_and_grad_fn": value_and_grad, "batches": jnp.ones(1)} if make is profit else {}
    for _ in range(4):
        _, state = tx.update(PARAMS, state, PARAMS, **closure)
    assert state.optimizer_state["count"] == (4 if make is profit else 2)
