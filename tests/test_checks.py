"""Every mistake that can be known statically: the argument's name, what came, what was expected, and the remedy."""

import ast
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import (
    orthogonalize,
    orthogonalize_to_previous,
    profit,
    profit_adamw,
    profit_sgd,
    profit_transparent,
    reject_nonfinite,
)
from profit_optax.training import group_batches
from tests.forms import one_line

SGD = optax.sgd(0.1)
PARAMS = {"w": jnp.ones(3), "b": jnp.ones(())}


def loss_fn(params, batch):
    return jnp.sum(params["w"] * batch["x"]) + params["b"]


value_and_grad_fn = jax.value_and_grad(loss_fn)


def update(
    n_ref=1, *, grads=PARAMS, params=PARAMS, init=PARAMS, fn=value_and_grad_fn, batches=None, wrap=lambda tx: tx
):
    """An update whose arguments are right but for those that a test replaces."""
    tx = profit(SGD, SGD, n_ref)
    batches = {"x": jnp.ones((n_ref, 3))} if batches is None else batches
    return tx.update(grads, tx.init(init), params, value_and_grad_fn=fn, batches=batches)


def raises(error, *parts):
    """Expects an error whose message has all `parts` in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(map(re.escape, parts)))


def test_the_update_that_the_other_tests_break_is_right():
    update()
    update(3)


@pytest.mark.parametrize("n_ref", [0, -1])
def test_n_ref_below_1(n_ref):
    with raises(ValueError, "n_ref must be at least 1", f"got {n_ref}", "n_ref=1"):
        profit(SGD, SGD, n_ref)


@pytest.mark.parametrize("value", [1.0, "1", True, None])
@pytest.mark.parametrize("name", ["n_ref", "warmup_steps"])
def test_counts_that_are_no_ints(name, value):
    with raises(TypeError, f"{name} must be an int", f"got {value!r}", "whole number"):
        profit(SGD, SGD, **{name: value})


@pytest.mark.parametrize("name", ["n_ref", "warmup_steps"])
def test_counts_may_be_numpy_ints(name):
    profit(SGD, SGD, **{name: np.int64(2)})


def test_negative_warmup_steps():
    with raises(ValueError, "warmup_steps must be at least 0", "got -1", "Pass 0"):
        profit(SGD, SGD, warmup_steps=-1)


@pytest.mark.parametrize("name", ["n_ref", "warmup_steps"])
def test_traced_counts(name):
    with raises(TypeError, name, "int32[]", "optax.inject_hyperparams", "static_args=", name):
        jax.jit(lambda value: profit(SGD, SGD, **{name: value}).init(PARAMS))(2)


def test_unknown_displacement():
    with raises(ValueError, "displacement must be one of", "'accumulate', 'subtract'", "got 'substract'"):
        profit(SGD, SGD, displacement="substract")


@pytest.mark.parametrize("value", ["float33", 3.5, object])
def test_displacement_dtype_that_is_no_dtype(value):
    with raises(TypeError, "displacement_dtype must be a", "got"):
        profit(SGD, SGD, displacement_dtype=value)


@pytest.mark.parametrize("value", [jnp.int32, "complex64", bool])
def test_displacement_dtype_that_is_not_real_and_floating(value):
    with raises(TypeError, "displacement_dtype must be a real floating-point dtype", f"got {jnp.dtype(value).name}"):
        profit(SGD, SGD, displacement_dtype=value)


def test_displacement_dtype_that_was_traced():
    with raises(TypeError, "displacement_dtype must be a dtype", "JAX array", '"bfloat16"', "static_args="):
        profit(SGD, SGD, displacement_dtype=jnp.zeros(()))


@pytest.mark.parametrize("value", [optax.sgd, 0.1, None])
@pytest.mark.parametrize("name", ["optimizer", "reference_optimizer"])
def test_optimizers_that_are_none(name, value):
    with raises(TypeError, f"{name} must be an optax.GradientTransformation", "optax.sgd(1e-4)", "got", "Call the fac"):
        profit(**{"optimizer": SGD, "reference_optimizer": SGD} | {name: value})


def test_missing_closure():
    with raises(
        ValueError, "value_and_grad_fn is missing", "tx.update(", "profit_transparent", "orthogonalize_to_previous"
    ):
        update(fn=None)


def test_update_as_loops_of_other_optimizers_call_it():
    tx = profit(SGD, SGD)
    with raises(
        ValueError, "value_and_grad_fn is missing", "profit_transparent", "orthogonalize_to_previous", "optax.lookahead"
    ):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_closure_that_is_no_function():
    with raises(TypeError, "value_and_grad_fn must be a function", "got dict", "jax.value_and_grad(loss_fn)"):
        update(fn=PARAMS)


def test_missing_params():
    with raises(ValueError, "profit needs the parameters", "update(grads, state, params", "params=None"):
        update(params=None)


@pytest.mark.parametrize("warmup_steps", [0, 5])
def test_missing_batches_in_warm_up_too(warmup_steps):
    tx = profit(SGD, SGD, 2, warmup_steps=warmup_steps)
    with raises(ValueError, "batches is missing", "leading axis of length n_ref = 2", "warm-up"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value_and_grad_fn=value_and_grad_fn)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_batch_without_its_leading_axis(shape):
    with raises(
        ValueError, "batches['x'] must have a leading axis of length n_ref = 1", f"got shape {shape}",
        "jax.tree.map(lambda x: x[None], batch)",
    ):  # fmt: skip
        update(batches={"x": jnp.ones(shape)})


def test_batches_of_another_leading_axis_name_the_leaf():
    batches = {"x": jnp.ones((3, 3)), "extra": [np.ones((3, 2)), np.ones((4, 2))]}
    with raises(ValueError, "batches['extra'][1]", "length n_ref = 3", "got shape (4, 2)", "jnp.stack") as error:
        update(3, batches=batches)
    assert "x[None]" not in str(error.value)


def test_batches_that_are_a_single_array():
    with raises(ValueError, "batches must have a leading axis of length n_ref = 2", "got shape (5,)"):
        update(2, batches=jnp.ones(5))


def test_closure_that_returns_gradients_without_a_value():
    with raises(TypeError, "must return the pair (value, grads)", "gradients without a value", "jax.value_and_grad"):
        update(fn=jax.grad(loss_fn))


def test_closure_that_returns_gradients_without_a_value_where_params_are_a_pair():
    pair = (jnp.ones(3), jnp.ones(3))
    gradient = jax.grad(lambda params, batch: jnp.sum(params[0] * params[1] * batch["x"]))
    with raises(TypeError, "must return the pair (value, grads)", "gradients without a value", "jax.value_and_grad"):
        update(grads=pair, params=pair, init=pair, fn=gradient)


@pytest.mark.parametrize("result", [jnp.zeros(()), (), (0.0, PARAMS, {})], ids=["value", "empty", "triple"])
def test_closure_that_returns_something_else(result):
    with raises(TypeError, "must return the pair (value, grads)", "got a", "jax.value_and_grad(loss_fn)"):
        update(fn=lambda params, batch: result)


def test_closure_that_returns_gradients_of_another_tree():
    with raises(
        ValueError, "value_and_grad_fn returned", "tree structure of grads", "expected:", "'b'", "got:", "same pa"
    ):
        update(fn=lambda params, batch: (0.0, {"w": params["w"]}))


def test_closure_that_returns_gradients_of_another_shape():
    wrong = {"w": jnp.ones(4), "b": jnp.ones(())}
    with raises(ValueError, "value_and_grad_fn returned", "['w'] expected (3,), got (4,)", "same parameters"):
        update(fn=lambda params, batch: (0.0, wrong))


def test_grads_of_another_tree():
    with raises(ValueError, "grads must have the tree structure of params", "expected:", "got:", "same parameters"):
        update(grads={"w": jnp.ones(3)})


def test_grads_of_another_shape():
    with raises(ValueError, "grads must have the shapes of params", "['w'] expected (3,), got (1, 3)"):
        update(grads={"w": jnp.ones((1, 3)), "b": jnp.ones(())})


LABELS = {"w": "train", "b": "freeze"}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.masked(tx, {"w": True, "b": False}),
        lambda tx: optax.partition({"train": tx, "freeze": optax.set_to_zero()}, LABELS),
    ],
    ids=["masked", "partition"],
)
def test_masked_and_partition_around_the_closure_form(wrap):
    message = raises(
        ValueError, "params['b'] is a MaskedNode", "optax.masked or optax.partition", "Freeze with mask",
        "profit(optax.adamw(1e-4), optax.sgd(1e-5), mask=...)",
    )  # fmt: skip
    with message:
        wrap(profit(SGD, SGD)).init(PARAMS)
    tx = profit(SGD, SGD)
    masked = PARAMS | {"b": optax.MaskedNode()}
    with message:
        tx.update(masked, tx.init({}), masked, value_and_grad_fn=value_and_grad_fn, batches={"x": jnp.ones((1, 3))})


def test_the_form_that_the_error_about_masks_shows_works():
    tx = profit(optax.adamw(1e-4), optax.sgd(1e-5), mask=jax.tree.map(lambda label: label == "train", LABELS))
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, value_and_grad_fn=value_and_grad_fn, batches={"x": jnp.ones((1, 3))})


def test_orthogonalize_of_two_trees():
    with raises(ValueError, "displacement must have the tree structure of gradient", "expected:", "got:"):
        orthogonalize({"w": jnp.ones(3)}, {"v": jnp.ones(3)})


def test_orthogonalize_of_two_shapes():
    with raises(ValueError, "displacement must have the shapes of gradient", "['w'] expected (3,), got (2,)"):
        orthogonalize({"w": jnp.ones(3)}, {"w": jnp.ones(2)})


@pytest.mark.parametrize("name", ["gradient", "displacement"])
def test_orthogonalize_of_integers(name):
    trees = {"gradient": {"w": jnp.ones(3)}, "displacement": {"w": jnp.ones(3)}} | {name: {"w": jnp.ones(3, jnp.int32)}}
    with raises(TypeError, f"{name} must have floating-point or complex leaves, got int32 at ['w']"):
        orthogonalize(**trees)


def test_orthogonalize_of_a_real_gradient_beside_a_complex_displacement():
    g, delta = {"z": jnp.array([-3.0, 1.0])}, {"z": jnp.array([2 + 1j, 0])}
    with raises(TypeError, "gradient must have complex leaves where displacement has", "float32 beside complex64 at"):
        orthogonalize(g, delta)
    result, metrics = orthogonalize({"z": g["z"].astype(jnp.complex64)}, delta)
    np.testing.assert_allclose(jnp.vdot(delta["z"], result["z"]).real, 0, atol=1e-6)
    assert metrics.inner_product == -6


@pytest.mark.parametrize("real", ["params", "grads"])
@pytest.mark.parametrize("form", ["profit", "profit_transparent", "orthogonalize_to_previous"])
def test_gradients_are_complex_where_the_parameters_are(form, real):
    complex_ones = jnp.ones(2, jnp.complex64)
    params, grads = (jnp.ones(2), complex_ones) if real == "params" else (complex_ones, jnp.ones(2))
    make = {"profit": profit, "profit_transparent": profit_transparent}.get(form)
    tx = make(SGD, SGD) if make else orthogonalize_to_previous()
    closure = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.ones((1, 1))} if form == "profit" else {}
    with raises(TypeError, "must be complex where", "and real elsewhere", "An imaginary part would be lost"):
        tx.update(grads, tx.init(params), params, **closure)


def test_gradients_of_the_closure_are_complex_where_those_before_are():
    params = jnp.ones(2)
    tx = profit(SGD, SGD)
    with raises(TypeError, "the gradients that value_and_grad_fn returned must be complex where grads are"):
        tx.update(
            params, tx.init(params), params, value_and_grad_fn=lambda p, b: (0.0, p + 1j), batches=jnp.ones((1, 1))
        )


@pytest.mark.parametrize("value", [jnp.array(0.0), jnp.array(-1.0), jnp.array(jnp.nan), np.float32(-1)])
def test_a_known_array_is_looked_at_like_any_number(value):
    with raises(ValueError, "lr_ratio must be above 0 and finite"):
        profit_sgd(0.1, lr_ratio=value)


def test_a_rate_and_a_decay_that_are_known_arrays_are_looked_at_too():
    with raises(ValueError, "learning_rate must be finite"):
        profit_sgd(jnp.array(jnp.nan))
    with raises(ValueError, "decay must be at least 0 and below 1"):
        orthogonalize_to_previous(jnp.array(1.0))


@pytest.mark.parametrize(("name", "value"), [("n_ref", True), ("n_ref", 1.0), ("reset_reference_state", 0)])
def test_an_option_that_lagged_does_not_have_is_of_its_type_all_the_same(name, value):
    with pytest.raises(TypeError, match=f"{name} must be"):
        profit_sgd(0.1, form="lagged", **{name: value})


@pytest.mark.parametrize("value", [optax.sgd, 0.1])
def test_reject_nonfinite_of_no_optimizer(value):
    with raises(TypeError, "inner must be an optax.GradientTransformation", "got"):
        reject_nonfinite(value, 1)


def test_reject_nonfinite_with_a_negative_count():
    with raises(ValueError, "max_consecutive_errors must be at least 0", "got -1"):
        reject_nonfinite(SGD, -1)


@pytest.mark.parametrize("value", [1.5, True])
def test_reject_nonfinite_with_a_count_that_is_no_int(value):
    with raises(TypeError, "max_consecutive_errors must be an int", f"got {value!r}"):
        reject_nonfinite(SGD, value)


def test_mistakes_are_found_while_tracing():
    with raises(ValueError, "value_and_grad_fn is missing"):
        jax.eval_shape(lambda: update(fn=None))


FACTORIES = {
    "profit": lambda **static: optax.inject_hyperparams(profit, **static)(SGD, SGD, n_ref=1),
    "transparent": lambda **static: optax.inject_hyperparams(profit_transparent, **static)(SGD, SGD, n_ref=1),
    "one-line": lambda **static: optax.inject_hyperparams(orthogonalize_to_previous, **static)(warmup_steps=1),
    "adamw": lambda **static: optax.inject_hyperparams(profit_adamw, **static)(0.1),
    "sgd": lambda **static: optax.inject_hyperparams(profit_sgd, **static)(0.1),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_the_remedy_for_traced_counts_works(name):
    with pytest.raises(TypeError, match=r"static_args=\(.*\), with those of these names") as error:
        FACTORIES[name]().init(PARAMS)
    named = ast.literal_eval(re.search(r"static_args=(\(.*?\))", str(error.value))[1])
    factory = {
        "profit": profit,
        "transparent": profit_transparent,
        "one-line": orthogonalize_to_previous,
        "adamw": profit_adamw,
        "sgd": profit_sgd,
    }[name]
    known = inspect.signature(factory).parameters
    FACTORIES[name](static_args=tuple(arg for arg in named if arg in known)).init(PARAMS)


def test_traced_counts_that_no_factory_is_injected_with():
    with pytest.raises(TypeError, match="size must be a Python int, got a JAX array") as error:
        next(group_batches([], size=jnp.int32(2)))
    assert "inject_hyperparams" not in str(error.value)


@pytest.mark.parametrize("value", [np.array([1, 2]), np.array(1.5)])
def test_counts_that_are_arrays(value):
    with raises(TypeError, "n_ref must be an int", "of type ndarray", "Pass a whole number"):
        profit(SGD, SGD, value)


@pytest.mark.parametrize("value", [None, "10", optax.linear_schedule(1.0, 2.0, 3)])
def test_ratios_that_are_no_numbers(value):
    with raises(TypeError, "lr_ratio must be a number above 0", "got", "two optimizers with schedules of their own"):
        profit_sgd(0.1, lr_ratio=value)


@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_flags_that_are_neither_true_nor_false(make):
    with raises(TypeError, "reset_reference_state must be True or False", "got 'no' of type str", "Pass one"):
        make(SGD, SGD, reset_reference_state="no")


@pytest.mark.parametrize(("value", "place"), [(5, ""), (["i", 5], r"\[1\]"), ({"w": ("i", 2)}, r"\['w'\]\[1\]")])
@pytest.mark.parametrize("make", [profit, profit_transparent, one_line])
def test_axes_that_are_no_names(make, value, place):
    message = f"axis_name{place} must be the name of a mesh axis, got .* of type int. Pass a name, a tuple of names"
    with pytest.raises(TypeError, match=message):
        make(SGD, SGD, axis_name=value)


def test_a_negative_number_of_dropped_steps_names_the_way_out():
    with raises(ValueError, "max_consecutive_errors must be at least 0", "got -1", "Pass 0"):
        reject_nonfinite(SGD, -1)


def test_displacement_dtype_that_jax_would_replace():
    with raises(TypeError, "displacement_dtype must be a dtype that JAX keeps", "got float64", "jax_enable_x64"):
        profit(SGD, SGD, displacement_dtype="float64")


# Optimizers and states that do not belong here.


def inner_update(tx, state=None):
    state = tx.init(PARAMS) if state is None else state
    return tx.update(PARAMS, state, PARAMS, value_and_grad_fn=value_and_grad_fn, batches={"x": jnp.ones((1, 3))})


@pytest.mark.parametrize("make", [profit, profit_transparent])
@pytest.mark.parametrize(
    ("other", "came"),
    [
        (lambda: profit(SGD, SGD), "ProfitState"),
        (lambda: profit_transparent(SGD, SGD), "ProfitTransparentState"),
        (orthogonalize_to_previous, "OrthogonalizeToPreviousState"),
        (lambda: optax.adamw(1e-3), "tuple of ScaleByAdamState, EmptyState, EmptyState"),
    ],
)
def test_the_state_of_another_optimizer(make, other, came):
    state, tx = other().init(PARAMS), make(SGD, SGD)
    if isinstance(state, type(tx.init(PARAMS))):
        inner_update(tx, state)
        return
    with raises(ValueError, type(tx.init(PARAMS)).__name__, make.__name__, came, "eval_params"):
        inner_update(tx, state)


@pytest.mark.parametrize("outer", [profit, profit_transparent])
@pytest.mark.parametrize(
    "inner",
    [
        lambda: profit(SGD, SGD),
        lambda: optax.chain(optax.clip(1.0), profit_transparent(SGD, SGD)),
        lambda: optax.apply_if_finite(profit_transparent(SGD, SGD), 3),
        lambda: profit_adamw(0.1, form="lagged"),
    ],
)
def test_a_form_inside_a_form(outer, inner):
    with raises(ValueError, "optimizer must not be or contain a form of PROFIT", "plain Optax"):
        outer(inner(), SGD).init(PARAMS)
    with raises(ValueError, "reference_optimizer must not be or contain a form of PROFIT"):
        outer(SGD, inner()).init(PARAMS)


@pytest.mark.parametrize("make", [profit, profit_transparent])
@pytest.mark.parametrize(
    ("reference", "needs"),
    [
        (optax.polyak_sgd, "value"),
        (optax.lbfgs, "'value', 'grad', and 'value_fn'"),
        (lambda: optax.chain(optax.clip(1.0), optax.scale_by_polyak()), "'value'"),
    ],
)
def test_a_reference_optimizer_that_needs_more_than_gradients(make, reference, needs):
    with raises(TypeError, "reference_optimizer must need nothing but gradients", needs, "optax.sgd"):
        inner_update(make(SGD, reference()))


def test_a_type_error_of_the_reference_optimizer_itself_is_not_renamed():
    def update(updates, state, params=None):
        raise TypeError("something else")

    with pytest.raises(TypeError, match="something else"):
        inner_update(profit(SGD, optax.GradientTransformation(SGD.init, update)))


@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_objects_like_transformations_are_taken(make):
    steps = optax.MultiSteps(SGD, 1)
    updates, _ = inner_update(make(steps, SGD))
    expected, _ = inner_update(make(SGD, SGD))
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    with raises(TypeError, "optimizer must be an optax.GradientTransformation"):
        make(optax.MultiSteps, SGD)


@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_objects_like_transformations_are_handed_the_arguments_that_they_take(make):
    tx = make(
        optax.MultiSteps(optax.polyak_sgd(), 1), SGD, **({"warmup_steps": 2} if make is profit_transparent else {})
    )
    closure = {"value_and_grad_fn": value_and_grad_fn, "batches": {"x": jnp.ones((1, 3))}}
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.array(2.0), **closure)
    assert float(updates["b"]) != 0


@pytest.mark.parametrize("unroll", ["all", 1.5])
def test_unroll_of_another_type(unroll):
    with raises(TypeError, "unroll must be an int"):
        profit(SGD, SGD, 3, unroll=unroll)


def test_unroll_below_1():
    with raises(ValueError, "unroll must be at least 1, got 0"):
        profit(SGD, SGD, 3, unroll=0)


@pytest.mark.parametrize("value", ["1e-4", None, (1e-4,), np.array([1e-4, 1e-3]), jnp.ones(2)], ids=repr)
@pytest.mark.parametrize("make", [profit_sgd, profit_adamw])
def test_rates_that_are_neither_numbers_nor_schedules(make, value):
    with raises(TypeError, "learning_rate must be a number or a schedule of steps", f"got {value!r} of type", "1e-4"):
        make(value)


@pytest.mark.parametrize("value", [1e-4, np.float32(1e-4), np.array(1e-4), jnp.float32(1e-4), lambda step: 1e-4])
@pytest.mark.parametrize("make", [profit_sgd, profit_adamw])
def test_rates_of_every_kind(make, value):
    make(value).init(PARAMS)


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), jnp.array([1.0, 2.0])], ids=type)
@pytest.mark.parametrize("make", [profit_sgd, profit_adamw])
def test_ratios_that_are_several_numbers(make, value):
    with raises(TypeError, "lr_ratio must be a number above 0", f"got {value!r} of type", "two optimizers"):
        make(0.1, lr_ratio=value)


@pytest.mark.parametrize("make", [profit, profit_transparent, lambda *_, **options: profit_adamw(0.1, **options)])
@pytest.mark.parametrize("name", ["n_ref", "warmup_steps"])
def test_counts_that_32_bits_do_not_hold(make, name):
    with raises(ValueError, f"{name} must be at most 2147483647", "got 2147483648", "32 bits"):
        make(SGD, SGD, **{name: 2**31})


@pytest.mark.parametrize("make", [profit, profit_transparent, lambda *_, **options: profit_sgd(0.1, **options)])
@pytest.mark.parametrize("value", ["float8_e4m3fn", jnp.float8_e5m2])
def test_displacement_dtypes_that_cannot_be_added_up(make, value):
    with raises(TypeError, "displacement_dtype must have 16 bits or more", f"got {jnp.dtype(value).name}", "bfloat16"):
        make(SGD, SGD, displacement_dtype=value)


def test_a_missing_closure_may_have_been_dropped_by_a_wrapper():
    with raises(ValueError, "value_and_grad_fn is missing", "If you did pass it", "optax.lookahead", "extra arguments"):
        update(fn=None)


@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_a_gradient_that_stands_beside_a_whole_branch(make):
    tx = make(SGD, SGD)
    extra = {"value_and_grad_fn": value_and_grad_fn, "batches": {"x": jnp.ones((1, 3))}} if make is profit else {}
    with raises(ValueError, "grads must have the tree structure of params", "expected:", "got:"):
        tx.update(
            {"w": jnp.ones(()), "b": jnp.ones(())}, tx.init(PARAMS), PARAMS | {"w": {"inner": jnp.ones(())}}, **extra
        )


def test_reject_nonfinite_with_axes_that_are_no_names():
    with raises(TypeError, "axis_name must be the name of a mesh axis", "got 5 of type int"):
        reject_nonfinite(SGD, 1, axis_name=5)


def test_what_the_reference_optimizer_raises_says_where_it_came_from():
    def fails(updates, state, params=None):
        raise ValueError("obj_fn must be provided")

    reference = optax.GradientTransformation(lambda params: optax.EmptyState(), fails)
    tx = profit_transparent(SGD, optax.chain(reference, SGD))
    with pytest.raises(ValueError, match="obj_fn must be provided") as caught:
        tx.init(PARAMS)
    assert "This came from reference_optimizer" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_what_the_reference_optimizer_raises_in_a_later_step_says_so_too(make):
    calls = []

    def fails_later(updates, state, params=None):
        calls.append(params)
        # The calls before are those that find out the dtypes of its updates.
        if len(calls) > 1:
            raise ValueError("obj_fn must be provided")
        return SGD.update(updates, state, params)

    tx = make(SGD, optax.GradientTransformation(SGD.init, fails_later))
    with pytest.raises(ValueError, match="obj_fn must be provided") as caught:
        inner_update(tx)
    assert "This came from reference_optimizer" in "".join(caught.value.__notes__)


def test_the_one_line_takes_no_integer_parameters():
    tx = orthogonalize_to_previous()
    with raises(TypeError, "params must have floating-point or complex leaves", "int32", "mask"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2, jnp.int32))
