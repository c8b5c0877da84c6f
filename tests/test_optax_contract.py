"""What Optax asks of every optimizer in its `contrib`, asked of every optimizer here."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit_adamw, profit_sgd
from tests import forms

CALL_BY_CALL = [name for name, case in forms.CASES.items() if case.form != "closure"]


@pytest.fixture(params=forms.CASES)
def case(request):
    return forms.CASES[request.param]


def parabola(params):
    return jnp.sum((params - jnp.array([1.0, -1.0, 1.0], params.dtype)) ** 2)


def bowl(params):
    """A parabola whose gradients turn, so that something is left of them when PROFIT has projected."""
    return jnp.sum(jnp.array([3.0, 1.0, 0.3], params.dtype) * (params - jnp.ones((), params.dtype)) ** 2)


def start(dtype="float32"):
    return jnp.array([-1.0, 10.0, 2.0], dtype)


def stepper(case, tx, objective=bowl, **extra_args):
    driven = forms.with_closure(case, tx, objective)

    def step(params, state):
        updates, state = driven.update(jax.grad(objective)(params), state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    return step


def types(tree):
    return jax.tree.map(jax.typeof, tree)


def assert_close(x, y, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), x, y)


def test_unknown_extra_args_change_nothing_and_compile_nothing_twice(case):
    tx = case.make()
    step = jax.jit(stepper(case, tx, extra_arg_that_nobody_expects=1))
    plain = jax.jit(stepper(case, tx))
    given = expected = start(), tx.init(start())
    for _ in range(3):
        given, expected = step(*given), plain(*expected)
        forms.assert_same(given, expected)
    assert step._cache_size() == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_updates_keep_the_dtype_and_the_state_its_types_at_every_call(case, dtype):
    tx = case.make()
    params = start(dtype)
    state = tx.init(params)
    expected, step = types((params, state)), jax.jit(stepper(case, tx))
    for _ in range(4):
        params, state = step(params, state)
        assert types((params, state)) == expected
    assert step._cache_size() == 1


def test_an_update_can_be_a_branch_of_a_cond(case):
    tx = case.make()
    step = stepper(case, tx)
    carry = start(), tx.init(start())
    maybe = jax.jit(lambda take, carry: jax.lax.cond(take, step, lambda *carry: carry, *carry))
    forms.assert_same(maybe(False, carry), carry)
    assert_close(maybe(True, carry), jax.jit(step)(*carry))


def test_injected_hyperparameters_equal_plain_ones(case):
    injected = optax.inject_hyperparams(case.factory, static_args=case.static_args)(**case.options)
    plain = case.make()
    step, injected_step = jax.jit(stepper(case, plain)), jax.jit(stepper(case, injected))
    expected, given = (start(), plain.init(start())), (start(), injected.init(start()))
    for _ in range(3):
        expected, given = step(*expected), injected_step(*given)
        assert_close((given[0], given[1].inner_state), expected, rtol=1e-4)


def test_a_schedule_of_one_number_equals_the_number(case):
    carries = []
    for rate in (0.01, optax.constant_schedule(0.01)):
        tx = case.at_rate(rate)
        step, carry = jax.jit(stepper(case, tx)), (start(), tx.init(start()))
        for _ in range(3):
            carry = step(*carry)
        carries.append(carry[0])
    assert_close(*carries)


@pytest.mark.parametrize("alias", [profit_sgd, profit_adamw])
def test_an_alias_says_that_it_takes_schedules(alias):
    assert inspect.signature(alias).parameters["learning_rate"].annotation == optax.ScalarOrSchedule


def test_map_params_finds_what_has_the_shape_of_the_parameters(case):
    tx = case.make()
    params = {"a": jnp.ones((2, 3)), "b": (jnp.ones(4),)}
    state = tx.init(params)
    forms.assert_same(optax.tree.map_params(tx, lambda x: x, state), state)
    mapped = optax.tree.map_params(tx, lambda x: x + 1, state)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_array_equal(y, x + 1 if x.ndim else x)
    together = optax.tree.map_params(tx, lambda x, p: x + p, state, params)
    forms.assert_same(together, mapped)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_init_takes_abstract_parameters(case, dtype):
    tx = case.make()
    params = {"a": jnp.ones((2, 4, 8), dtype), "b": (jnp.ones(4),)}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    expected = types(tx.init(params))
    shapes = jax.eval_shape(tx.init, abstract)
    assert jax.tree.structure(shapes) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(shapes), jax.tree.leaves(expected), strict=True):
        assert (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
    assert types(jax.jit(tx.init)(params)) == expected
    assert tx.init(abstract) is not None


@pytest.mark.parametrize("init", [lambda tx: tx.init, lambda tx: jax.jit(tx.init)], ids=["eager", "jit"])
def test_params_and_state_can_be_donated_from_the_first_call_on(case, init):
    tx = case.make()
    params = start()
    carry = params, init(tx)(params)
    step = jax.jit(stepper(case, tx), donate_argnums=(0, 1))
    plain = jax.jit(stepper(case, tx))
    expected = start(), tx.init(start())
    for _ in range(4):
        given, carry = carry, step(*carry)
        expected = plain(*expected)
        assert all(x.is_deleted() for x in jax.tree.leaves(given) if x.ndim)
    assert_close(carry, expected)


def test_init_does_not_alias_the_parameters(case):
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}
    state = case.make().init(params)
    pointers = {x.unsafe_buffer_pointer() for x in jax.tree.leaves(params)}
    assert pointers.isdisjoint(x.unsafe_buffer_pointer() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("name", CALL_BY_CALL)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_multi_steps_accumulates_the_gradients_of_a_call(name, dtype):
    case, k = forms.CASES[name], 2
    grads = jax.random.normal(jax.random.key(0), (4, k, 3)).astype(dtype)
    tx, multi = case.make(), optax.MultiSteps(case.make(), every_k_schedule=k)
    update, multi_update = jax.jit(tx.update), jax.jit(multi.update)
    params = expected = start(dtype)
    state, expected_state = multi.init(params), tx.init(params)
    for micro in grads:
        updates, state = multi_update(micro[0], state, params)
        assert not np.any(updates)
        assert updates.dtype == params.dtype
        updates, state = multi_update(micro[1], state, params)
        params = optax.apply_updates(params, updates)
        updates, expected_state = update(jnp.mean(micro, axis=0), expected_state, expected)
        expected = optax.apply_updates(expected, updates)
        tolerance = 4 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.float32(params), np.float32(expected), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(eval_params(state, params), eval_params(expected_state, expected), rtol=tolerance)


@pytest.mark.parametrize("name", CALL_BY_CALL)
def test_apply_if_finite_drops_a_call_and_nothing_else(name):
    tx = forms.CASES[name].make()
    guarded = optax.apply_if_finite(tx, 3)
    update, guarded_update = jax.jit(tx.update), jax.jit(guarded.update)
    params = expected = start()
    state, expected_state = guarded.init(params), tx.init(params)
    for i in range(6):
        grads = jnp.array([1.0, -2.0, 0.5 * i])
        updates, state = guarded_update(grads.at[i % 3].set(jnp.nan), state, params)
        assert not np.any(updates)
        updates, state = guarded_update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, expected_state = update(grads, expected_state, expected)
        expected = optax.apply_updates(expected, updates)
        assert_close((params, state.inner_state), (expected, expected_state))


@pytest.mark.parametrize("name", ["profit", "transparent"])
def test_every_state_begins_with_the_fields_of_the_closure_form(name):
    state = forms.CASES[name].make().init(start())
    assert state._fields[:4] == ("count", "optimizer_state", "reference_state", "metrics")
    assert optax.tree.get((state,), "cosine") == 0
    assert not np.any(jax.tree.leaves(state.metrics))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_displacement_is_kept_in_the_dtype_of_the_reference_updates(dtype):
    case, params = forms.CASES["transparent"], start(dtype)
    assert case.make().init(params).displacement.dtype == dtype
    wide = case.factory(**case.options | {"reference_optimizer": optax.sgd(1e-3, accumulator_dtype="float32")})
    assert wide.init(params).displacement.dtype == dtype
    widened = optax.chain(optax.stateless(lambda updates, _: optax.tree.cast(updates, "float32")), optax.sgd(1e-3))
    assert case.factory(**case.options | {"reference_optimizer": widened}).init(params).displacement.dtype == "float32"


def test_weakly_typed_parameters_compile_no_more_than_adamw_alone(case):
    def compilations(tx, driven):
        params = jnp.asarray(3.0)
        assert params.weak_type
        state, objective = tx.init(params), lambda params: 3 * (params - 1) ** 2

        @jax.jit
        def step(params, state):
            updates, state = driven(objective).update(jax.grad(objective)(params), state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(4):
            params, state = step(params, state)
        return step._cache_size()

    tx, adamw = case.make(), optax.adamw(1e-2)
    assert compilations(tx, lambda objective: forms.with_closure(case, tx, objective)) <= compilations(
        adamw, lambda objective: adamw
    )


def test_numbers_and_numpy_arrays_are_parameters_and_gradients_too(case):
    tx = case.make()
    tree = {"a": 1.0, "b": np.ones(2, np.float32)}
    driven = forms.with_closure(case, tx, lambda params: params["a"] ** 2 + jnp.sum(params["b"] ** 2))
    updates, state = driven.update(tree, tx.init(tree), tree)
    arrays = jax.tree.map(jnp.float32, tree)
    expected, expected_state = driven.update(arrays, tx.init(arrays), arrays)
    assert_close((updates, state), (expected, expected_state))


@pytest.mark.parametrize("name", CALL_BY_CALL)
def test_the_count_of_main_steps_saturates(name):
    tx, params = forms.CASES[name].make(), start()
    largest = jnp.asarray(np.iinfo(np.int32).max)
    state = tx.init(params)._replace(count=largest)
    for _ in range(3):
        updates, state = jax.jit(tx.update)(params, state, params)
        params = optax.apply_updates(params, updates)
    assert state.count == largest


# Optax's test asks every optimizer to reach the minimum of an isotropic quadratic with full gradients. Those are
# parallel to each other there, so that T3.2 of the paper says that PROFIT does not move.


@pytest.mark.parametrize("name", ["sgd_closure", "sgd_transparent"])
def test_parallel_gradients_give_no_update(name):
    case = forms.CASES[name]
    tx = case.at_rate(0.1)
    step, carry = jax.jit(stepper(case, tx, parabola)), (start(), tx.init(start()))
    for _ in range(20):
        carry = step(*carry)
    params, state = carry
    np.testing.assert_allclose(eval_params(state, params), start(), rtol=20 * float(jnp.finfo("float32").eps))
    assert state.metrics.gradient_norm > 1
    np.testing.assert_allclose(state.metrics.cosine, -1, rtol=1e-6)


def test_parallel_gradients_give_the_one_line_its_first_update_alone():
    case = forms.CASES["sgd_lagged"]
    tx = case.at_rate(0.1)
    step, carry = jax.jit(stepper(case, tx, parabola)), (start(), tx.init(start()))
    for _ in range(20):
        carry = step(*carry)
    first = start() - 0.1 * jax.grad(parabola)(start())
    np.testing.assert_allclose(eval_params(carry[1], carry[0]), first, rtol=20 * float(jnp.finfo("float32").eps))
    np.testing.assert_allclose(optax.tree.get(carry[1], "cosine"), -1, rtol=1e-6)


def last_theta(case, rate, params, batches, loss_fn):
    """θ at the end; batches has leaves [steps, 2, ...], of which the one line takes the first ones alone."""
    tx = case.at_rate(rate)
    if case.form == "closure":
        return forms.last(forms.run_steps(tx, params, batches, loss_fn).theta)
    batches = batches[:, :1] if case.form == "one-line" else batches
    return forms.last(forms.run_calls(tx, params, forms.one_batch_a_call(batches), loss_fn).theta)


def test_it_reaches_the_minimum_of_a_noisy_quadratic(case):
    steps, target = 2000, jnp.array([1.0, -1.0, 1.0])
    rate = 0.05 if case.factory is profit_sgd else optax.linear_schedule(0.1, 0.0, steps)
    batches = np.random.default_rng(0).normal(size=(steps, 2, 4, 3)).astype(np.float32)
    theta = last_theta(case, rate, start(), batches, lambda params, x: jnp.mean((x @ (params - target)) ** 2))
    np.testing.assert_allclose(theta, target, rtol=3e-2)


@pytest.mark.parametrize("name", [name for name, case in forms.CASES.items() if case.factory is not profit_sgd])
def test_it_reaches_the_minimum_of_rosenbrocks_function_from_samples_of_its_two_terms(name):
    steps = 20_000
    weights = 2 * np.random.default_rng(0).integers(2, size=(steps, 2, 2)).astype(np.float32)

    def loss_fn(params, w):
        return w[0] * (1 - params[0]) ** 2 + w[1] * 100 * (params[1] - params[0] ** 2) ** 2

    rate = optax.linear_schedule(1e-3, 0.0, steps)
    theta = last_theta(forms.CASES[name], rate, jnp.zeros(2), weights, loss_fn)
    np.testing.assert_allclose(theta, [1.0, 1.0], rtol=3e-2)
