import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit, profit_adamw, profit_sgd, profit_transparent
from tests import forms
from tests.forms import one_line, run_on_gradients

SGD = optax.sgd(0.1)

ALIASES = {"sgd": (profit_sgd, optax.sgd), "adamw": (profit_adamw, optax.adamw)}
BUILDERS = {"closure": profit, "transparent": profit_transparent, "lagged": one_line}


def parameters():
    return {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.array([0.5])}


def gradients(steps, n_ref):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=(steps, n_ref + 1, *x.shape)).astype(np.float32), parameters())


@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_equals_the_form_built_by_hand(alias, form):
    make, optimizer = ALIASES[alias]
    options, counts = {"warmup_steps": 1}, {} if form == "lagged" else {"n_ref": 2}
    n_ref = counts.get("n_ref", 1)
    built = BUILDERS[form](optimizer(0.25), optax.sgd(0.25 / 8), **options, **counts)
    tx = make(0.25, 8.0, form=form, **options, **counts)
    arguments = form, gradients(4, n_ref), parameters(), n_ref, 1
    forms.assert_same(run_on_gradients(tx, *arguments), run_on_gradients(built, *arguments))


def test_the_closure_form_with_a_ratio_of_100_and_one_reference_step_is_the_default():
    for make, optimizer in ALIASES.values():
        built = profit(optimizer(0.5), optax.sgd(0.005))
        arguments = "closure", gradients(3, 1), parameters()
        forms.assert_same(run_on_gradients(make(0.5), *arguments), run_on_gradients(built, *arguments))


# Options of the main optimizer, beside others that they need to matter.
# `mask` of the aliases is that of the forms.
_OPTAX_NAMES = {"weight_decay_mask": "mask"}
OPTIONS = {
    "sgd": [
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.5, "accumulator_dtype": "bfloat16"},
    ],
    "adamw": [
        {"b1": 0.5},
        {"b2": 0.5},
        {"eps": 0.5},
        {"eps_root": 0.5},
        {"mu_dtype": "bfloat16"},
        {"weight_decay": 0.5},
        {"weight_decay": 0.5, "weight_decay_mask": {"w": True, "b": False}},
        {"nesterov": True},
    ],
}


@pytest.mark.parametrize(
    ("alias", "options"), [pytest.param(a, o, id="-".join([a, *o])) for a in OPTIONS for o in OPTIONS[a]]
)
def test_every_option_of_the_main_optimizer_gets_there(alias, options):
    make, optimizer = ALIASES[alias]
    arguments = "lagged", gradients(3, 0), parameters()
    run = run_on_gradients(make(0.1, 10, form="lagged", **options), *arguments)
    theirs = {_OPTAX_NAMES.get(name, name): value for name, value in options.items()}
    built = run_on_gradients(one_line(optimizer(0.1, **theirs), optax.sgd(0.01)), *arguments)
    forms.assert_same(run, built)
    without = {name: options[name] for name in list(options)[:-1]}
    other = run_on_gradients(make(0.1, 10, form="lagged", **without), *arguments)
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(run.theta), jax.tree.leaves(other.theta), strict=True))


@pytest.mark.parametrize("alias", ALIASES)
def test_its_keywords_are_those_of_optax_with_its_defaults(alias):
    make, optimizer = ALIASES[alias]
    of_optax = inspect.signature(optimizer).parameters
    for name, parameter in inspect.signature(make).parameters.items():
        if name in of_optax:
            assert parameter.default == of_optax[name].default
    passed_on = inspect.signature(make).parameters.keys() & of_optax.keys()
    names = {_OPTAX_NAMES.get(name, name) for name in set().union(*OPTIONS[alias])}
    assert passed_on == {"learning_rate"} | names


@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("alias", ALIASES)
def test_displacement_dtype_and_axis_name_get_to_every_form(alias, form):
    make, _ = ALIASES[alias]
    grads, params = gradients(6, 1), {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5, 3.0])}
    grads = {"w": grads["w"][..., :2] + 1, "b": np.repeat(grads["b"], 2, axis=-1) + 1}
    whole = run_on_gradients(make(0.1, 1.0, form=form), form, grads, params)
    assert np.any(whole.metrics.conflict)

    def sharded(**options):
        tx = make(0.1, 1.0, form=form, **options)
        function = lambda grads, params: run_on_gradients(tx, form, grads, params)._replace(state=())  # noqa: E731
        return jax.vmap(function, in_axes=-1, out_axes=-1, axis_name="shard")(grads, params)

    run = sharded(axis_name="shard")
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), run.theta, whole.theta)
    np.testing.assert_allclose(run.metrics.gradient_norm[:, 0], whole.metrics.gradient_norm, rtol=1e-5)
    np.testing.assert_allclose(run.metrics.cosine[:, 1], whole.metrics.cosine, rtol=1e-4, atol=1e-6)
    rounded = run_on_gradients(make(0.1, 1.0, form=form, displacement_dtype="bfloat16"), form, grads, params)
    norms = rounded.metrics.displacement_norm, whole.metrics.displacement_norm
    assert np.any(norms[0] != norms[1])
    np.testing.assert_allclose(*norms, rtol=2**-8)


@pytest.mark.parametrize("alias", ALIASES)
def test_the_displacement_option_gets_to_the_closure_form(alias):
    make, _ = ALIASES[alias]
    arguments = "closure", {"w": jnp.ones((1, 2, 1))}, {"w": jnp.ones(1)}
    # Both the summed and the subtracted Δ are of this size; in float32 1 − 1e-9 is 1.
    accumulated = run_on_gradients(make(1e-7, 100.0), *arguments).state.metrics
    subtracted = run_on_gradients(make(1e-7, 100.0, displacement="subtract"), *arguments).state.metrics
    assert accumulated.displacement_norm == pytest.approx(1e-9)
    assert subtracted.displacement_norm == 0


def rate(step):
    """Powers of two, so that products with them are exact: no two of the first steps have the same."""
    return 2.0 ** -jnp.asarray(step, jnp.float32)


RATIO = 4.0


@pytest.mark.parametrize("warmup_steps", [0, 2])
@pytest.mark.parametrize("n_ref", [1, 3])
@pytest.mark.parametrize("form", ["closure", "transparent"])
def test_schedules_of_both_optimizers_count_main_steps(form, n_ref, warmup_steps):
    steps = 6
    tx = profit_sgd(rate, RATIO, n_ref, form=form, warmup_steps=warmup_steps)
    # The reference gradients are (1, 0) and the last one is (0, 1): ω = 0, and each optimizer has an axis of its own.
    grads = np.tile(np.float32([[1, 0]] * n_ref + [[0, 1]]), (steps, 1, 1))
    grads[:warmup_steps, 0] = [0, 1]
    _, theta, state, metrics = run_on_gradients(tx, form, grads, jnp.zeros(2), n_ref, warmup_steps)
    rates = rate(np.arange(steps))
    np.testing.assert_array_equal(np.diff(theta[:, 1], prepend=0), -rates)
    np.testing.assert_array_equal(theta[:, 0], 0)
    expected = np.where(np.arange(steps) < warmup_steps, 0, n_ref * rates / RATIO)
    np.testing.assert_array_equal(metrics.displacement_norm, expected)
    assert state.count == steps


@pytest.mark.parametrize("n_ref", [1, 3])
def test_a_schedule_in_steps_of_the_loop_is_followed_by_the_transparent_form_if_it_skips(n_ref):
    steps = 4
    tx = profit_sgd(lambda step: rate((n_ref + 1) * step), RATIO, n_ref, form="transparent")
    grads = np.tile(np.float32([[1, 0]] * n_ref + [[0, 1]]), (steps, 1, 1))
    _, theta, _, metrics = run_on_gradients(tx, "transparent", grads, jnp.zeros(2), n_ref)
    first_calls = (n_ref + 1) * np.arange(steps)
    np.testing.assert_array_equal(np.diff(theta[:, 1], prepend=0), -rate(first_calls))
    np.testing.assert_array_equal(metrics.displacement_norm, n_ref * rate(first_calls) / RATIO)


@pytest.mark.parametrize("warmup_steps", [0, 2])
@pytest.mark.parametrize("n_ref", [1, 3])
def test_a_schedule_that_is_injected_into_the_transparent_form_counts_steps_of_the_loop(n_ref, warmup_steps):
    steps = 4
    injected = optax.inject_hyperparams(profit_sgd, static_args=("n_ref", "warmup_steps"))
    tx = injected(rate, RATIO, n_ref, form="transparent", warmup_steps=warmup_steps)
    grads = np.tile(np.float32([[1, 0]] * n_ref + [[0, 1]]), (steps, 1, 1))
    grads[:warmup_steps, 0] = [0, 1]
    _, theta, _, _ = run_on_gradients(tx, "transparent", grads, jnp.zeros(2), n_ref, warmup_steps)
    calls = forms.main_calls(steps, n_ref, warmup_steps)
    np.testing.assert_array_equal(np.diff(theta[:, 1], prepend=0), -rate(calls))


@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_schedules_of_the_lagged_form_count_its_steps(warmup_steps):
    steps = 6
    tx = profit_sgd(rate, RATIO, form="lagged", warmup_steps=warmup_steps)
    # The gradients take turns on two axes, so that none has a part along the displacement by the one before.
    grads = np.tile(np.float32([[[1, 0]], [[0, 1]]]), (steps // 2, 1, 1))
    _, theta, _, metrics = run_on_gradients(tx, "lagged", grads, jnp.zeros(2))
    rates = rate(np.arange(steps))
    np.testing.assert_array_equal(np.diff(theta.sum(axis=1), prepend=0), -rates)
    expected = np.where(np.arange(steps) < max(1, warmup_steps), 0, 1)
    np.testing.assert_array_equal(metrics.displacement_norm, expected)


@pytest.mark.parametrize("form", BUILDERS)
@pytest.mark.parametrize("alias", ALIASES)
def test_a_constant_schedule_equals_its_number(alias, form):
    make, _ = ALIASES[alias]
    arguments = form, gradients(3, 1), parameters()
    number, schedule = (
        run_on_gradients(make(r, 10, form=form), *arguments).theta for r in (0.1, optax.constant_schedule(0.1))
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), schedule, number)


@pytest.mark.parametrize("form", ["closure", "lagged"])
@pytest.mark.parametrize("alias", ALIASES)
def test_a_schedule_that_is_injected_equals_the_schedule_itself(alias, form):
    make, _ = ALIASES[alias]
    injected = optax.inject_hyperparams(make, static_args=("n_ref", "warmup_steps"))
    options = {"lr_ratio": 10.0, "form": form, "warmup_steps": 1}
    arguments = form, gradients(4, 1), parameters(), 1, 1
    run = run_on_gradients(injected(rate, **options), *arguments)
    expected = run_on_gradients(make(rate, **options), *arguments)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), run.theta, expected.theta)
    norms = run.metrics.displacement_norm, expected.metrics.displacement_norm
    np.testing.assert_allclose(*norms, rtol=1e-5)
    assert run.state.hyperparams["learning_rate"] == rate(3)


@pytest.mark.parametrize("form", ["closure", "transparent"])
def test_injected_numbers_can_be_changed_between_steps(form):
    injected = optax.inject_hyperparams(profit_sgd, static_args=("n_ref", "warmup_steps"))
    tx = injected(0.5, lr_ratio=4.0, form=form, n_ref=1)
    grads = {"w": jnp.array([[[1.0, 0.0], [0.0, 1.0]]] * 2)}
    params = {"w": jnp.zeros(2)}
    *_, theta, state, metrics = run_on_gradients(tx, form, grads, params)
    assert metrics.displacement_norm[-1] == 0.125
    state.hyperparams["lr_ratio"] = jnp.asarray(2.0)
    state.hyperparams["learning_rate"] = jnp.asarray(1.0)
    changed = optax.GradientTransformationExtraArgs(lambda _: state, tx.update)
    run = run_on_gradients(changed, form, grads, forms.last(theta))
    assert run.metrics.displacement_norm[-1] == 0.5


@pytest.mark.parametrize("name", ["n_ref", "warmup_steps"])
@pytest.mark.parametrize("alias", ALIASES)
def test_a_count_that_is_injected_is_an_error_that_names_static_args(alias, name):
    make, _ = ALIASES[alias]
    other = {"n_ref": "warmup_steps", "warmup_steps": "n_ref"}[name]
    tx = optax.inject_hyperparams(make, static_args=(other,))(0.1, **{name: 1})
    with pytest.raises(TypeError, match=rf"{name} must be a Python int.*inject_hyperparams.*static_args"):
        tx.init(jnp.ones(2))


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "opaque"}, "form must be one of 'closure', 'transparent', 'lagged', got 'opaque'"),
        ({"form": "lagged", "n_ref": 2}, "n_ref=2 is not for form='lagged'"),
        ({"form": "lagged", "displacement": "subtract"}, "displacement='subtract' is not for form='lagged'"),
        ({"form": "transparent", "displacement": "subtract"}, "displacement='subtract' is not for form='transparent'"),
        ({"displacement": "divide"}, "displacement must be one of 'accumulate', 'subtract', got 'divide'"),
        ({"lr_ratio": 0}, "lr_ratio must be above 0 and finite, got 0"),
        ({"lr_ratio": -10.0}, "lr_ratio must be above 0 and finite, got -10.0"),
        ({"lr_ratio": float("nan")}, "lr_ratio must be above 0 and finite, got nan"),
        ({"n_ref": 0}, "n_ref must be at least 1, got 0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(alias, options, message):
    make, _ = ALIASES[alias]
    with pytest.raises(ValueError, match=message):
        make(0.1, **options)


@pytest.mark.parametrize(
    "make", [lambda: profit(SGD, SGD), lambda: profit_transparent(SGD, SGD), lambda: optax.adamw(0.1)]
)
def test_a_state_of_something_else_is_told_of_by_the_lagged_form(make):
    params = jnp.ones(2)
    with pytest.raises(ValueError, match='must be the OrthogonalizeToPreviousState of form="lagged"'):
        profit_adamw(0.1, form="lagged").update(params, make().init(params), params)


def test_the_lagged_form_keeps_the_dtypes_of_its_state_under_wider_gradients():
    tx, params = profit_adamw(0.1, form="lagged"), jnp.ones(2, jnp.bfloat16)
    state = tx.init(params)
    _, after = tx.update(jnp.ones(2, jnp.float32), state, params)
    assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
