"""Whatever a pytree may hold, the closure form trains it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit, profit_transparent
from tests import algorithm1, regression
from tests.algorithm1 import float64
from tests.steps import assert_close, given, one_step, take_step

OPTIONS = [{}, {"warmup_steps": 1}, {"displacement": "subtract"}, {"displacement_dtype": "bfloat16"}]


def test_frozen_leaves_stay_and_the_others_train_as_if_alone():
    params = regression.params()
    mask = {"w": False, "b": True, "v": True}
    updates, state = one_step(profit(optax.adamw(0.1), optax.sgd(0.02), 2, mask=mask), params)
    np.testing.assert_array_equal(updates["w"], 0)

    trained = {name: params[name] for name in ("b", "v")}
    closure = jax.value_and_grad(lambda trained, batch: regression.loss_fn(trained | {"w": params["w"]}, batch))
    expected, expected_state = one_step(
        profit(optax.adamw(0.1), optax.sgd(0.02), 2), trained, value_and_grad_fn=closure
    )
    assert_close({name: updates[name] for name in trained}, expected)
    assert_close(state.metrics, expected_state.metrics)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_none_and_size_0_leaves_pass_through(options):
    params = {"w": jnp.array([1.0, 2.0])}
    odd = params | {"none": None, "empty": jnp.zeros((0, 2)), "nested": {}}
    tx = profit(optax.adamw(0.1), optax.sgd(0.02, momentum=0.9), 2, **options)
    batches = odd | {"w": jnp.array([[1.0, 1.0], [1.0, -2.0]]), "empty": jnp.zeros((2, 0, 2))}
    updates, state = take_step(tx, odd, odd, batches)
    assert updates["none"] is None
    assert updates["empty"].shape == (0, 2)
    expected, expected_state = take_step(tx, params, params, {"w": batches["w"]})
    assert_close(updates["w"], expected["w"])
    assert_close(state.metrics, expected_state.metrics)


@pytest.mark.parametrize("tree", [{}, (), {"a": None}, {"a": np.zeros((0,), np.float32)}], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_trees_without_entries_give_no_nan(tree, options):
    tx = profit(optax.adamw(0.1), optax.sgd(0.1), 2, **options)
    updates, state = take_step(tx, tree, tree, (), value_and_grad_fn=lambda params, batch: (0.0, params))
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    assert [float(x) for x in state.metrics] == [0] * 5


def test_leaves_may_be_of_mixed_dtypes():
    dtypes = {"w": jnp.bfloat16, "b": jnp.float32, "v": jnp.float16}
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)  # noqa: E731
    params = {name: x.astype(dtypes[name]) for name, x in regression.params().items()}
    closure = jax.value_and_grad(lambda params, batch: regression.loss_fn(wide(params), batch))
    tx = profit(optax.sgd(0.1, momentum=0.9), optax.sgd(0.02), 2)
    updates, state = one_step(tx, params, value_and_grad_fn=closure)
    assert {name: u.dtype for name, u in updates.items()} == dtypes
    expected, expected_state = one_step(tx, wide(params))
    assert_close(wide(updates), expected, tolerance=2e-2)
    assert_close(state.metrics.cosine, expected_state.metrics.cosine, tolerance=2e-2)


@pytest.mark.parametrize("options", [*OPTIONS, {"warmup_steps": 1, "displacement": "subtract"}], ids=str)
@pytest.mark.parametrize(
    "dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")], ids=["wide grads", "wide params"]
)
def test_gradients_may_have_another_dtype_than_their_parameters(dtypes, options):
    params, g1, g2 = jnp.ones(2, dtypes[0]), jnp.array([1.0, 0.5], dtypes[1]), jnp.array([[1.0, 2.0]], dtypes[1])
    tx = profit(optax.sgd(1.0), optax.sgd(0.25), **options)
    updates, state = take_step(tx, params, g1, g2)
    updates, state = take_step(tx, params, g1, g2, state)
    # Δ = −g₁/4, so 8/5 g₁ goes from g₂.
    assert_close(updates.astype(jnp.float32), [0.6, -1.2], tolerance=2 * float(jnp.finfo(jnp.bfloat16).eps))
    assert updates.dtype == dtypes[1]


def test_numpy_leaves_and_python_numbers_train_like_arrays():
    closure = jax.value_and_grad(lambda params, batch: jnp.mean(batch["x"]) * jnp.sum((params["w"] + params["c"]) ** 2))
    tx = profit(optax.adam(0.1), optax.sgd(0.02, momentum=0.9), 2)
    w, c = np.array([1.0, -2.0], np.float32), 0.5
    results = [
        one_step(tx, params, value_and_grad_fn=closure)[0]
        for params in ({"w": jnp.asarray(w), "c": jnp.float32(c)}, {"w": w, "c": np.float32(c)}, {"w": w, "c": c})
    ]
    assert_close(results[0], results[1], tolerance=0)
    assert_close(results[0], results[2], tolerance=0)


def test_a_batch_may_be_whatever_numpy_makes_an_array_of():
    class Loaded:
        shape, dtype = (1, 2), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            return np.array([[1.0, 3.0]], np.float32)

    tx, params = profit(optax.sgd(1.0), optax.sgd(0.5)), jnp.ones(2)
    extra = {"value_and_grad_fn": given, "batches": Loaded()}
    updates, _ = tx.update(jnp.array([1.0, 0.0]), tx.init(params), params, **extra)
    np.testing.assert_array_equal(updates, [0.0, -3.0])


def test_a_weakly_typed_leaf_trains_like_one_of_a_definite_dtype():
    # Beside a narrower displacement JAX would round it to the dtype of that.
    tx = profit(optax.sgd(1.0), optax.sgd(0.5), displacement_dtype="bfloat16")
    weak, definite = jnp.asarray(1.001), jnp.asarray(1.001, jnp.float32)
    assert weak.weak_type
    closure = lambda params, batch: (0.0, params * batch)  # noqa: E731
    found, expected = (take_step(tx, p, p, jnp.ones(1), value_and_grad_fn=closure) for p in (weak, definite))
    assert_close(found, expected, tolerance=0)


def test_python_numbers_train_without_jit():
    tx = profit(optax.sgd(1.0), optax.sgd(0.5))
    closure = lambda params, batch: (0.0, {"c": params["c"] * batch})  # noqa: E731
    state = tx.init({"c": 1.0})
    updates, state = tx.update(
        {"c": 1.0}, state, {"c": 1.0}, value_and_grad_fn=closure, batches=np.array([-2.0], np.float32)
    )
    # θ' = 1/2 and there g = −1: no conflict with Δ = −1/2.
    assert updates["c"] == 1
    assert state.metrics.inner_product == 0.5


def test_python_numbers_train_call_by_call_without_jit():
    tx = profit_transparent(optax.sgd(1.0), optax.sgd(0.5))
    state, held = tx.init({"c": 1.0}), {"c": 1.0}
    for grad in (1.0, 2.0):
        updates, state = tx.update({"c": grad}, state, held)
        held = {"c": float(held["c"] + updates["c"])}
    # Along the displacement there is but one direction, and 2 conflicts with it: nothing is left.
    assert held["c"] == 1


def test_an_optimizer_may_begin_with_a_number_of_pythons():
    def update_fn(updates, count, params=None):
        return updates, jnp.asarray(count) + 1

    tx = profit(optax.GradientTransformation(lambda params: 0, update_fn), optax.sgd(0.5))
    params = jnp.ones(2)
    _, state = tx.update(params, tx.init(params), params, value_and_grad_fn=given, batches=params[None])
    assert state.optimizer_state == 1


def test_a_displacement_near_the_largest_number_of_16_bits_is_one():
    params, grads = jnp.zeros(1, jnp.float16), jnp.full(1, -4e4, jnp.float16)
    updates, state = take_step(profit(optax.sgd(1.0), optax.sgd(1.0)), params, grads, grads[None])
    assert float(state.metrics.displacement_norm) == float(-grads[0])
    np.testing.assert_array_equal(updates, 0.0)


def test_a_single_array_is_a_tree():
    updates, _ = take_step(profit(optax.sgd(1.0), optax.sgd(1.0)), jnp.ones(2), jnp.array([1.0, 0.0]), jnp.ones((1, 2)))
    np.testing.assert_array_equal(updates, [0.0, -1.0])


def test_typed_keys_may_be_leaves_of_batches():
    # Each gradient is drawn with its batch's key.
    closure = lambda params, batch: (0.0, jax.random.normal(batch["key"], (5,)))  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    g1, g2, g3 = (closure(None, {"key": key})[1] for key in keys)
    tx = profit(optax.identity(), optax.sgd(1e-6), 2)
    updates, state = take_step(tx, jnp.ones(5), g1, {"key": keys[1:]}, value_and_grad_fn=closure)
    exact = algorithm1.project(float64({"g": g3}), float64({"g": -1e-6 * (g1 + g2)}))
    assert_close(updates, exact.gradient["g"])
    assert_close(state.metrics.cosine, exact.cosine)


def test_a_closure_with_aux_gives_the_same_step():
    def loss_fn(params, batch):
        loss = regression.loss_fn(params, batch)
        return loss, {"loss": loss, "batch": batch}

    tx = profit(optax.adam(0.1), optax.sgd(0.02), 2)
    with_aux, _ = one_step(tx, value_and_grad_fn=jax.value_and_grad(loss_fn, has_aux=True))
    assert_close(with_aux, one_step(tx)[0], tolerance=0)


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.apply_if_finite(tx, 3)], ids=["plain", "wrapped"])
def test_a_nan_in_a_masked_gradient_counts_in_nothing(wrap):
    tx = profit(wrap(optax.sgd(1.0)), wrap(optax.sgd(0.5)), mask={"a": True, "b": False})
    params = {"a": jnp.ones(()), "b": jnp.ones(())}
    grads = {"a": jnp.ones(()), "b": jnp.full((), jnp.nan)}
    updates, state = take_step(tx, params, grads, jax.tree.map(lambda g: g[None], grads))
    assert (float(updates["a"]), float(updates["b"])) == (0, 0)
    assert float(state.metrics.cosine) == -1
