"""A non-finite number anywhere in a step is never dropped in silence, and `reject_nonfinite` drops the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit, profit_transparent, reject_nonfinite

SHAPES = {"w": (2, 3), "b": (3,)}


def given(params, batch):
    """A closure whose batches are the gradients themselves."""
    return jnp.zeros(()), batch


def ones(*axes):
    return {name: np.ones((*axes, *shape), np.float32) for name, shape in SHAPES.items()}


def update_of(tx, closure=given):
    return jax.jit(
        lambda grads, state, params, batches: tx.update(
            grads, state, params, value_and_grad_fn=closure, batches=batches
        )
    )


def is_all_nan(tree):
    return all(np.all(np.isnan(x)) for x in jax.tree.leaves(tree))


def same(tree, other):
    return jax.tree.all(jax.tree.map(np.array_equal, tree, other))


MAINS = {"sgd": optax.sgd(0.1), "adamw": optax.adamw(0.1)}
N_REF = 3


@pytest.mark.parametrize("options", [{}, {"displacement": "subtract"}, {"displacement_dtype": "bfloat16"}], ids=str)
@pytest.mark.parametrize("main", MAINS)
def test_a_nonfinite_entry_in_any_gradient_makes_the_whole_update_nan(main, options):
    tx = profit(MAINS[main], optax.sgd(1e-3), N_REF, **options)
    update, state = update_of(tx), tx.init(ones())
    assert not is_all_nan(update(ones(), state, ones(), ones(N_REF))[0])
    for bad in (np.nan, np.inf, -np.inf):
        for name, shape in SHAPES.items():
            for which in range(N_REF + 1):
                grads, batches = ones(), ones(N_REF)
                broken = grads[name] if which == 0 else batches[name][which - 1]
                broken[tuple(i - 1 for i in shape)] = bad
                updates, after = update(grads, state, ones(), batches)
                assert is_all_nan(updates)
                assert np.isnan(after.metrics.cosine)


def test_a_nonfinite_gradient_beside_a_zero_displacement_is_not_dropped():
    tx = profit(optax.sgd(0.1), optax.sgd(0.0))
    batches = ones(1)
    batches["b"][0, 0] = np.nan
    updates, state = update_of(tx)(ones(), tx.init(ones()), ones(), batches)
    assert is_all_nan(updates)
    assert np.isnan(state.metrics.cosine)


def test_a_nonfinite_gradient_in_warm_up_is_not_dropped():
    tx = profit(optax.sgd(0.1), optax.sgd(0.1), warmup_steps=1)
    grads = ones()
    grads["b"][0] = np.nan
    updates, state = update_of(tx)(grads, tx.init(ones()), ones(), ones(1))
    assert np.isnan(updates["b"][0])
    assert np.isnan(state.metrics.cosine)


@pytest.mark.parametrize(
    ("dtype", "rate", "size"),
    [(jnp.float32, 1e10, 1e30), (jnp.bfloat16, 1e10, 1e30), (jnp.float16, 1e2, 1e3)],
    ids=["float32", "bfloat16", "float16"],
)
def test_a_displacement_that_overflows_makes_the_whole_update_nan(dtype, rate, size):
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), ones())
    grads = {"w": params["w"], "b": params["b"] * size}
    tx = profit(optax.sgd(0.1), optax.sgd(rate))
    updates, state = update_of(tx)(grads, tx.init(params), params, jax.tree.map(lambda x: x[None], params))
    assert is_all_nan(updates)
    assert np.isnan(state.metrics.cosine)


def test_a_closure_that_overflows_in_the_dtype_of_grads_makes_the_whole_update_nan():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float16), ones())
    tx = profit(optax.sgd(0.1), optax.sgd(0.1))
    closure = lambda params, batch: (0.0, jax.tree.map(lambda x: x * 1e6, batch))  # noqa: E731
    updates, _ = update_of(tx, closure)(params, tx.init(params), params, ones(1))
    assert is_all_nan(updates)


def test_a_displacement_that_leaves_the_parameters_dtype_makes_the_whole_update_nan():
    # θ + Δ overflows, and the gradient there is not finite.
    params = jax.tree.map(lambda x: x * np.float32(3e38), ones())
    closure = lambda params, batch: (0.0, params)  # noqa: E731
    tx = profit(optax.sgd(0.1), optax.sgd(3e38))
    grads = jax.tree.map(lambda x: -x, ones())
    updates, _ = update_of(tx, closure)(grads, tx.init(params), params, ones(1))
    assert is_all_nan(updates)


def broken_batches(n_ref=N_REF):
    batches = ones(n_ref)
    batches["w"][-1, 0, 0] = np.nan
    return batches


def test_reject_nonfinite_drops_the_step_and_keeps_the_state():
    tx = reject_nonfinite(profit(optax.adamw(0.1), optax.sgd(1e-3, momentum=0.9), N_REF), 3)
    update = update_of(tx)
    _, state = update(ones(), tx.init(ones()), ones(), ones(N_REF))
    updates, after = update(ones(), state, ones(), broken_batches())
    assert same(updates, jax.tree.map(np.zeros_like, ones()))
    assert same(after.inner_state, state.inner_state)
    assert (after.notfinite_count, after.last_finite, after.total_notfinite) == (1, False, 1)


def test_reject_nonfinite_changes_no_bit_of_the_parameters_in_a_step_that_it_drops():
    params = jnp.array([-0.0, 0.0, 1.0])
    tx = reject_nonfinite(optax.sgd(0.1), 3)
    updates, _ = jax.jit(tx.update)(jnp.array([0.0, 0.0, jnp.nan]), tx.init(params), params)
    assert np.signbit(optax.apply_updates(params, updates)).tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32, jnp.uint8])
def test_reject_nonfinite_takes_leaves_that_are_not_trained(dtype):
    params = {"w": jnp.ones(2), "kept": jnp.ones(2, dtype)}
    tx = reject_nonfinite(profit_transparent(optax.sgd(0.1), optax.sgd(1e-3), mask={"w": True, "kept": False}), 3)
    for value in (1.0, jnp.nan):
        updates, _ = tx.update(params | {"w": jnp.full(2, value)}, tx.init(params), params)
        np.testing.assert_array_equal(optax.apply_updates(params, updates)["kept"], params["kept"])


def test_reject_nonfinite_changes_nothing_in_finite_steps():
    plain = profit(optax.adamw(0.1), optax.sgd(1e-3, momentum=0.9), N_REF)
    guarded = reject_nonfinite(plain, 3)
    updates, state = update_of(guarded)(ones(), guarded.init(ones()), ones(), ones(N_REF))
    expected, inner_state = update_of(plain)(ones(), plain.init(ones()), ones(), ones(N_REF))
    assert same(updates, expected)
    assert same(state.inner_state, inner_state)
    assert (state.notfinite_count, state.last_finite, state.total_notfinite) == (0, True, 0)


def test_reject_nonfinite_lets_go_after_n_in_a_row():
    tx = reject_nonfinite(profit(optax.sgd(0.1), optax.sgd(1e-3)), 2)
    update, state = update_of(tx), tx.init(ones())
    seen = []
    for batches in [broken_batches(1)] * 2 + [ones(1)] + [broken_batches(1)] * 4:
        updates, state = update(ones(), state, ones(), batches)
        seen.append((is_all_nan(updates), int(state.notfinite_count), int(state.total_notfinite)))
    assert seen == [
        (False, 1, 1), (False, 2, 2), (False, 0, 2),
        (False, 1, 3), (False, 2, 4), (True, 3, 5), (True, 4, 6),
    ]  # fmt: skip
    assert state.inner_state.count == 3  # one finite step and two that were let through


def test_reject_nonfinite_with_0_lets_the_first_one_through():
    tx = reject_nonfinite(profit(optax.sgd(0.1), optax.sgd(1e-3)), 0)
    updates, state = update_of(tx)(ones(), tx.init(ones()), ones(), broken_batches(1))
    assert is_all_nan(updates)
    assert state.total_notfinite == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_reject_nonfinite_looks_at_every_leaf_of_what_comes_out(bad):
    tx = reject_nonfinite(optax.sgd(1.0), 1)
    for name in SHAPES:
        grads = ones()
        grads[name][-1] = bad
        updates, state = tx.update(grads, tx.init(ones()))
        assert same(updates, jax.tree.map(np.zeros_like, ones()))
        assert not state.last_finite


def test_reject_nonfinite_catches_what_only_the_main_optimizer_makes():
    main = optax.stateless(lambda grads, params: jax.tree.map(lambda g: g / 0, grads))
    tx = reject_nonfinite(profit(main, optax.sgd(0.1)), 1)
    updates, _ = update_of(tx)(ones(), tx.init(ones()), ones(), ones(1))
    assert same(updates, jax.tree.map(np.zeros_like, ones()))


def test_apply_if_finite_around_the_closure_form_sees_only_grads():
    inner = profit(optax.sgd(0.1), optax.sgd(1e-3))
    unguarded, guarded = optax.apply_if_finite(inner, 3), reject_nonfinite(inner, 3)
    updates, _ = update_of(unguarded)(ones(), unguarded.init(ones()), ones(), broken_batches(1))
    assert is_all_nan(updates)
    updates, _ = update_of(guarded)(ones(), guarded.init(ones()), ones(), broken_batches(1))
    assert not is_all_nan(updates)


def test_reject_nonfinite_counters_saturate():
    tx = reject_nonfinite(optax.sgd(1.0), 1)
    largest = jnp.int32(jnp.iinfo(jnp.int32).max)
    state = tx.init(ones())._replace(notfinite_count=largest, total_notfinite=largest)
    _, state = tx.update(jax.tree.map(lambda x: x * np.nan, ones()), state)
    assert state.notfinite_count == state.total_notfinite == largest


def test_reject_nonfinite_keeps_dtypes_and_state_types():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2), "z": jnp.ones(2, jnp.complex64), "e": jnp.ones((0,))}
    tx = reject_nonfinite(optax.sgd(1.0, momentum=0.9), 1)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(params, state, params)
    describe = lambda x: (x.shape, x.dtype, x.weak_type)  # noqa: E731
    assert jax.tree.map(describe, updates) == jax.tree.map(describe, params)
    assert jax.tree.map(describe, after) == jax.tree.map(describe, state)


def test_reject_nonfinite_hands_extra_arguments_on():
    def update(grads, state, params=None, *, factor=1.0, **extra_args):
        return jax.tree.map(lambda g: factor * g, grads), state

    takes = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    updates, _ = reject_nonfinite(takes, 1).update(ones(), reject_nonfinite(takes, 1).init(ones()), factor=3.0)
    np.testing.assert_array_equal(updates["b"], 3)
    ignores = reject_nonfinite(optax.sgd(1.0), 1)
    updates, _ = ignores.update(ones(), ignores.init(ones()), ones(), factor=3.0)
    np.testing.assert_array_equal(updates["b"], -1)


@pytest.mark.parametrize("tree", [{}, {"a": None}, {"a": jnp.zeros((0,))}], ids=str)
def test_reject_nonfinite_accepts_trees_without_entries(tree):
    tx = reject_nonfinite(optax.sgd(1.0), 1)
    updates, state = tx.update(tree, tx.init(tree))
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    assert state.last_finite


def test_reject_nonfinite_hands_extra_arguments_to_objects_of_optax():
    inner = profit(optax.sgd(0.1), optax.sgd(1e-3))
    tx, plain = reject_nonfinite(optax.MultiSteps(inner, 1), 1), reject_nonfinite(inner, 1)
    updates, state = update_of(tx)(ones(), tx.init(ones()), ones(), ones(1))
    expected, _ = update_of(plain)(ones(), plain.init(ones()), ones(), ones(1))
    assert same(updates, expected)
    assert state.inner_state.inner_opt_state.count == 1


def test_reject_nonfinite_decides_for_all_shards_of_a_named_axis():
    tx = reject_nonfinite(optax.sgd(1.0, momentum=0.9), 1, axis_name="shard")
    grads = jnp.ones((4, 3)).at[1, 2].set(jnp.nan)
    state = jax.vmap(tx.init)(grads)
    updates, after = jax.vmap(tx.update, axis_name="shard")(grads, state)
    assert np.all(updates == 0)
    assert same(after.inner_state, state.inner_state)
    assert after.total_notfinite.tolist() == [1, 1, 1, 1]


def test_the_guard_promotes_no_dtype_in_silence():
    tx = reject_nonfinite(optax.sgd(0.1), 3)
    with jax.numpy_dtype_promotion("strict"):
        updates, state = tx.update(ones(), tx.init(ones()))
    assert same(updates, optax.sgd(0.1).update(ones(), state.inner_state)[0])
    assert state.last_finite
