"""Leaves that are not trained: what a mask leaves out, and what comes without a gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, orthogonalize_to_previous, profit, profit_adamw, profit_sgd, profit_transparent
from tests import regression
from tests.steps import assert_close

MASK = {"w": False, "b": True, "v": True}
ODD = jnp.array([-0.0, jnp.inf, -jnp.inf, jnp.nan])
FORMS = {
    "closure": profit,
    "subtract": lambda *args, **options: profit(*args, displacement="subtract", **options),
    "warm-up": lambda *args, **options: profit(*args, 3, warmup_steps=2, **options),
    "transparent": profit_transparent,
}


def bits(x):
    return np.asarray(x).view(np.uint32)


def turned(x):
    """A gradient that changes its direction on the way: what is projected away is not all of it."""
    return jnp.array([x[0] + x[1], x[1] - x[0]])


def loop(tx, params, gradient, steps=5):
    """A loop of jitted calls on `gradient(params)`, whatever the form; closures are handed the whole parameters."""

    @jax.jit
    def step(params, state):
        seen = []

        def value_and_grad_fn(displaced, batch):
            seen.append(jax.tree.structure(displaced) == jax.tree.structure(params))
            return 0.0, gradient(displaced)

        extra = {"value_and_grad_fn": value_and_grad_fn, "batches": jnp.zeros((1, 1))}
        updates, state = optax.with_extra_args_support(tx).update(gradient(params), state, params, **extra)
        assert all(seen)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_a_masked_leaf_keeps_its_negative_zeros_outside_of_programs_too():
    b, c = jnp.array([-0.0, 0.0]), jnp.array([complex(-0.0, -0.0), complex(1.0, -0.0), 0j], jnp.complex64)
    params = {"a": jnp.ones(2), "b": b, "c": c}
    tx = FORMS["transparent"](optax.sgd(0.1), optax.sgd(0.01), mask={"a": True, "b": False, "c": False})
    updates, _ = tx.update(params, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert np.signbit(after["b"]).tolist() == [True, False]
    np.testing.assert_array_equal(bits(after["c"]), bits(c))


@pytest.mark.parametrize("form", ["closure", "subtract", "transparent", "one line"])
def test_a_state_that_was_made_under_another_mask_is_told_of(form):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
    gradient = lambda params: jax.tree.map(turned, params)  # noqa: E731
    make = orthogonalize_to_previous
    if form != "one line":
        make = functools.partial(FORMS[form], optax.adam(0.1), optax.sgd(0.01, momentum=0.5))
    frozen, whole = make(mask={"a": True, "b": False}), make(mask=None)
    for tx, other in ((whole, frozen), (frozen, whole)):
        extra = {"value_and_grad_fn": lambda p, b: (0.0, gradient(p)), "batches": jnp.zeros((1, 1))}
        with pytest.raises(ValueError, match=r"state must be made with the mask that update has.*call init"):
            optax.with_extra_args_support(tx).update(gradient(params), other.init(params), params, **extra)


@pytest.mark.parametrize("form", ["closure", "subtract", "transparent"])
@pytest.mark.parametrize("mask", [{"a": True, "b": {"odd": False, "more": False}}, {"a": True, "b": False}], ids=str)
def test_masked_leaves_stay_bit_for_bit_whatever_they_and_their_gradients_hold(form, mask):
    params = {"a": jnp.array([1.0, 2.0]), "b": {"odd": ODD, "more": ODD[::-1]}}

    def gradient(params):
        return {"a": 2 * params["a"], "b": {"odd": jnp.full(4, jnp.nan), "more": ODD}}

    tx = FORMS[form](optax.adamw(0.1), optax.sgd(0.01, momentum=0.5), mask=mask)
    found, state = loop(tx, params, gradient)
    for name in ("odd", "more"):
        np.testing.assert_array_equal(bits(found["b"][name]), bits(params["b"][name]))
    alone, expected = loop(
        FORMS[form](optax.adamw(0.1), optax.sgd(0.01, momentum=0.5)), {"a": params["a"]}, lambda p: {"a": 2 * p["a"]}
    )
    assert_close(found["a"], alone["a"])
    assert_close(state.metrics, expected.metrics)
    kept = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    assert any(isinstance(x, optax.MaskedNode) for x in kept)
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(expected))
    theta = eval_params(state, found)
    np.testing.assert_array_equal(bits(theta["b"]["odd"]), bits(ODD))


@pytest.mark.parametrize("form", ["closure", "subtract", "transparent"])
def test_a_leaf_that_both_optimizers_freeze_makes_no_nan_of_minus_infinity(form):
    def freeze(tx):
        return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, {"w": "train", "mask": "freeze"})

    params = {"w": jnp.ones(2), "mask": jnp.array([0.0, -jnp.inf])}
    tx = FORMS[form](freeze(optax.sgd(0.1)), freeze(optax.sgd(0.1)))
    found, state = loop(tx, params, lambda p: {"w": turned(p["w"]), "mask": jnp.zeros(2)})
    np.testing.assert_array_equal(bits(found["mask"]), bits(params["mask"]))
    assert np.all(np.isfinite(found["w"]))
    assert np.all(found["w"] != 1)
    assert np.isfinite(state.metrics.cosine)


def test_a_nan_in_a_parameter_that_both_optimizers_freeze_stays_there():
    def freeze(tx):
        return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, {"w": "train", "frozen": "freeze"})

    params = {"w": jnp.ones(2), "frozen": jnp.array([jnp.nan, 1.0])}
    for form in ("closure", "subtract", "transparent"):
        tx = FORMS[form](freeze(optax.sgd(0.1)), freeze(optax.sgd(0.1)))
        found, _ = loop(tx, params, lambda p: {"w": turned(p["w"]), "frozen": jnp.zeros(2)})
        assert np.all(np.isfinite(found["w"]))
        np.testing.assert_array_equal(bits(found["frozen"]), bits(params["frozen"]))


def test_a_leaf_that_the_main_optimizer_alone_trains_gets_its_own_gradient():
    labels = {"w": "both", "v": "main"}
    reference = optax.partition({"both": optax.sgd(0.25), "main": optax.set_to_zero()}, labels)
    tx = profit(optax.sgd(1.0), reference)
    params = {"w": jnp.zeros(1), "v": jnp.zeros(1)}
    grads = {"w": jnp.array([2.0]), "v": jnp.array([7.0])}
    later = {"w": jnp.array([[3.0]]), "v": jnp.array([[5.0]])}
    updates, state = tx.update(grads, tx.init(params), params, value_and_grad_fn=lambda p, b: (0.0, b), batches=later)
    # Δ = (−1/2, 0), so that the projection takes all of w's gradient and none of v's.
    np.testing.assert_array_equal([updates["w"][0], updates["v"][0]], [0.0, -5.0])
    assert float(state.metrics.inner_product) == -1.5


@pytest.mark.parametrize("make", [profit_sgd, profit_adamw])
@pytest.mark.parametrize("form", ["closure", "transparent", "lagged"])
def test_aliases_hand_the_mask_on(make, form):
    params = regression.params()
    tx = make(0.1, 10.0, form=form, mask=MASK)
    found, state = loop(tx, params, lambda p: jax.tree.map(lambda x: jnp.roll(x, 1) - x, p), steps=4)
    np.testing.assert_array_equal(found["w"], params["w"])
    assert np.abs(found["v"] - params["v"]).max() > 1e-3
    sizes = [x.shape for x in jax.tree.leaves(state)]
    assert params["w"].shape not in sizes


@pytest.mark.parametrize("form", FORMS)
def test_a_function_of_the_parameters_makes_the_mask(form):
    params = regression.params()

    def vectors(params):
        return jax.tree.map(lambda x: x.ndim < 2, params)

    made, given, without = (
        jax.tree.structure(FORMS[form](optax.adamw(0.1), optax.sgd(0.01), mask=mask).init(params))
        for mask in (vectors, vectors(params), None)
    )
    assert made == given != without


def test_a_masked_leaf_costs_neither_memory_nor_a_backward_pass():
    # The frozen matrix is by far the largest: what it takes shows in every figure.
    params = {"frozen": jnp.ones((512, 512)), "head": jnp.ones((512, 4))}
    size = params["frozen"].nbytes

    def loss(params, x):
        return jnp.mean((x @ params["frozen"] @ params["head"]) ** 2)

    def compiled(tx):
        def step(params, state, batches):
            value_and_grad_fn = jax.value_and_grad(loss)
            _, grads = value_and_grad_fn(params, batches[0])
            updates, state = optax.with_extra_args_support(tx).update(
                grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=batches[1:]
            )
            return optax.apply_updates(params, updates), state

        shapes = jax.eval_shape(lambda: (params, tx.init(params), jnp.zeros((2, 8, 512))))
        return jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()

    mask = {"frozen": False, "head": True}
    ours = compiled(profit(optax.adamw(1e-3), optax.sgd(1e-4), mask=mask))
    assert ours.memory_analysis().temp_size_in_bytes < 0.25 * size
    assert ours.memory_analysis().argument_size_in_bytes < 1.25 * size
    # x @ frozen forward and its transpose would be a product of [512, 8] and [8, 512]: not one is there.
    assert "f32[512,512]{1,0} dot" not in ours.as_text()
    everything = compiled(profit(optax.adamw(1e-3), optax.sgd(1e-4)))
    assert everything.memory_analysis().temp_size_in_bytes > size


@pytest.mark.parametrize("form", FORMS)
def test_the_update_of_a_masked_leaf_has_the_dtype_of_its_gradient(form):
    params = {"w": jnp.ones(2), "frozen": jnp.ones(2, jnp.bfloat16)}
    grads = {"w": jnp.ones(2), "frozen": jnp.ones(2, jnp.float32)}
    tx = FORMS[form](optax.sgd(0.1), optax.sgd(0.01), mask={"w": True, "frozen": False})
    closure = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.zeros(3 if form == "warm-up" else 1)}
    updates, _ = tx.update(grads, tx.init(params), params, **({} if form == "transparent" else closure))
    assert updates["frozen"].dtype == jnp.float32


def test_int_and_bool_leaves_are_left_out_or_told_of():
    params = {"w": jnp.ones(2), "n": jnp.arange(2), "on": jnp.array([True])}
    grads = {"w": jnp.ones(2), "n": np.zeros(2, jax.dtypes.float0), "on": np.zeros(1, jax.dtypes.float0)}
    closure = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.zeros(1)}
    mask = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.inexact), params)
    tx = profit(optax.adamw(0.1), optax.sgd(0.01), mask=mask)
    updates, _ = tx.update(grads, tx.init(params), params, **closure)
    found = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(found["n"], params["n"])
    assert found["n"].dtype == params["n"].dtype
    for form in (profit, profit_transparent):
        tx = form(optax.sgd(0.1), optax.sgd(0.01))
        with pytest.raises(TypeError, match=r"grads .* at \['n'\].*mask"):
            tx.update(grads, tx.init({"w": jnp.ones(2)}), params, **(closure if form is profit else {}))


@pytest.mark.parametrize("form", ["closure", "subtract", "transparent"])
def test_leaves_without_a_gradient_stay_as_they_are(form):
    params = {"w": jnp.array([1.0, 2.0]), "rate": jnp.array(0.5), "steps": jnp.arange(3), "name": jnp.array([True])}

    def gradient(params):
        return {"w": 2 * params["w"], "rate": None, "steps": None, "name": None}

    tx = FORMS[form](optax.adamw(0.1), optax.sgd(0.01, momentum=0.5))
    alone = FORMS[form](optax.adamw(0.1), optax.sgd(0.01, momentum=0.5))
    state, held = tx.init(params), params
    expected_state, expected = alone.init({"w": params["w"]}), {"w": params["w"]}
    structure = jax.tree.structure(state)
    for _ in range(5):
        closure = {"value_and_grad_fn": lambda p, b: (0.0, gradient(p)), "batches": jnp.zeros(1)}
        extra = {} if form == "transparent" else closure
        updates, state = tx.update(gradient(held), state, held, **extra)
        assert updates["rate"] is None
        held = held | {"w": held["w"] + updates["w"]}
        extra = extra and {"value_and_grad_fn": lambda p, b: (0.0, {"w": 2 * p["w"]}), "batches": jnp.zeros(1)}
        updates, expected_state = alone.update({"w": 2 * expected["w"]}, expected_state, expected, **extra)
        expected = optax.apply_updates(expected, updates)
        assert jax.tree.structure(state) == structure
    assert_close(held["w"], expected["w"])
    theta = eval_params(state, held)
    np.testing.assert_array_equal(theta["rate"], 0.5)
    np.testing.assert_array_equal(theta["steps"], params["steps"])


def test_a_step_without_any_gradient_is_one_of_zeros():
    params = {"w": jnp.array([1.0, 2.0])}
    tx = FORMS["closure"](optax.sgd(0.1, momentum=0.5), optax.sgd(0.01))
    state = tx.init(params)
    for grads in (params, {"w": None}):
        # Along the displacement, so that nothing of it is taken away.
        last = jax.tree.map(lambda g: -g, grads)
        closure = {"value_and_grad_fn": lambda p, b, last=last: (0.0, last), "batches": jnp.zeros(1)}
        updates, state = tx.update(grads, state, params, **closure)
    assert updates["w"] is None
    np.testing.assert_array_equal(optax.tree.get(state, "trace")["w"], -params["w"] / 2)


@pytest.mark.parametrize("form", ["closure", "transparent"])
def test_a_state_that_was_made_for_the_leaves_with_a_gradient_is_for_these_alone(form):
    params = {"w": jnp.array([1.0, 2.0]), "v": jnp.ones(2)}
    grads = params | {"v": None}
    tx = FORMS[form](optax.sgd(0.1, momentum=0.5), optax.sgd(0.01))
    closure = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.zeros(1)}
    first = tx.init(grads)
    updates, state = tx.update(grads, first, params, **({} if form == "transparent" else closure))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert jax.tree.structure(state) == jax.tree.structure(first)


@pytest.mark.parametrize("form", ["closure", "transparent"])
def test_a_model_may_hold_functions_beside_a_leaf_without_a_gradient(form):
    # As in Equinox, where `init` is given the arrays alone.
    arrays = {"w": jnp.array([1.0, 2.0]), "v": jnp.ones(2), "activation": None}
    model, grads = arrays | {"activation": jnp.tanh}, arrays | {"v": None}
    tx = FORMS[form](optax.sgd(0.1, momentum=0.5), optax.sgd(0.01))
    closure = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.zeros(1)}
    updates, state = tx.update(grads, tx.init(arrays), model, **({} if form == "transparent" else closure))
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(arrays))


@pytest.mark.parametrize("make", [profit, profit_transparent])
@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        ({"w": 1, "b": True, "v": True}, TypeError, r"mask must have True .* got 1 of type int at \['w'\]"),
        ({"w": None, "b": True, "v": True}, TypeError, "got None"),
        ({"x": True}, ValueError, "mask must be a prefix pytree of bools"),
        (lambda params: jnp.array(True), TypeError, "pass Python bools, or a function"),
    ],
)
def test_a_mask_that_does_not_fit_is_told_of(make, mask, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        make(optax.sgd(0.1), optax.sgd(0.01), mask=mask).init(regression.params())


@pytest.mark.parametrize("form", ["closure", "subtract", "transparent", "lagged"])
@pytest.mark.parametrize("made", [True, False])
def test_a_mask_has_none_where_the_parameters_have_none(form, made):
    # As `jax.tree.map` makes it of Equinox's parameters, in which None stands for what is not trained.
    params = {"a": jnp.array([1.0, 2.0]), "none": None, "frozen": jnp.ones((2, 1))}
    shapes = lambda params: jax.tree.map(lambda x: x.shape == (2,), params)  # noqa: E731
    mask = shapes if made else shapes(params)
    make = FORMS[form] if form in FORMS else lambda *_, mask: profit_adamw(0.1, form="lagged", mask=mask)
    tx = make(optax.adamw(0.1), optax.sgd(0.01), mask=mask)
    found, _ = loop(tx, params, lambda p: jax.tree.map(turned, p))
    assert found["none"] is None
    np.testing.assert_array_equal(found["frozen"], params["frozen"])
    assert np.all(found["a"] != params["a"])


def test_axes_of_masked_leaves_may_be_named_all_the_same():
    # The prefix for axes goes deeper than that of the mask.
    params = {"w": jnp.ones(2), "frozen": {"a": jnp.ones(2), "b": jnp.ones(2)}}
    options = {"mask": {"w": True, "frozen": False}, "axis_name": {"w": "x", "frozen": {"a": "x", "b": None}}}
    for tx in (profit(optax.sgd(0.1), optax.sgd(0.1), **options), orthogonalize_to_previous(**options)):

        def update(params, tx=tx):
            state = tx.init(params)
            closure = {"value_and_grad_fn": lambda _, b: (0.0, params), "batches": jnp.zeros((1, 1))}
            return tx.update(params, state, params, **({} if len(state) == 3 else closure))[1].metrics.gradient_norm

        norms = jax.vmap(update, axis_name="x")(jax.tree.map(lambda x: x[:, None], params))
        np.testing.assert_allclose(norms, np.sqrt(2), rtol=1e-6)
