import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit_lagged
from tests import forms, regression
from tests.algorithm1 import Adam, Sgd, float64
from tests.recurrence import Lagged

MAIN = {
    "momentum": (lambda: optax.sgd(0.05, momentum=0.9), lambda: Sgd(0.05, momentum=0.9)),
    "adamw": (lambda: optax.adamw(0.03, weight_decay=0.1), lambda: Adam(0.03, weight_decay=0.1)),
}
REFERENCE = {
    "sgd": (lambda: optax.sgd(0.05), lambda: Sgd(0.05)),
    "momentum": (lambda: optax.sgd(0.05, momentum=0.5), lambda: Sgd(0.05, momentum=0.5)),
}


def one_batch_a_step(steps):
    return jax.tree.map(lambda x: x[:, 0], regression.data(steps, 1))


@pytest.mark.parametrize("reference", REFERENCE)
@pytest.mark.parametrize("main", MAIN)
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_it_follows_its_recurrence(warmup_steps, main, reference):
    steps, start, batches = 20, regression.params(), one_batch_a_step(20)
    tx = profit_lagged(MAIN[main][0](), REFERENCE[reference][0](), warmup_steps=warmup_steps)
    run = forms.run_calls(tx, start, batches)

    expected = Lagged(float64(start), MAIN[main][1](), REFERENCE[reference][1](), warmup_steps)
    for i in range(steps):
        expected.step(regression.gradient, {name: x[i] for name, x in float64(batches).items()})
        assert forms.relative_error(jax.tree.map(lambda x, i=i: x[i], run.params), expected.displaced, start) <= 2e-4

    assert forms.relative_error(forms.last(run.theta), expected.theta, start) <= 2e-4
    seen = expected.projections
    np.testing.assert_array_equal(run.metrics.conflict, [p.conflict for p in seen])
    np.testing.assert_allclose(run.metrics.inner_product, [p.inner_product for p in seen], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run.metrics.cosine, [p.cosine for p in seen], atol=1e-3)
    np.testing.assert_allclose(run.metrics.displacement_norm, [p.displacement_norm for p in seen], rtol=1e-3)
    np.testing.assert_allclose(run.metrics.gradient_norm, [p.gradient_norm for p in seen], rtol=1e-3)
    assert 0 < sum(p.conflict for p in seen) < steps - 1 - warmup_steps
    assert run.state.count == steps


def stepper(tx):
    """One call of the loop: `params, state = call(grads, state, params)`."""

    @jax.jit
    def call(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return call


def test_a_trajectory_worked_out_by_hand():
    tx = profit_lagged(optax.sgd(0.5), optax.sgd(0.25))
    call, params = stepper(tx), jnp.array([1.0, 2.0])
    state = tx.init(params)
    params, state = call(jnp.array([4.0, 0.0]), state, params)
    # θ = (1, 2) − 0.5 (4, 0), Δ = −0.25 (4, 0)
    assert (state.params.tolist(), params.tolist()) == ([-1.0, 2.0], [-2.0, 2.0])
    params, state = call(jnp.array([2.0, 4.0]), state, params)
    # ω = −2, so g without its part along Δ is (0, 4); the next Δ is made of the raw g.
    assert (state.params.tolist(), params.tolist()) == ([-1.0, 0.0], [-1.5, -1.0])
    params, state = call(jnp.array([-2.0, 0.0]), state, params)
    # ω = 1: nothing is projected.
    assert (state.params.tolist(), params.tolist()) == ([0.0, 0.0], [0.5, 0.0])


def test_the_first_step_is_one_of_the_main_optimizer_alone():
    optimizer = optax.adam(0.1)
    tx = profit_lagged(optimizer, optax.sgd(0.25))
    params = jnp.array([1.0, 2.0])
    params_after, state = stepper(tx)(jnp.array([1.0, -3.0]), tx.init(params), params)
    alone, _ = stepper(optimizer)(jnp.array([1.0, -3.0]), optimizer.init(params), params)
    assert eval_params(state, params_after).tolist() == alone.tolist()
    assert (float(state.metrics.displacement_norm), bool(state.metrics.conflict)) == (0.0, False)


def test_the_first_call_takes_theta_from_the_caller_and_not_from_init():
    tx = profit_lagged(optax.sgd(0.5), optax.sgd(0.25))
    params, state = stepper(tx)(jnp.array([1.0]), tx.init(jnp.array([5.0])), jnp.array([2.0]))
    assert params.tolist() == [1.25]
    assert eval_params(state, params).tolist() == [1.5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_callers_parameters_are_always_theta_plus_delta_rounded(dtype):
    # Powers of two, which a fused multiply-add leaves as they are.
    tx = profit_lagged(optax.sgd(2.0**-7), optax.sgd(2.0**-5))
    call, state = stepper(tx), tx.init(jnp.ones(64, dtype))
    # Away from 0, where one update can reach every number that is wanted.
    params = jax.random.uniform(jax.random.key(0), (64,), minval=2.0, maxval=3.0).astype(dtype)
    for i in range(10):
        params, state = call(jax.random.normal(jax.random.key(i), (64,)).astype(dtype), state, params)
        np.testing.assert_array_equal(params, (np.float32(state.params) + np.float32(state.displacement)).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_rounding_adds_to_the_callers_parameters_does_not_build_up(dtype):
    tx = profit_lagged(optax.sgd(0.01), optax.sgd(1.0))
    params = jax.random.normal(jax.random.key(0), (64,)).astype(dtype)
    grads = jax.random.normal(jax.random.key(1), (100, 64)).astype(dtype)
    run = forms.run_calls(tx, params, grads, lambda p, g: jnp.sum(p * g))
    expected = np.float64(run.state.params) + np.float64(run.state.displacement)
    largest = np.abs(np.float64(run.params)).max(axis=0)
    assert np.all(np.abs(np.float64(run.params[-1]) - expected) <= 2 * largest * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_displacement_below_the_rounding_of_the_parameters_is_still_projected_against(dtype):
    tx = profit_lagged(optax.sgd(1.0), optax.sgd(1e-9))
    call, params = stepper(tx), jnp.ones(2, dtype)
    params, state = call(jnp.array([0.5, 0.0], dtype), tx.init(params), params)
    assert params.tolist() == [0.5, 1.0]
    params, state = call(jnp.array([0.25, 0.25], dtype), state, params)
    assert bool(state.metrics.conflict)
    assert state.params.tolist() == [0.5, 0.75]


def test_an_edit_between_two_calls_is_overwritten():
    tx = profit_lagged(optax.sgd(0.5), optax.sgd(0.25))
    call, params = stepper(tx), jnp.array([1.0, 2.0])
    state = tx.init(params)
    params, state = call(jnp.array([2.0, 0.0]), state, params)
    kept, _ = call(jnp.array([0.0, 2.0]), state, params)
    edited, _ = call(jnp.array([0.0, 2.0]), state, params + 64.0)
    assert edited.tolist() == kept.tolist() == [0.0, 0.5]


def test_an_edit_of_eval_params_followed_by_init_is_kept():
    tx = profit_lagged(optax.sgd(0.5), optax.sgd(0.25))
    call, params = stepper(tx), jnp.array([1.0, 2.0])
    state = tx.init(params)
    params, state = call(jnp.array([2.0, 0.0]), state, params)
    params = eval_params(state, params) + 64.0
    state = tx.init(params)
    params, state = call(jnp.array([0.0, 2.0]), state, params)
    assert eval_params(state, params).tolist() == [64.0, 65.0]
    assert params.tolist() == [64.0, 64.5]


def test_in_warm_up_there_is_no_displacement_and_the_reference_optimizer_does_not_advance():
    optimizer = optax.sgd(0.5, momentum=0.5)
    tx = profit_lagged(optimizer, optax.sgd(lambda count: 0.25), warmup_steps=3)
    call, alone = stepper(tx), stepper(optimizer)
    params = expected = jnp.array([1.0, 2.0])
    state, alone_state = tx.init(params), optimizer.init(params)
    counts, norms = [], []
    for i in range(6):
        grads = jnp.array([1.0, -1.0 - i])
        if i <= 3:
            expected, alone_state = alone(grads, alone_state, expected)
        params, state = call(grads, state, params)
        counts.append((int(state.count), int(optax.tree.get(state.reference_state, "count"))))
        norms.append(float(state.metrics.displacement_norm))
        if i < 3:
            assert params.tolist() == expected.tolist()
            assert not np.any(state.displacement)
        if i == 3:  # Δ was still 0 when this gradient was taken.
            assert state.params.tolist() == expected.tolist()
    assert counts == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2), (6, 3)]
    assert norms[:4] == [0.0] * 4
    assert norms[4] == pytest.approx(0.25 * np.hypot(1.0, 4.0))


def test_the_main_optimizer_sees_theta_and_the_reference_optimizer_the_next_one():
    main = forms.seeing(optax.sgd(0.5), extra="temperature")
    tx = profit_lagged(main, forms.refusing_extra_args(forms.seeing(optax.sgd(0.25))))
    params = jnp.array([1.0, 2.0])
    state = tx.init(params)
    for _ in range(3):
        theta = eval_params(state, params)
        updates, state = tx.update(jnp.array([4.0, 2.0]), state, params, temperature=3.0, unknown="ignored")
        params = optax.apply_updates(params, updates)
        assert optax.tree.get(state.optimizer_state, "seen").tolist() == theta.tolist()
        assert optax.tree.get(state.reference_state, "seen").tolist() == eval_params(state, params).tolist()
    assert params.tolist() != eval_params(state, params).tolist()
    assert optax.tree.get(state.optimizer_state, "extra") == 3.0


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_wide_gradients_of_narrow_parameters_are_taken_by_optimizers_with_moments(warmup_steps):
    tx = profit_lagged(optax.adam(0.1), optax.sgd(0.1, momentum=0.5), warmup_steps=warmup_steps)
    params, grads = jnp.ones(2, "bfloat16"), jnp.ones(2)
    state = tx.init(params)
    for _ in range(3):
        updates, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert np.all(np.isfinite(params))


def test_the_displacement_that_is_applied_and_projected_against_is_the_one_rounded_to_its_dtype():
    tx = profit_lagged(optax.set_to_zero(), optax.sgd(1.0), displacement_dtype="bfloat16")
    call, params = stepper(tx), jnp.zeros(1)
    params, state = call(jnp.array([1.0 + 2.0**-12]), tx.init(params), params)
    assert (state.displacement.dtype, params.tolist()) == (jnp.bfloat16, [-1.0])
    _, state = call(jnp.array([1.0]), state, params)
    assert state.metrics.displacement_norm == 1.0


@pytest.mark.parametrize("leaf", ["a", "b"])
def test_a_nan_in_a_gradient_makes_the_whole_update_nan(leaf):
    tx = profit_lagged(optax.sgd(0.1), optax.sgd(0.1))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    grads = {"a": jnp.ones(2), "b": jnp.ones(3)}
    grads[leaf] = grads[leaf].at[0].set(jnp.nan)
    updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
    assert all(np.all(np.isnan(x)) for x in updates.values())
    assert np.isnan(state.metrics.cosine)


def test_it_holds_at_most_two_more_copies_of_the_parameters():
    params = jnp.zeros(1000)
    state = profit_lagged(optax.sgd(0.1), optax.sgd(0.1)).init(params)
    assert sum(x.size for x in jax.tree.leaves(state) if x.size > 1) <= 2 * params.size


def test_it_takes_no_branch_without_warm_up():
    tx = profit_lagged(optax.sgd(0.1), optax.sgd(0.1, momentum=0.5))
    params = jnp.ones(2)
    program = str(jax.make_jaxpr(tx.update)(params, tx.init(params), params))
    with_warm_up = profit_lagged(optax.sgd(0.1), optax.sgd(0.1, momentum=0.5), warmup_steps=1)
    longer = str(jax.make_jaxpr(with_warm_up.update)(params, with_warm_up.init(params), params))
    assert longer.count("cond[") == program.count("cond[") + 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"warmup_steps": -1}, ValueError, "warmup_steps must be at least 0, got -1"),
        ({"warmup_steps": jnp.array(1)}, TypeError, "inject_hyperparams"),
        ({"displacement_dtype": "int32"}, TypeError, "displacement_dtype must be a real floating-point dtype"),
    ],
)
def test_it_refuses_options_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        profit_lagged(optax.sgd(0.1), optax.sgd(0.1), **options)


def test_init_and_the_first_step_may_be_one_program():
    # There XLA knows that the displacement is 0.
    tx = profit_lagged(optax.sgd(1.0), optax.sgd(0.25))
    grads = jnp.array([1.0, -2.0])
    updates, state = jax.jit(lambda p, g: tx.update(g, tx.init(p), p))(jnp.ones(2), grads)
    np.testing.assert_array_equal(updates, -1.25 * grads)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
