"""The closure form under JAX's own transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit, reject_nonfinite
from tests import agreement, regression
from tests.steps import assert_close, given, one_step, take_step

OPTIONS = [{}, {"warmup_steps": 1}, {"displacement": "subtract"}, {"displacement_dtype": "bfloat16"}]


def test_vmap_over_reference_rates_is_a_loop_over_them():
    def step(rate):
        return one_step(profit(optax.sgd(0.1), optax.sgd(rate), 2))

    rates = jnp.array([1e-8, 1e-2, 1.0])
    updates, state = jax.vmap(step)(rates)
    step = jax.jit(step)
    for i, rate in enumerate(rates):
        expected, expected_state = step(rate)
        assert_close({name: u[i] for name, u in updates.items()}, expected, tolerance=1e-4)
        assert_close(state.metrics.cosine[i], expected_state.metrics.cosine, tolerance=1e-4)


@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_vmap_over_seeds_is_a_loop_over_them(warmup_steps):
    tx = reject_nonfinite(profit(optax.adam(0.03), optax.sgd(0.02), 2, warmup_steps=warmup_steps), 3)
    start = regression.params()
    data = [regression.data(4, 3, seed=seed) for seed in range(3)]
    run = jax.jit(lambda data: agreement.run_closure(tx, start, data))
    runs = jax.jit(jax.vmap(run))(jax.tree.map(lambda *x: np.stack(x), *data))
    conflicts = np.asarray(runs.metrics.conflict)
    assert set(conflicts[:, warmup_steps:].flat) == {True, False}
    for i in range(3):
        expected = run(data[i])
        assert_close({name: x[i] for name, x in runs.params.items()}, expected.params, tolerance=1e-4)
        np.testing.assert_array_equal(conflicts[i], expected.metrics.conflict)


def test_vmapped_states_may_be_at_different_moments_of_the_warm_up():
    tx = profit(optax.identity(), optax.sgd(1.0), warmup_steps=1)
    params = jnp.ones(1)
    states = jax.tree.map(lambda x: jnp.stack([x, x]), tx.init(params))
    states = states._replace(count=jnp.array([0, 1], jnp.int32))

    def update(state):
        g1, g2 = jnp.array([-1.0]), jnp.array([[3.0]])
        return tx.update(g1, state, params, value_and_grad_fn=given, batches=g2)

    updates, states = jax.vmap(update)(states)
    np.testing.assert_array_equal(updates, [[-1.0], [3.0]])
    np.testing.assert_array_equal(states.metrics.displacement_norm, [0.0, 1.0])
    np.testing.assert_array_equal(states.count, [1, 2])


@pytest.mark.parametrize("guard", [lambda tx: tx, lambda tx: reject_nonfinite(tx, 3)], ids=["bare", "guarded"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_params_and_state_can_be_donated(options, guard):
    tx = guard(profit(optax.adamw(0.1), optax.sgd(0.02, momentum=0.9), 2, **options))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, data):
        first, others = jax.tree.map(lambda x: x[0], data), jax.tree.map(lambda x: x[1:], data)
        _, grads = regression.value_and_grad_fn(params, first)
        updates, state = tx.update(grads, state, params, value_and_grad_fn=regression.value_and_grad_fn, batches=others)
        return optax.apply_updates(params, updates), state

    data = regression.data(3, 3)
    params = regression.params()
    state = tx.init(params)
    for i in range(3):
        donated = jax.tree.leaves((params, [optax.tree.get(state, name) for name in ("mu", "nu", "trace")]))
        params, state = step(params, state, {name: x[i] for name, x in data.items()})
        assert all(x.is_deleted() for x in donated)
    expected = agreement.run_closure(tx, regression.params(), data)
    assert_close(params, expected.params, tolerance=1e-4)
    assert step._cache_size() == 1


def test_init_gives_arrays_of_their_own():
    params = regression.params()
    state = reject_nonfinite(profit(optax.adamw(0.1), optax.sgd(0.1, momentum=0.9)), 1).init(params)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_init_works_abstractly(options):
    tx = reject_nonfinite(profit(optax.adamw(0.1), optax.sgd(0.1, momentum=0.9), 2, **options), 1)
    params = regression.params()
    abstract = jax.eval_shape(tx.init, jax.eval_shape(lambda: params))
    concrete = tx.init(params)
    assert jax.tree.structure(abstract) == jax.tree.structure(concrete)
    describe = lambda x: (x.shape, x.dtype)  # noqa: E731
    assert jax.tree.map(describe, abstract) == jax.tree.map(describe, concrete)


def test_a_step_without_jit_is_the_step_with_it():
    tx = profit(optax.adam(0.1), optax.sgd(0.02, momentum=0.9), 2)
    g1, g2 = jnp.array([1.0, 2.0]), jnp.array([[1.0, 1.0], [2.0, 1.0]])
    without = tx.update(g1, tx.init(g1), g1, value_and_grad_fn=given, batches=g2)
    assert_close(take_step(tx, g1, g1, g2), without)


@pytest.mark.parametrize("displacement", ["accumulate", "subtract"])
@pytest.mark.parametrize("n_ref", [1, 2])
def test_a_step_can_be_differentiated_by_the_reference_rate(n_ref, displacement):
    data = jax.tree.map(lambda x: x[0], regression.data(1, n_ref + 1))
    first, others = jax.tree.map(lambda x: x[0], data), jax.tree.map(lambda x: x[1:], data)

    def loss_after_a_step(rate):
        tx = profit(optax.sgd(0.1), optax.sgd(rate), n_ref, displacement=displacement)
        params = regression.params()
        _, grads = regression.value_and_grad_fn(params, first)
        updates, _ = tx.update(
            grads,
            tx.init(params),
            params,
            value_and_grad_fn=regression.value_and_grad_fn,
            batches=others,
        )
        return regression.value_and_grad_fn(optax.apply_updates(params, updates), first)[0]

    slope = jax.jit(jax.grad(loss_after_a_step))(0.05)
    difference = (loss_after_a_step(0.055) - loss_after_a_step(0.045)) / 0.01
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, difference, rtol=0.05)
