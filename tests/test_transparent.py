import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit, profit_transparent
from tests import forms, regression

REFERENCE = {
    "momentum": (optax.sgd(0.02, momentum=0.5), {}),
    "momentum, reset": (optax.sgd(0.02, momentum=0.5), {"reset_reference_state": True}),
}


@pytest.mark.parametrize("reference", REFERENCE)
@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("n_ref", [1, 2, 4])
def test_a_cycle_equals_one_step_of_the_closure_form(n_ref, warmup_steps, reference):
    steps = 20
    optimizers = optax.sgd(0.05, momentum=0.9), REFERENCE[reference][0]
    options = {"warmup_steps": warmup_steps} | REFERENCE[reference][1]
    theta, batches = regression.params(), regression.data(steps, n_ref + 1)

    closure = forms.run_steps(profit(*optimizers, n_ref, **options), theta, batches)
    calls = forms.run_calls(
        profit_transparent(*optimizers, n_ref, **options), theta, forms.one_batch_a_call(batches, warmup_steps)
    )

    assert forms.relative_error(forms.last(calls.params), forms.last(closure.params), theta) <= 2e-5
    at_main_calls = jax.tree.map(lambda x: x[forms.main_calls(steps, n_ref, warmup_steps)], calls.metrics)
    np.testing.assert_array_equal(at_main_calls.conflict, closure.metrics.conflict)
    np.testing.assert_allclose(at_main_calls.cosine, closure.metrics.cosine, atol=1e-4)
    np.testing.assert_allclose(at_main_calls.displacement_norm, closure.metrics.displacement_norm, rtol=1e-4)
    assert 0 < np.sum(closure.metrics.conflict[warmup_steps:]) < steps - warmup_steps
    assert calls.state.count == closure.state.count == steps


@pytest.mark.parametrize("n_ref", [1, 2])
def test_accelerators_run_both_optimizers_and_keep_what_one_of_them_makes(n_ref, monkeypatch):
    optimizers = optax.adam(0.05), optax.sgd(0.02, momentum=0.5)
    theta, batches = regression.params(), regression.data(6, n_ref + 1)
    calls = []
    for platforms in ("cpu", "default"):
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, platforms=platforms, **each: each[platforms](*x))
        tx = profit_transparent(*optimizers, n_ref, warmup_steps=1)
        calls.append(forms.run_calls(tx, theta, forms.one_batch_a_call(batches, warmup_steps=1)))
    eps = np.finfo(np.float32).eps
    chex.assert_trees_all_close(*calls, rtol=100 * eps, atol=10 * eps)
    assert calls[1].state.optimizer_state[0].count == 6


@pytest.mark.parametrize(("platform", "branches"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_programs_for_accelerators_have_no_branch(platform, branches):
    tx = profit_transparent(optax.adam(0.05), optax.sgd(0.02), warmup_steps=1)
    theta = regression.params()
    program = stepper(tx).trace(theta, tx.init(theta), theta).lower(lowering_platforms=(platform,)).as_text()
    assert forms.branches(program) == branches


def stepper(tx):
    """One call of the loop: `params, state = call(grads, state, params)`."""

    @jax.jit
    def call(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return call


def test_each_inner_optimizer_is_traced_once_for_all_platforms(count_traces):
    main, reference = (optax.with_extra_args_support(tx) for tx in (optax.adam(0.1), optax.sgd(0.1)))
    counted = [count_traces(tx.update) for tx in (main, reference)]
    tx = profit_transparent(main._replace(update=counted[0]), reference._replace(update=counted[1]), 1)
    params = jnp.ones(3)
    state = tx.init(params)
    before = [each.traces for each in counted]
    jax.jit(tx.update).lower(params, state, params)
    assert [each.traces - count for each, count in zip(counted, before, strict=True)] == [1, 1]


def test_the_calls_of_a_cycle_walk_along_the_reference_steps_and_the_last_one_comes_back():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25), n_ref=3)
    call, theta = stepper(tx), {"w": jnp.array([1.0, -2.0]), "b": jnp.array([4.0])}
    params, state = theta, tx.init(theta)
    for expected in ([0.0, -2.0, 4.0], [-1.0, -2.0, 4.0], [-1.0, -2.0, 5.0]):
        grads = {"w": jnp.array([4.0, 0.0]), "b": jnp.array([0.0])}
        if expected[2] == 5.0:
            grads = {"w": jnp.array([0.0, 0.0]), "b": jnp.array([-4.0])}
        params, state = call(grads, state, params)
        assert [*params["w"].tolist(), *params["b"].tolist()] == expected
    # Δ = (−2, 0, 1), ω = −5 and ⟨Δ, Δ⟩ = 5: what is left of g is g + Δ.
    params, state = call({"w": jnp.array([4.0, 2.0]), "b": jnp.array([3.0])}, state, params)
    assert params["w"].tolist() == [1.0 - 0.5 * 2.0, -2.0 - 0.5 * 2.0]
    assert params["b"].tolist() == [4.0 - 0.5 * 4.0]
    assert state.metrics.inner_product == -5.0


def test_the_caller_stands_at_the_rounded_sum_and_not_at_a_sum_of_rounded_moves():
    eps = float(jnp.finfo(jnp.float32).eps)
    tx = profit_transparent(optax.sgd(1.0), optax.sgd(1.0), n_ref=4)
    call, theta = stepper(tx), jnp.ones(1)
    params, state = theta, tx.init(theta)
    for _ in range(4):
        params, state = call(jnp.array([-eps / 4]), state, params)
    assert params.tolist() == [1.0 + eps]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_displacement_below_the_rounding_of_the_parameters_is_still_projected_against(dtype):
    tx = profit_transparent(optax.sgd(1.0), optax.sgd(1e-6))
    call, theta = stepper(tx), jnp.ones(2, dtype)
    params, state = theta, tx.init(theta)
    params, state = call(jnp.array([1e-3, 0.0], dtype), state, params)
    assert params.tolist() == [1.0, 1.0]
    params, state = call(jnp.array([0.5, 0.25], dtype), state, params)
    assert params.tolist() == [1.0, 0.75]
    assert bool(state.metrics.conflict)


def ulp(x, dtype):
    return 2.0 ** np.floor(np.log2(x)) * float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize("size", [1e-3, 0.3, 3.0, 100.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_hundred_cycles_without_main_updates_leave_theta_where_it_was(dtype, size):
    tx = profit_transparent(optax.set_to_zero(), optax.sgd(1.0), n_ref=1)
    theta = jax.random.normal(jax.random.key(0), (64,)).astype(dtype)
    grads = (jax.random.normal(jax.random.key(1), (200, 64)) * size).astype(dtype)
    params = np.float64(forms.run_calls(tx, theta, grads, lambda p, g: jnp.sum(p * g)).params)
    start, largest = np.float64(theta), np.maximum(np.abs(np.float64(theta)), np.abs(params).max(axis=0))
    assert np.all(np.abs(params[1::2] - start[None]) <= ulp(largest, dtype)[None])
    assert np.any(params[0::2] != start[None])
    if size < 1:
        # Differences of numbers within a factor of two of each other are exact.
        near = np.abs(params[0::2] / start[None])
        exact = np.all((near > 0.5) & (near < 2), axis=0)
        assert np.any(exact)
        np.testing.assert_array_equal(params[1::2, exact], np.broadcast_to(start[exact], params[1::2, exact].shape))


def test_an_edit_between_two_cycles_is_taken_over():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25))
    call, params = stepper(tx), jnp.array([1.0, 2.0])
    state = tx.init(params)
    for _ in range(2):
        params, state = call(jnp.array([1.0, 0.0]), state, params)
    edited = jnp.array([8.0, -8.0])
    params, state = call(jnp.array([2.0, 0.0]), state, edited)
    assert params.tolist() == [7.5, -8.0]
    assert eval_params(state, params).tolist() == edited.tolist()
    params, state = call(jnp.array([0.0, 2.0]), state, params)
    assert params.tolist() == [8.0, -9.0]


def test_an_edit_within_a_cycle_is_overwritten():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25), n_ref=2)
    call, params = stepper(tx), jnp.array([1.0, 2.0])
    state = tx.init(params)
    for expected in ([0.5, 2.0], [0.0, 2.0], [1.0, 1.0]):
        grads = jnp.array([0.0, 2.0]) if expected == [1.0, 1.0] else jnp.array([2.0, 0.0])
        params, state = call(grads, state, params + 64.0 * (state.reference_step > 0))
        assert params.tolist() == expected


def test_the_first_call_takes_theta_from_the_caller_and_not_from_init():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25))
    params, state = stepper(tx)(jnp.array([1.0]), tx.init(jnp.array([5.0])), jnp.array([2.0]))
    assert params.tolist() == [1.75]
    assert eval_params(state, params).tolist() == [2.0]


def test_a_warm_up_step_is_one_call_of_the_main_optimizer_alone():
    optimizer = optax.sgd(0.5, momentum=0.5)
    tx = profit_transparent(optimizer, optax.sgd(lambda count: 0.25), n_ref=2, warmup_steps=2)
    call, alone = stepper(tx), stepper(optimizer)
    params = expected = jnp.array([1.0, 2.0])
    state, alone_state = tx.init(params), optimizer.init(params)
    for i in range(2):
        grads = jnp.array([1.0, -1.0 - i])
        params, state = call(grads, state, params)
        expected, alone_state = alone(grads, alone_state, expected)
        assert params.tolist() == expected.tolist()
        assert (int(state.count), int(state.reference_step)) == (i + 1, 0)
        assert optax.tree.get(state.reference_state, "count") == 0
        assert (float(state.metrics.displacement_norm), bool(state.metrics.conflict)) == (0.0, False)
        assert state.metrics.gradient_norm == jnp.linalg.norm(grads)
    counts = []
    for _ in range(6):
        params, state = call(jnp.array([1.0, 1.0]), state, params)
        counts.append(
            (int(state.count), int(state.reference_step), int(optax.tree.get(state.reference_state, "count")))
        )
    assert counts == [(2, 1, 1), (2, 2, 2), (3, 0, 2), (3, 1, 3), (3, 2, 4), (4, 0, 4)]


def test_a_leaf_without_a_gradient_has_no_update_also_where_no_state_tells_of_it():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25))
    w, v = jnp.array([1.0, 2.0]), jnp.ones(3)
    state = tx.init({"w": w, "v": v})
    # Δ = −[0.25, 0], with which the second gradient conflicts: [0, 1] is left of it.
    for gradient in ([1.0, 0.0], [3.0, 1.0]):
        updates, state = tx.update({"w": jnp.array(gradient), "v": None}, state, {"w": w, "v": v})
        assert updates["v"] is None
        w = w + updates["w"]
        np.testing.assert_array_equal(eval_params(state, {"w": w, "v": v})["v"], v)
    np.testing.assert_allclose(w, [1.0, 1.5], rtol=1e-6)


def test_a_run_that_goes_on_with_fewer_reference_steps_in_the_middle_of_a_cycle_ends_it():
    params, grads = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    state, held = profit_transparent(optax.sgd(0.5), optax.sgd(0.25), 3).init(params), params
    for n_ref in (3, 3, 1):
        updates, state = profit_transparent(optax.sgd(0.5), optax.sgd(0.25), n_ref).update(grads, state, held)
        held = optax.apply_updates(held, updates)
    assert (int(state.count), int(state.reference_step)) == (1, 0)
    # The gradient points along the displacement: nothing of it is left.
    np.testing.assert_array_equal(held, params)


@pytest.mark.parametrize("size", [1, 3])
def test_a_state_of_parameters_of_another_shape_is_told_of(size):
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25))
    with pytest.raises(ValueError, match=r"params of the state must have the shapes of params: .* expected \(2,\)"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(size)), jnp.ones(2))


def test_metrics_and_count_change_on_main_calls_only():
    n_ref = 2
    tx = profit_transparent(optax.sgd(0.1), optax.sgd(0.02), n_ref)
    run = forms.run_calls(tx, regression.params(), forms.one_batch_a_call(regression.data(4, n_ref + 1)))
    assert not any(np.any(x[:n_ref]) for x in run.metrics)
    for x in run.metrics[:2] + run.metrics[3:]:
        changes = np.flatnonzero(np.diff(x) != 0) + 1
        np.testing.assert_array_equal(changes, forms.main_calls(4, n_ref))


def test_the_main_optimizer_sees_theta_and_the_reference_optimizer_the_displaced_parameters():
    main = forms.seeing(optax.sgd(0.5), extra="temperature")
    reference = forms.refusing_extra_args(forms.seeing(optax.sgd(0.25)))
    tx = profit_transparent(main, reference, n_ref=2)
    theta = jnp.array([1.0, 2.0])
    params, state = theta, tx.init(theta)
    held = []
    for _ in range(3):
        held.append(params)
        updates, state = tx.update(jnp.array([4.0, 0.0]), state, params, temperature=3.0, unknown="ignored")
        params = optax.apply_updates(params, updates)
        if len(held) < 3:
            assert optax.tree.get(state.reference_state, "seen").tolist() == held[-1].tolist()
    assert held[-1].tolist() == [-1.0, 2.0]
    assert optax.tree.get(state.optimizer_state, "seen").tolist() == theta.tolist()
    assert optax.tree.get(state.optimizer_state, "extra") == 3.0


@pytest.mark.parametrize("main", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)], ids=["adam", "momentum"])
def test_wide_gradients_of_narrow_parameters_are_taken_by_optimizers_with_moments(main):
    tx = profit_transparent(main, optax.sgd(0.1, momentum=0.5))
    params, grads = jnp.ones(2, "bfloat16"), jnp.ones(2)
    state = tx.init(params)
    for _ in range(3):
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert np.all(np.isfinite(params))


def test_wide_gradients_restore_narrow_parameters_bit_for_bit():
    tx = profit_transparent(optax.set_to_zero(), optax.sgd(1.0))
    theta = jax.random.normal(jax.random.key(0), (64,), jnp.bfloat16)
    call, grads = stepper(tx), jax.random.normal(jax.random.key(1), (64,))
    displaced, state = call(grads, tx.init(theta), theta)
    params, _ = call(grads, state, displaced)
    assert not np.array_equal(displaced, theta)
    np.testing.assert_array_equal(params, theta)


def test_the_displacement_that_is_applied_and_projected_against_is_the_one_rounded_to_its_dtype():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(1.0), displacement_dtype="bfloat16")
    call, params = stepper(tx), jnp.zeros(1)
    g = 1.0 + 2.0**-12
    params, state = call(jnp.array([g]), tx.init(params), params)
    assert (state.displacement.dtype, params.tolist()) == (jnp.bfloat16, [-1.0])
    _, state = call(jnp.array([1.0]), state, params)
    assert state.metrics.displacement_norm == 1.0


@pytest.mark.parametrize("at_call", [0, 1, 2])
def test_a_nan_in_any_gradient_of_a_cycle_makes_the_whole_update_nan(at_call):
    tx = profit_transparent(optax.sgd(0.1), optax.sgd(0.1), n_ref=2)
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    call, state = stepper(tx), tx.init(params)
    for i in range(3):
        grads = {"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan if i == at_call else 1.0, 1.0])}
        params, state = call(grads, state, params)
    assert all(np.all(np.isnan(leaf)) for leaf in params.values())
    assert np.isnan(state.metrics.cosine)


def test_a_nan_does_not_outlive_its_cycle_once_the_parameters_are_replaced():
    tx = profit_transparent(optax.sgd(0.5), optax.sgd(0.25))
    call, theta = stepper(tx), jnp.array([1.0, 2.0])
    params, state = theta, tx.init(theta)
    for _ in range(2):
        params, state = call(jnp.array([jnp.nan, 1.0]), state, params)
    params = theta
    for expected in ([0.0, 2.0], [1.0, 0.0]):
        params, state = call(jnp.array([4.0, 0.0]) if expected[0] == 0 else jnp.array([2.0, 4.0]), state, params)
        assert params.tolist() == expected


def test_it_holds_two_more_copies_of_the_parameters_and_no_third():
    params = jnp.zeros(1000)
    state = profit_transparent(optax.sgd(0.1), optax.sgd(0.1), n_ref=3).init(params)
    assert sum(x.size for x in jax.tree.leaves(state) if x.size > 1) == 2 * params.size


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_ref": 0}, ValueError, "n_ref must be at least 1, got 0"),
        ({"n_ref": jnp.array(1)}, TypeError, "inject_hyperparams"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps must be at least 0, got -1"),
        ({"warmup_steps": jnp.array(1)}, TypeError, "static_args"),
        ({"displacement_dtype": "int32"}, TypeError, "displacement_dtype must be a real floating-point dtype"),
    ],
)
def test_it_refuses_options_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        profit_transparent(optax.sgd(0.1), optax.sgd(0.1), **options)


@pytest.mark.parametrize("batches", [jnp.float32(3.0), {"key": jax.random.key(0)}, (), None], ids=type)
def test_batches_that_are_no_group_are_an_extra_argument_like_any_other(batches):
    tx, params = profit_transparent(forms.seeing(optax.sgd(0.5)), optax.sgd(0.25)), jnp.ones(2)
    updates, _ = tx.update(params, tx.init(params), params, batches=batches)
    np.testing.assert_array_equal(updates, -0.25)
