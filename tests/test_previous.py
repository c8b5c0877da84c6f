"""The one line of a chain against its recurrence, each of its options, and every place that it works in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import OrthogonalizeToPreviousState, eval_params, orthogonalize, orthogonalize_to_previous
from tests.steps import EPS, assert_close, types

PARAMS = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([[0.5, 1.0]])}


def gradients(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) + 0.3, PARAMS) for _ in range(steps)]


def run(tx, grads, params=PARAMS, *, jit=True):
    """The updates of each step, and the last state."""
    update, state, seen = jax.jit(tx.update) if jit else tx.update, tx.init(params), []
    for g in grads:
        updates, state = update(g, state, params)
        seen.append(updates)
    return seen, state


def by_hand(grads, decay=0.0):
    memory = jax.tree.map(np.zeros_like, grads[0])
    for g in grads:
        yield orthogonalize(g, jax.tree.map(lambda m: -m, memory))
        memory = jax.tree.map(lambda m, x: decay * m + (1 - decay) * x, memory, g)


def test_a_trajectory_worked_out_by_hand():
    # The second gradient agrees with the first in its first entry alone, and the third conflicts with the second.
    grads = [jnp.array(g) for g in ([2.0, 0.0], [3.0, 1.0], [-3.0, -1.0])]
    tx = orthogonalize_to_previous()
    updates, state = run(tx, grads, jnp.zeros(2))
    np.testing.assert_array_equal(updates, [[2.0, 0.0], [0.0, 1.0], [-3.0, -1.0]])
    assert (int(state.count), bool(state.metrics.conflict), float(state.metrics.inner_product)) == (3, False, 10.0)
    np.testing.assert_array_equal(state.previous, [-3.0, -1.0])


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_each_update_is_the_projection_against_minus_the_memory(decay, jit):
    grads = gradients(6)
    updates, state = run(orthogonalize_to_previous(decay), grads, jit=jit)
    expected = list(by_hand(grads, decay))
    for found, (projected, _) in zip(updates, expected, strict=True):
        assert_close(found, projected)
    assert_close(state.metrics, expected[-1][1])
    assert any(bool(metrics.conflict) for _, metrics in expected[1:])


def test_a_schedule_and_an_injected_decay_are_decays():
    grads = gradients(5)
    expected, _ = run(orthogonalize_to_previous(0.5), grads)
    scheduled, _ = run(orthogonalize_to_previous(optax.constant_schedule(0.5)), grads)
    injected, state = run(
        optax.inject_hyperparams(orthogonalize_to_previous, static_args=("warmup_steps", "dtype"))(0.5), grads
    )
    assert_close(scheduled, expected)
    assert_close(injected, expected)
    assert float(state.hyperparams["decay"]) == 0.5
    changing, _ = run(orthogonalize_to_previous(lambda count: 0.5 * (count > 0)), grads)
    assert max(np.abs(x["w"] - y["w"]).max() for x, y in zip(changing, expected, strict=True)) > 1e-3


def test_through_warm_up_gradients_pass_and_the_memory_follows():
    grads = gradients(5)
    updates, _ = run(orthogonalize_to_previous(warmup_steps=3), grads)
    for found, g in zip(updates[:3], grads, strict=False):
        jax.tree.map(np.testing.assert_array_equal, found, g)
    plain, _ = run(orthogonalize_to_previous(), grads)
    assert_close(updates[3:], plain[3:])
    _, warm = run(orthogonalize_to_previous(warmup_steps=3), grads[:3])
    assert [float(x) for x in warm.metrics[:4]] == [0, 0, 0, 0]
    assert warm.metrics.gradient_norm > 0


def test_the_memory_is_kept_in_its_dtype_and_what_is_rounded_is_projected_against():
    grads = [{"w": jnp.array([1.0 + 2.0**-12, 1.0])}, {"w": jnp.array([1.0, 0.0])}]
    (_, update), state = run(orthogonalize_to_previous(dtype="bfloat16"), grads, {"w": jnp.zeros(2)})
    assert state.previous["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(update["w"], [0.5, -0.5])
    (_, exact), _ = run(orthogonalize_to_previous(), grads, {"w": jnp.zeros(2)})
    assert float(exact["w"][0]) != 0.5


@pytest.mark.parametrize(("params_dtype", "grads_dtype"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_states_keep_their_types_and_updates_have_those_of_the_gradients(params_dtype, grads_dtype):
    params, grads = jnp.ones(3, params_dtype), jnp.ones(3, grads_dtype)
    for decay in (0.0, 0.5):
        tx = orthogonalize_to_previous(decay)
        first = tx.init(params)
        updates, state = jax.jit(tx.update)(grads, first, params)
        assert updates.dtype == grads.dtype
        assert types(state) == types(first)


def test_complex_leaves_enter_as_their_real_and_imaginary_parts():
    parts = [{"re": g["w"], "im": 2 * g["w"][::-1]} for g in gradients(4)]
    joined = [{"z": g["re"] + 1j * g["im"]} for g in parts]
    expected, _ = run(orthogonalize_to_previous(), parts, {"re": jnp.zeros(3), "im": jnp.zeros(3)})
    updates, state = run(orthogonalize_to_previous(dtype="float32"), joined, {"z": jnp.zeros(3, jnp.complex64)})
    assert state.previous["z"].dtype == jnp.complex64
    np.testing.assert_allclose(updates[-1]["z"].real, expected[-1]["re"], rtol=64 * EPS)
    np.testing.assert_allclose(updates[-1]["z"].imag, expected[-1]["im"], rtol=64 * EPS)


def test_masked_leaves_have_no_memory_no_part_in_sums_and_updates_of_0():
    grads = [g | {"b": jnp.full((1, 2), jnp.nan)} for g in gradients(4)]
    for mask in ({"w": True, "b": False}, lambda tree: {"w": True, "b": False}):
        updates, state = run(orthogonalize_to_previous(mask=mask), grads)
        alone, alone_state = run(orthogonalize_to_previous(), [{"w": g["w"]} for g in grads], {"w": PARAMS["w"]})
        assert state.previous["b"] == optax.MaskedNode()
        np.testing.assert_array_equal(updates[-1]["b"], 0)
        assert_close(updates[-1]["w"], alone[-1]["w"])
        assert_close(state.metrics, alone_state.metrics)


def test_gradients_may_be_numbers_of_pythons():
    tx = orthogonalize_to_previous()
    state = tx.init({"c": 1.0})
    for grad, expected in ((2.0, 2.0), (3.0, 0.0)):
        updates, state = tx.update({"c": grad}, state)
        assert updates["c"] == expected


def test_a_function_makes_the_mask_where_no_parameters_are_given():
    tx, (g, h) = orthogonalize_to_previous(mask=lambda tree: {"w": True, "b": False}), gradients(2)
    _, state = tx.update(g, tx.init(PARAMS))
    updates, _ = tx.update(h, state)
    assert_close(updates, run(tx, [g, h])[0][-1])


def test_a_function_of_the_parameters_makes_the_mask_and_not_of_the_gradients():
    tx = orthogonalize_to_previous(mask=lambda tree: jax.tree.map(lambda x: x.dtype == jnp.float32, tree))
    params = {"w": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    updates, state = tx.update(optax.tree.cast(params, jnp.float32), tx.init(params), params)
    np.testing.assert_array_equal(updates["b"], 0)
    assert state.previous["b"] == optax.MaskedNode()


def test_leaves_without_a_gradient_stay_out():
    tx = orthogonalize_to_previous()
    grads = [g | {"b": None} for g in gradients(3)]
    updates, state = run(tx, grads)
    assert updates[-1]["b"] is None
    np.testing.assert_array_equal(state.previous["b"], 0)
    alone, _ = run(tx, [{"w": g["w"]} for g in grads], {"w": PARAMS["w"]})
    assert_close(updates[-1]["w"], alone[-1]["w"])


def test_it_needs_no_parameters():
    tx, (g, h) = orthogonalize_to_previous(), gradients(2)
    _, state = tx.update(g, tx.init(PARAMS))
    updates, _ = tx.update(h, state, None)
    assert_close(updates, run(tx, [g, h])[0][-1])


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_gradient_that_is_not_finite_poisons_and_does_not_enter_an_average(decay):
    good = gradients(4)
    bad = good[1] | {"w": jnp.array([1.0, jnp.nan, 0.0])}
    updates, _ = run(orthogonalize_to_previous(decay), [good[0], bad, good[2], good[3]])
    assert all(np.isnan(x).all() for x in jax.tree.leaves(updates[1]))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates[2:]))
    if decay:
        skipped, _ = run(orthogonalize_to_previous(decay), [good[0], good[2], good[3]])
        assert_close(updates[2:], skipped[1:])
    guarded = optax.apply_if_finite(optax.chain(orthogonalize_to_previous(decay), optax.sgd(1.0)), 3)
    _, state = run(guarded, [good[0], bad])
    _, expected = run(guarded, [good[0]])
    assert_close(state.inner_state[0].previous, expected.inner_state[0].previous)


def test_the_norm_of_a_gradient_is_the_norm_of_the_next_displacement():
    # Two sums a leaf in place of three: what is known is not added up again.
    def sums(tx):
        state = tx.init(PARAMS)
        jaxpr = jax.make_jaxpr(tx.update)(PARAMS, state)
        return str(jaxpr).count("reduce_sum")

    assert sums(orthogonalize_to_previous()) < sums(orthogonalize_to_previous(0.5))
    _, state = run(orthogonalize_to_previous(), gradients(3))
    _, before = run(orthogonalize_to_previous(), gradients(3)[:2])
    np.testing.assert_allclose(state.metrics.displacement_norm, before.metrics.gradient_norm, rtol=4 * EPS)


WRAPPERS = {
    "chain": lambda tx: optax.chain(tx, optax.identity()),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": True}),
    "partition": lambda tx: optax.partition({"a": tx}, {"w": "a", "b": "a"}),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    "flatten": optax.flatten,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_it_works_wherever_a_transformation_of_gradients_works(wrapper):
    grads = gradients(4)
    expected, _ = run(orthogonalize_to_previous(), grads)
    updates, state = run(WRAPPERS[wrapper](orthogonalize_to_previous()), grads)
    assert_close(updates, expected)
    assert eval_params(state, PARAMS) is not None
    assert float(optax.tree.get(state, "cosine")) != 0


def test_a_vmapped_sweep_equals_each_alone():
    grads, decays = gradients(4), jnp.array([0.0, 0.3, 0.9])

    def last(decay):
        return run(orthogonalize_to_previous(decay), grads, jit=False)[0][-1]

    for i, decay in enumerate(decays):
        assert_close(jax.tree.map(lambda x, i=i: x[i], jax.vmap(last)(decays)), last(decay))


def test_params_and_state_can_be_donated():
    tx = optax.chain(orthogonalize_to_previous(), optax.adamw(1e-2))

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.copy, PARAMS)
    given = params, tx.init(params)
    step = jax.jit(step, donate_argnums=(0, 1))
    params, state = step(*given, gradients(1)[0])
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given[0], given[1][0].previous)))
    step(params, state, gradients(2)[1])
    assert step._cache_size() == 1


def test_it_is_saved_and_restored_bit_for_bit(tmp_path):
    # Here and not above: `make gpu` runs this file where Orbax is not.
    import orbax.checkpoint as ocp

    tx, grads = orthogonalize_to_previous(0.5), gradients(4)
    _, state = run(tx, grads[:2])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, PARAMS))
    assert isinstance(restored, OrthogonalizeToPreviousState)
    found, expected = (tx.update(grads[2], s)[0] for s in (restored, state))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"decay": 1.0}, ValueError, "decay must be at least 0 and below 1, got 1.0"),
        ({"decay": -0.1}, ValueError, "decay must be at least 0"),
        ({"decay": "0.5"}, TypeError, "decay must be a number in"),
        ({"decay": True}, TypeError, "decay must be a number in"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps must be at least 0"),
        ({"dtype": "int8"}, TypeError, "dtype must be a real floating-point dtype"),
        ({"axis_name": 3}, TypeError, "axis_name"),
    ],
)
def test_mistakes_are_told_at_construction(options, error, words):
    with pytest.raises(error, match=words):
        orthogonalize_to_previous(**options)


def test_mistakes_are_told_when_update_is_traced():
    tx = orthogonalize_to_previous()
    with pytest.raises(ValueError, match=r"(?s)updates must have the tree structure of previous.*expected.*got"):
        tx.update({"v": jnp.ones(3)}, tx.init(PARAMS))
    with pytest.raises(ValueError, match="must have the shapes of previous"):
        tx.update(PARAMS | {"w": jnp.ones(4)}, tx.init(PARAMS))
    with pytest.raises(ValueError, match="OrthogonalizeToPreviousState of orthogonalize_to_previous, got a tuple of"):
        tx.update(PARAMS, optax.adam(0.1).init(PARAMS))
    integers = {"n": jnp.ones(2, jnp.int32)}
    with pytest.raises(TypeError, match=r"int32 at \['n'\].*mask"):
        tx.update(integers, tx.init(integers))


def test_projecting_begins_with_the_first_step_after_the_warm_up():
    g = jax.tree.map(jnp.ones_like, PARAMS)
    _, state = run(orthogonalize_to_previous(warmup_steps=1), [g, g])
    assert state.metrics.conflict


def test_of_the_same_gradient_again_nothing_is_left_and_an_orthogonal_one_is_no_conflict():
    g = {"w": jnp.array([1.0, 2.0])}
    tx = orthogonalize_to_previous()
    updates, state = run(tx, [g, g], g)
    assert state.metrics.conflict
    np.testing.assert_array_equal(updates[-1]["w"], 0)
    _, state = run(tx, [g, {"w": jnp.array([-2.0, 1.0])}], g)
    assert state.metrics.inner_product == 0
    assert not state.metrics.conflict


def test_none_may_stand_for_a_part_of_the_tree():
    params = {"trained": jnp.ones(2), "part": {"a": jnp.ones(2), "b": jnp.ones(3)}}
    updates, _ = run(orthogonalize_to_previous(), [{"trained": jnp.ones(2), "part": None}] * 2, params)
    assert updates[-1]["part"] is None


def test_masked_leaves_may_be_integers():
    params = {"trained": jnp.ones(2), "count": jnp.arange(2)}
    grads = {"trained": jnp.ones(2), "count": jnp.zeros(2)}
    updates, _ = run(orthogonalize_to_previous(mask={"trained": True, "count": False}), [grads], params)
    np.testing.assert_array_equal(updates[0]["trained"], 1)


def test_an_average_in_16_bits_is_rounded_once_and_begins_anew_where_it_overflowed():
    tx = orthogonalize_to_previous(decay=0.3, dtype="bfloat16")
    grads = [{"w": jnp.asarray(g)} for g in np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)]
    # Outside of programs, in which compilers may leave a rounding out.
    _, state = run(tx, grads, grads[0], jit=False)
    first = (0.7 * grads[0]["w"]).astype(jnp.bfloat16).astype(jnp.float32)
    exact = (0.3 * first + 0.7 * grads[1]["w"]).astype(jnp.bfloat16)
    np.testing.assert_array_equal(state.previous["w"], exact)

    tx = orthogonalize_to_previous(decay=0.5, dtype="float16")
    _, state = run(tx, [{"w": jnp.full(2, 1e6)}, {"w": jnp.ones(2)}], {"w": jnp.ones(2)})
    np.testing.assert_array_equal(state.previous["w"], 0.5)
