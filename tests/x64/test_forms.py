import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, orthogonalize_to_previous, profit_transparent
from tests import forms, regression
from tests.algorithm1 import Adam, Profit, Sgd, add, float64, project, scale
from tests.forms import one_line
from tests.recurrence import OneLine

MAIN = {
    "sgd": (lambda: optax.sgd(0.1), lambda: Sgd(0.1)),
    "momentum": (lambda: optax.sgd(0.05, momentum=0.9), lambda: Sgd(0.05, momentum=0.9)),
    "adamw": (lambda: optax.adamw(0.03, weight_decay=0.1), lambda: Adam(0.03, weight_decay=0.1)),
}
REFERENCE = {
    "sgd": (lambda: optax.sgd(0.05), lambda: Sgd(0.05)),
    "momentum": (lambda: optax.sgd(0.05, momentum=0.5), lambda: Sgd(0.05, momentum=0.5)),
}


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize(("main", "reference"), [("sgd", "sgd"), ("momentum", "momentum"), ("adamw", "momentum")])
@pytest.mark.parametrize("n_ref", [1, 3])
def test_the_transparent_form_is_algorithm_1(n_ref, main, reference, warmup_steps):
    steps, start = 12, regression.params(np.float64)
    batches = regression.data(steps, n_ref + 1, np.float64)
    tx = profit_transparent(MAIN[main][0](), REFERENCE[reference][0](), n_ref, warmup_steps=warmup_steps)
    run = forms.run_calls(tx, start, forms.one_batch_a_call(batches, warmup_steps))

    algorithm = Profit(MAIN[main][1](), REFERENCE[reference][1](), n_ref, warmup_steps)
    theta, calls = float64(start), forms.main_calls(steps, n_ref, warmup_steps)
    for i in range(steps):
        step_batches = [{name: x[i, j] for name, x in batches.items()} for j in range(n_ref + 1)]
        theta = algorithm.step(theta, regression.gradient, step_batches)
        held = jax.tree.map(lambda x, i=i: x[calls[i]], run.params)
        assert forms.relative_error(held, theta, start) <= 1e-10

    seen, saw = algorithm.projections[warmup_steps:], jax.tree.map(lambda x: x[calls[warmup_steps:]], run.metrics)
    for name in saw._fields:
        np.testing.assert_allclose(getattr(saw, name), [getattr(p, name) for p in seen], rtol=1e-8)
    assert 0 < sum(p.conflict for p in seen) < len(seen)
    assert saw.cosine.dtype == jnp.float64


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("main", ["sgd", "momentum", "adamw"])
def test_the_one_line_is_its_recurrence(main, decay, warmup_steps):
    steps, start = 20, regression.params(np.float64)
    batches = jax.tree.map(lambda x: x[:, 0], regression.data(steps, 1, np.float64))
    tx = optax.chain(orthogonalize_to_previous(decay, warmup_steps=warmup_steps), MAIN[main][0]())
    run = forms.run_calls(tx, start, batches)

    expected = OneLine(float64(start), MAIN[main][1](), decay, warmup_steps)
    for i in range(steps):
        expected.step(regression.gradient, {name: x[i] for name, x in batches.items()})
        theta = jax.tree.map(lambda x, i=i: x[i], run.theta)
        assert forms.relative_error(theta, expected.theta, start) <= 1e-10

    seen = expected.projections
    for name in run.metrics._fields:
        values = [getattr(p, name) for p in seen]
        np.testing.assert_allclose(getattr(run.metrics, name), values, rtol=1e-8, atol=1e-12)
    assert 0 < sum(p.conflict for p in seen) < steps - 1 - warmup_steps


@pytest.mark.parametrize("case", forms.CASES.values(), ids=forms.CASES)
def test_updates_keep_the_dtype_and_the_state_its_types_at_every_call(case):
    tx = case.make()

    def objective(params):
        return jnp.sum(jnp.array([3.0, 1.0]) * (params["wide"] - 1) ** 2) + jnp.sum(params["narrow"] ** 2)

    driven = forms.with_closure(case, tx, objective)

    @jax.jit
    def step(params, state):
        updates, state = driven.update(jax.grad(objective)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = {"wide": jnp.array([-1.0, 10.0]), "narrow": jnp.ones(3, jnp.float32)}
    state = tx.init(params)
    expected = jax.tree.map(jax.typeof, (params, state))
    assert eval_params(state, params)["wide"].dtype == jnp.float64
    for _ in range(4):
        params, state = step(params, state)
        assert jax.tree.map(jax.typeof, (params, state)) == expected
    assert step._cache_size() == 1


@pytest.mark.parametrize("form", [profit_transparent, one_line])
@pytest.mark.parametrize(("params_dtype", "grads_dtype"), [("float64", "float32"), ("float32", "float64")])
def test_gradients_of_another_width_keep_the_types_of_the_state(form, params_dtype, grads_dtype):
    tx, params = form(optax.sgd(0.1), optax.sgd(0.1)), jnp.array([-1.0, 10.0], params_dtype)
    state = tx.init(params)
    expected = jax.tree.map(jax.typeof, state)
    for _ in range(3):
        updates, state = jax.jit(tx.update)(jnp.ones(2, grads_dtype), state, params)
        assert updates.dtype == grads_dtype
        assert jax.tree.map(jax.typeof, state) == expected
        params = optax.apply_updates(params, updates)


def test_it_is_the_limit_of_the_lagged_recurrence_for_a_small_reference_rate():
    """θ ← O(project(g(θ + Δ), Δ)), Δ ← −λ g: what is lost in the limit is of the order of λ."""
    params, data = float64(regression.params()), float64(regression.data(8, 1))

    def lagged(rate):
        theta, delta = params, scale(0.0, params)
        for i in range(8):
            batch = {name: x[i, 0] for name, x in data.items()}
            g = regression.gradient(add(theta, delta), batch)
            theta = add(theta, scale(-0.05, project(g, delta).gradient))
            delta = scale(-rate, g)
        return theta

    tx = optax.chain(orthogonalize_to_previous(), optax.sgd(0.05))
    theta, state = params, tx.init(params)
    for i in range(8):
        g = regression.gradient(theta, {name: x[i, 0] for name, x in data.items()})
        updates, state = tx.update(jax.tree.map(jnp.asarray, g), state)
        theta = add(theta, float64(updates))
    distances = []
    for rate in (1e-4, 1e-5, 1e-6):
        difference = add(lagged(rate), scale(-1.0, theta))
        distances.append(max(np.max(np.abs(x)) for x in difference.values()))
    assert distances[0] / distances[1] == pytest.approx(10, rel=0.05)
    assert distances[1] / distances[2] == pytest.approx(10, rel=0.05)
