"""What `orthogonalize_to_previous` remembers: its definition in NumPy, and gradients that are out of the ordinary."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import orthogonalize, orthogonalize_to_previous
from tests import forms
from tests.algorithm1 import add, float64, project, scale

EPS = float(jnp.finfo(jnp.float32).eps)
DECAYS = {"last": 0.0, "average": 0.7, "schedule": optax.linear_schedule(0.0, 0.75, 4)}


def some_gradients(steps, seed=0, dtype="float32"):
    """Gradients [steps, ...] that share a part, and so agree, or disagree where they have turned."""
    rng = np.random.default_rng(seed)
    shared = np.where(np.arange(steps) % 4 == 3, -1.0, 1.0)
    shapes = {"w": (3, 4), "b": (4,), "s": ()}
    return {
        name: jnp.asarray(rng.normal(size=(steps, *shape)) + 0.5 * shared.reshape(-1, *(1,) * len(shape)), dtype)
        for name, shape in shapes.items()
    }


def at(tree, step):
    return jax.tree.map(lambda x: x[step], tree)


def run(tx, gradients, params=None):
    """The updates and the states after each of the gradients [steps, ...]."""
    update = jax.jit(tx.update)
    state, seen = tx.init(at(gradients, 0) if params is None else params), []
    for step in range(len(jax.tree.leaves(gradients)[0])):
        updates, state = update(at(gradients, step), state)
        seen.append((updates, state))
    return seen


def by_hand(gradients, decay, warmup_steps=0, rounded=lambda x: x):
    """The projections, and the memory after each step, in float64."""
    memory, seen = {name: np.zeros(x.shape[1:]) for name, x in gradients.items()}, []
    for step in range(len(gradients["w"])):
        g = float64(at(gradients, step))
        kept = float(decay(step)) if callable(decay) else decay
        projection = project(g, scale(-1.0 if step >= warmup_steps else 0.0, memory))
        memory = {k: rounded(x) for k, x in add(scale(kept, memory), scale(1 - kept, g)).items()}
        seen.append((projection, memory))
    return seen


def assert_close(tree, expected, tolerance=8 * EPS):
    size = max(np.max(np.abs(x)) for x in expected.values())
    for name, x in expected.items():
        np.testing.assert_allclose(np.asarray(tree[name], np.float64), x, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("decay", DECAYS)
def test_it_is_its_definition(decay, warmup_steps):
    gradients = some_gradients(12)
    expected = by_hand(gradients, DECAYS[decay], warmup_steps)
    assert {projection.conflict for projection, _ in expected[warmup_steps + 1 :]} == {True, False}
    tx = orthogonalize_to_previous(DECAYS[decay], warmup_steps=warmup_steps)
    for step, ((updates, state), (projection, memory)) in enumerate(zip(run(tx, gradients), expected, strict=True)):
        assert_close(updates, projection.gradient, 16 * EPS)
        assert_close(state.previous, memory)
        assert int(state.count) == step + 1
        assert bool(state.metrics.conflict) == projection.conflict
        for name in ("inner_product", "cosine", "displacement_norm", "gradient_norm"):
            exact = getattr(projection, name)
            assert float(getattr(state.metrics, name)) == pytest.approx(exact, rel=32 * EPS, abs=32 * EPS), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("decay", DECAYS)
def test_a_narrow_memory_is_rounded_once_and_what_is_rounded_is_projected_against(decay, dtype):
    gradients = some_gradients(12)
    kept = DECAYS[decay]
    rounded = lambda x: np.asarray(jnp.asarray(x, jnp.float32).astype(dtype), np.float64)  # noqa: E731
    tx = orthogonalize_to_previous(kept, dtype=dtype)
    previous = tx.init(at(gradients, 0)).previous
    eps = float(jnp.finfo(dtype).eps)
    for step, (updates, state) in enumerate(run(tx, gradients)):
        g, memory = float64(at(gradients, step)), float64(previous)
        projection = project(g, scale(-1.0, memory))
        assert_close(updates, projection.gradient, 16 * EPS)
        k = float(kept(step)) if callable(kept) else kept
        exact = add(scale(k, memory), scale(1 - k, g))
        previous = state.previous
        assert {x.dtype for x in jax.tree.leaves(previous)} == {jnp.dtype(dtype)}
        for name, x in exact.items():
            # A sum that lies in the middle between two numbers may be rounded to either: float32 is rounded, too.
            np.testing.assert_allclose(np.float64(previous[name]), x, rtol=eps / 2 * 1.001, atol=1e-7)
            if k == 0:
                np.testing.assert_array_equal(np.float64(previous[name]), rounded(x))


def test_the_first_gradient_passes_bit_for_bit():
    gradients = jnp.array([-0.0, 1e-30, 1e15, -1e-30])
    tx = orthogonalize_to_previous()
    updates, state = tx.update(gradients, tx.init(gradients))
    assert np.asarray(updates).tobytes() == np.asarray(gradients).tobytes()
    assert np.asarray(state.previous).tobytes() == np.asarray(gradients).tobytes()


def test_gradients_of_several_dtypes_keep_them_and_complex_ones_count_as_two_real_ones():
    rng = np.random.default_rng(0)
    wide = {"c": rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3)), "h": rng.normal(size=(4, 5)) + 0.5}
    gradients = {"c": jnp.asarray(wide["c"], "complex64"), "h": jnp.asarray(wide["h"], "bfloat16")}
    parts = {"r": np.real(gradients["c"]), "i": np.imag(gradients["c"]), "w": np.float64(gradients["h"])}
    expected = by_hand(parts, 0.0)
    for (updates, _), (projection, _) in zip(run(orthogonalize_to_previous(), gradients), expected, strict=True):
        assert jax.tree.map(lambda x: x.dtype.name, updates) == {"c": "complex64", "h": "bfloat16"}
        found = {"r": updates["c"].real, "i": updates["c"].imag, "w": updates["h"]}
        assert_close(found, projection.gradient, float(jnp.finfo("bfloat16").eps))
        assert_close({k: found[k] for k in "ri"}, {k: projection.gradient[k] for k in "ri"}, 16 * EPS)
    state = orthogonalize_to_previous(dtype="bfloat16").init(at(gradients, 0))
    assert jax.tree.map(lambda x: x.dtype.name, state.previous) == {"c": "complex64", "h": "bfloat16"}


@pytest.mark.parametrize("factor", [1e-10, 1e-7, 1e3, 1e15])
def test_the_result_does_not_depend_on_the_scale_of_the_gradients(factor):
    gradients = some_gradients(6)
    scaled = jax.tree.map(lambda x: factor * x, gradients)
    pairs = zip(run(orthogonalize_to_previous(), gradients), run(orthogonalize_to_previous(), scaled), strict=True)
    for (updates, state), (other, other_state) in pairs:
        assert_close(scale(1 / factor, float64(other)), float64(updates), 16 * EPS)
        assert float(other_state.metrics.cosine) == pytest.approx(float(state.metrics.cosine), abs=16 * EPS)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_norm_that_is_known_from_the_step_before_is_that_of_the_memory(decay):
    tx = orthogonalize_to_previous(decay)
    gradients = some_gradients(20)
    for _, state in (seen := run(tx, gradients))[:-1]:
        expected, metrics = orthogonalize(at(gradients, -1), jax.tree.map(jnp.negative, state.previous))
        updates, after = tx.update(at(gradients, -1), state)
        assert float(after.metrics.displacement_norm) == pytest.approx(float(metrics.displacement_norm), rel=8 * EPS)
        assert_close(updates, float64(expected), 16 * EPS)
    assert len(seen) == 20


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("warmup_steps", [0, 2])
@pytest.mark.parametrize("decay", DECAYS)
def test_no_branch_and_no_loop_is_compiled(decay, warmup_steps, platform):
    tx = orthogonalize_to_previous(DECAYS[decay], warmup_steps=warmup_steps)
    grads = at(some_gradients(1), 0)
    program = jax.jit(tx.update).trace(grads, tx.init(grads)).lower(lowering_platforms=(platform,)).as_text()
    assert not forms.branches(program)
    assert "stablehlo.while" not in program


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_every_update_of_its_own_step_nan_and_no_other(decay, bad):
    gradients = some_gradients(6)
    gradients["b"] = gradients["b"].at[2, 1].set(bad)
    seen = run(orthogonalize_to_previous(decay), gradients)
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(seen[2][0]))
    assert np.isnan(seen[2][1].metrics.cosine)
    for i, (updates, state) in enumerate(seen):
        if i != 2:
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state.metrics)))


def test_after_what_is_not_finite_the_next_gradient_passes_as_the_first_one_does():
    gradients = jnp.array([[1.0, 1.0], [np.nan, 1.0], [1.0, 2.0], [1.0, 3.0]])
    seen = run(orthogonalize_to_previous(), gradients)
    assert seen[2][0].tolist() == [1.0, 2.0]
    assert (float(seen[2][1].metrics.displacement_norm), float(seen[2][1].metrics.cosine)) == (0.0, 0.0)
    assert seen[3][0].tolist() == pytest.approx([1.0 - 7 / 5, 3.0 - 14 / 5], rel=16 * EPS)


def test_the_same_with_a_memory_in_a_dtype_of_its_own():
    gradients = jnp.array([[1.0, 1.0], [np.nan, 1.0], [1.0, 2.0]])
    assert run(orthogonalize_to_previous(dtype="bfloat16"), gradients)[2][0].tolist() == [1.0, 2.0]


def test_an_average_leaves_out_what_is_not_finite():
    gradients = jnp.array([[1.0, 1.0], [np.nan, 1.0], [1.0, 2.0]])
    seen = run(orthogonalize_to_previous(0.5), gradients)
    assert seen[1][1].previous.tolist() == seen[0][1].previous.tolist() == [0.5, 0.5]
    assert seen[2][1].previous.tolist() == [0.75, 1.25]


def test_in_warm_up_what_is_not_finite_is_not_dropped_in_silence_either():
    gradients = jnp.array([[1.0, np.nan], [1.0, 2.0]])
    seen = run(orthogonalize_to_previous(warmup_steps=5), gradients)
    assert np.all(np.isnan(seen[0][0]))
    assert seen[1][0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_memory_that_overflows_in_its_dtype_is_told_of_and_left_behind(decay):
    gradients = jnp.array([[1e6, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    seen = run(orthogonalize_to_previous(decay, dtype="float16"), gradients)
    assert np.all(np.isnan(seen[1][0]))
    assert seen[2][0].tolist() == [0.0, 1.0]
    assert np.all(np.isfinite(seen[3][0]))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_apply_if_finite_around_the_chain_drops_the_step_and_keeps_the_memory(decay):
    gradients = some_gradients(5)
    broken = jax.tree.map(lambda x: jnp.insert(x, 2, np.nan, axis=0), gradients)
    chain = optax.chain(orthogonalize_to_previous(decay), optax.scale(-0.5))
    expected = run(chain, gradients)
    seen = run(optax.apply_if_finite(chain, 3), broken)
    assert not any(np.any(x) for x in jax.tree.leaves(seen.pop(2)[0]))
    for (updates, state), (other, other_state) in zip(seen, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, (updates, state.inner_state), (other, other_state))


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_leaves_without_a_gradient_count_as_gradients_of_0_and_get_no_update(decay, dtype):
    tx = orthogonalize_to_previous(decay, dtype=dtype)
    gradients = some_gradients(6)
    zeroed = gradients | {"b": gradients["b"].at[jnp.array([2, 4])].set(0)}
    state, expected = tx.init(at(gradients, 0)), run(tx, zeroed)
    for step in range(6):
        grads = at(zeroed, step) | ({"b": None} if step in (2, 4) else {})
        updates, state = tx.update(grads, state)
        assert (updates["b"] is None) == (step in (2, 4))
        present = {k: x for k, x in updates.items() if x is not None}
        assert_close(present, {k: np.float64(expected[step][0][k]) for k in present})
        assert_close(state.previous, float64(expected[step][1].previous))


def test_a_whole_branch_may_have_no_gradient():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(())}}
    tx = orthogonalize_to_previous()
    state = tx.init(params)
    updates, state = tx.update(params | {"b": None}, state)
    assert updates["b"] is None
    assert jax.tree.structure(state.previous) == jax.tree.structure(params)


def test_trees_without_leaves_and_leaves_of_size_0_give_no_nan():
    for params in ({}, {"a": jnp.zeros((0, 3))}, {"a": jnp.zeros((0,)), "b": jnp.ones(2)}, {"a": jnp.zeros(3)}):
        tx = orthogonalize_to_previous()
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(params, state)
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((updates, state)))


MASKS = {
    "leaf by leaf": {"w": True, "b": False, "s": True},
    "function": lambda tree: {name: x.ndim != 1 for name, x in tree.items()},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bad", [1.0, np.nan, np.inf])
def test_what_a_mask_leaves_out_has_no_memory_counts_in_nothing_and_stays_bit_for_bit(mask, bad):
    gradients = some_gradients(6)
    tx = orthogonalize_to_previous(mask=MASKS[mask])
    trained = {k: x for k, x in gradients.items() if k != "b"}
    expected = run(orthogonalize_to_previous(), trained)
    seen = run(tx, gradients | {"b": gradients["b"] * bad})
    for (updates, state), (other, other_state) in zip(seen, expected, strict=True):
        assert isinstance(state.previous["b"], optax.MaskedNode)
        jax.tree.map(np.testing.assert_array_equal, state.metrics, other_state.metrics)
        jax.tree.map(np.testing.assert_array_equal, {k: updates[k] for k in trained}, other)
        held = {"b": jnp.array([-0.0, np.inf, np.nan, 1e-30])}
        after = optax.apply_updates(held, {"b": updates["b"]})
        assert np.asarray(after["b"]).tobytes() == np.asarray(held["b"]).tobytes()


def test_a_mask_function_is_given_the_parameters_where_there_are_any_and_else_the_updates():
    asked = []

    def mask(tree):
        asked.append(tree)
        return jax.tree.map(lambda x: True, tree)

    tx = orthogonalize_to_previous(mask=mask)
    params, grads = {"a": jnp.ones(2)}, {"a": jnp.zeros(2)}
    state = tx.init(params)
    tx.update(grads, state, params)
    tx.update(grads, state)
    assert [tree is expected for tree, expected in zip(asked, (params, params, grads), strict=True)] == [True] * 3


def test_a_prefix_mask_freezes_a_branch():
    params = {"a": {"b": jnp.ones(2), "c": jnp.ones(())}, "d": jnp.ones(3)}
    tx = orthogonalize_to_previous(mask={"a": False, "d": True})
    updates, state = tx.update(params, tx.init(params))
    assert [x.shape for x in jax.tree.leaves(state.previous)] == [(3,)]
    assert not np.any(updates["a"]["b"])
    assert updates["d"].tolist() == [1.0] * 3


def test_integer_leaves_are_left_out_with_a_mask():
    params = {"w": jnp.ones(2), "n": jnp.arange(3)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    tx = orthogonalize_to_previous(mask={"w": True, "n": False})
    updates, _ = tx.update(grads, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert (after["n"].dtype, after["n"].tolist(), after["w"].tolist()) == (jnp.int32, [0, 1, 2], [3.0, 3.0])


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_integer_and_bool_leaves_without_a_mask_are_an_error_that_names_both(dtype):
    params = {"w": jnp.ones(2), "n": jnp.zeros(3, dtype)}
    tx = orthogonalize_to_previous()
    with pytest.raises(TypeError, match=rf"{dtype} at \['n'\].*mask"):
        tx.update(params, tx.init(params))


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_outside_of_jit_nothing_is_compiled_from_the_second_call_on(decay, caplog):
    tx = optax.chain(orthogonalize_to_previous(decay, warmup_steps=1), optax.sgd(0.1))
    params = {"a": jnp.ones(5), "b": jnp.ones((2, 5))}
    grads = jax.tree.map(lambda x: 2 * x, params)
    state = tx.init(params)
    for call in range(4):
        caplog.clear()
        with jax.log_compiles():
            _, state = tx.update(grads, state, params)
        compiled = [r.message for r in caplog.records if "Compiling" in r.message or "Finished XLA" in r.message]
        assert call == 0 or not compiled
        assert call or compiled, "the log that this test reads says nothing"


@pytest.mark.parametrize("params_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("grads_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_states_types_are_fixed_by_init_and_updates_have_those_of_the_gradients(
    params_dtype, grads_dtype, decay, dtype
):
    tx = orthogonalize_to_previous(DECAYS[decay], dtype=dtype)
    state = tx.init(jnp.zeros(3, params_dtype))
    expected, update = jax.tree.map(jax.typeof, state), jax.jit(tx.update)
    assert state.previous.dtype == (params_dtype if dtype is None else dtype)
    for _ in range(3):
        updates, state = update(jnp.arange(3.0).astype(grads_dtype), state)
        assert updates.dtype == grads_dtype
        assert jax.tree.map(jax.typeof, state) == expected
    assert update._cache_size() == 1


def test_an_injected_decay_can_be_set_between_steps():
    tx = optax.inject_hyperparams(orthogonalize_to_previous, static_args="warmup_steps")(0.0)
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.array([2.0, 0.0]), state)
    state.hyperparams["decay"] = jnp.asarray(0.75)
    _, state = tx.update(jnp.array([0.0, 4.0]), state)
    assert state.inner_state.previous.tolist() == [1.5, 1.0]


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_what_a_wrapper_masks_counts_in_nothing(wrapper):
    gradients = some_gradients(6)
    line = orthogonalize_to_previous()
    tx = {
        "masked": lambda: optax.masked(line, {"w": True, "b": False, "s": True}),
        "partition": lambda: optax.partition(
            {"line": line, "plain": optax.identity()}, {"w": "line", "b": "plain", "s": "line"}
        ),
    }[wrapper]()
    expected = run(line, {k: x for k, x in gradients.items() if k != "b"})
    for step, ((updates, state), (other, other_state)) in enumerate(zip(run(tx, gradients), expected, strict=True)):
        np.testing.assert_array_equal(updates["b"], gradients["b"][step])
        jax.tree.map(np.testing.assert_array_equal, {k: updates[k] for k in other}, other)
        assert float(optax.tree.get(state, "cosine")) == float(other_state.metrics.cosine)


def test_a_vmapped_one_is_many_of_them_at_decays_of_their_own():
    decays, gradients = jnp.array([0.0, 0.5, 0.9]), some_gradients(18)
    gradients = jax.tree.map(lambda x: x.reshape(6, 3, *x.shape[1:]), gradients)

    def all_steps(decay, gradients):
        tx = orthogonalize_to_previous(decay)

        def step(state, grads):
            updates, state = tx.update(grads, state)
            return state, updates

        return jax.lax.scan(step, tx.init(at(gradients, 0)), gradients)[1]

    together = jax.jit(jax.vmap(all_steps, in_axes=(0, 1)))(decays, gradients)
    for i, decay in enumerate(decays):
        own = jax.tree.map(lambda x, i=i: x[:, i], gradients)
        for step, (projection, _) in enumerate(by_hand(own, float(decay))):
            assert_close(jax.tree.map(lambda x, i=i, step=step: x[i, step], together), projection.gradient, 16 * EPS)


def test_it_can_be_differentiated_through():
    tx = orthogonalize_to_previous()

    def loss(scale_):
        state = tx.init(jnp.zeros(2))
        _, state = tx.update(scale_ * jnp.array([1.0, 0.0]), state)
        updates, _ = tx.update(scale_ * jnp.array([1.0, 1.0]), state)
        return jnp.sum(updates)

    assert float(jax.grad(loss)(2.0)) == pytest.approx(1.0, rel=16 * EPS)
