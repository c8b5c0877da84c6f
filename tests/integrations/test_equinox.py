"""The Equinox closure: what is trained, what is not, and what it costs."""

import doctest
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit, profit_transparent
from profit_optax.integrations import equinox as integration
from profit_optax.integrations.equinox import make_value_and_grad_fn
from profit_optax.training import make_train_step
from tests.forms import one_line

EPS = float(jnp.finfo(jnp.float32).eps)
N_REF = 2
TX = profit(optax.adamw(0.01), optax.sgd(0.01), N_REF)


class Model(eqx.Module):
    backbone: eqx.nn.Linear
    head: eqx.nn.Linear
    steps: jax.Array
    activation: Callable

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        self.backbone, self.head = eqx.nn.Linear(4, 16, key=keys[0]), eqx.nn.Linear(16, 1, key=keys[1])
        self.steps, self.activation = jnp.arange(3), jnp.tanh

    def __call__(self, x):
        return self.head(self.activation(self.backbone(x)))


def head_of(model):
    """The filter that trains the head alone."""
    nothing = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(lambda m: (m.head.weight, m.head.bias), nothing, (True, True))


def loss_fn(model, x):
    return jnp.mean((jax.vmap(model)(x) - jnp.sum(x, axis=-1, keepdims=True)) ** 2)


X = jax.random.normal(jax.random.key(1), (N_REF + 1, 8, 4))


def take_step(model, tx, filter_spec=eqx.is_inexact_array, loss_fn=loss_fn, has_aux=False):
    @eqx.filter_jit
    def step(model):
        value_and_grad_fn = make_value_and_grad_fn(loss_fn, model, filter_spec=filter_spec, has_aux=has_aux)
        params = eqx.filter(model, filter_spec)
        value, grads = value_and_grad_fn(params, X[0])
        updates, state = tx.update(grads, tx.init(params), params, value_and_grad_fn=value_and_grad_fn, batches=X[1:])
        return eqx.apply_updates(model, updates), state, value

    return step(model)


def assert_close(tree, other):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), tree, other)


def test_a_step_is_that_on_a_dictionary_of_the_same_arrays():
    start = Model()
    model, state, value = take_step(start, TX)

    def loss_of_arrays(p, x):
        hidden = jnp.tanh(x @ p["w"].T + p["b"][None])
        return jnp.mean((hidden @ p["v"].T + p["c"][None] - jnp.sum(x, axis=-1, keepdims=True)) ** 2)

    params = {"w": start.backbone.weight, "b": start.backbone.bias, "v": start.head.weight, "c": start.head.bias}
    params, _, metrics = make_train_step(loss_of_arrays, TX, donate=False)(params, TX.init(params), X)
    trained = {"w": model.backbone.weight, "b": model.backbone.bias, "v": model.head.weight, "c": model.head.bias}
    assert_close(trained, params)
    assert_close(value, metrics["loss"])
    assert_close(state.metrics.cosine, metrics["cosine"])
    assert model.steps.tolist() == [0, 1, 2]


def test_what_is_not_trained_stays_and_takes_no_part():
    start = Model()
    model, state, _ = take_step(start, TX, head_of(start))
    assert eqx.tree_equal(model.backbone, start.backbone)
    features = jnp.tanh(X @ start.backbone.weight.T + start.backbone.bias[None, None])

    def loss_of_head(p, batch):
        features, x = batch
        return jnp.mean((features @ p["v"].T + p["c"][None] - jnp.sum(x, axis=-1, keepdims=True)) ** 2)

    params = {"v": start.head.weight, "c": start.head.bias}
    params, _, metrics = make_train_step(loss_of_head, TX, donate=False)(params, TX.init(params), (features, X))
    assert_close({"v": model.head.weight, "c": model.head.bias}, params)
    for name in ("cosine", "displacement_norm", "gradient_norm"):
        assert_close(getattr(state.metrics, name), metrics[name])


@pytest.mark.parametrize(
    ("tx", "copies"),
    [
        (profit(optax.adamw(0.01), optax.sgd(0.01), N_REF), 2),
        (profit_transparent(optax.adamw(0.01), optax.sgd(0.01), N_REF), 4),
        (one_line(optax.adamw(0.01)), 3),
    ],
)
def test_what_is_not_trained_costs_no_state(tx, copies):
    model = Model()
    params = eqx.filter(model, head_of(model))
    arrays = jax.tree.leaves(tx.init(params))
    assert sum(x.size for x in arrays if x.ndim) == copies * (16 + 1)


def test_batch_statistics_come_from_the_pass_at_theta():
    class Normalized(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.linear = eqx.nn.Linear(4, 1, key=jax.random.key(0))
            self.norm = eqx.nn.BatchNorm(1, axis_name="batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.linear(x), state)

    model, statistics = eqx.nn.make_with_state(Normalized)()

    def loss_fn(model, x):
        # Equinox lets a state be used once; the passes inside use it again.
        clone = jax.tree.map(lambda leaf: leaf, statistics)
        y, updated = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, clone)
        return jnp.mean((y - 1) ** 2), updated

    _, expected = loss_fn(model, X[0])
    _, _, (_, updated) = take_step(model, TX, loss_fn=loss_fn, has_aux=True)
    assert_close(jax.tree.leaves(updated), jax.tree.leaves(expected))
    assert not eqx.tree_equal(updated, statistics)


@pytest.mark.parametrize("form", [one_line, profit_transparent])
def test_call_by_call_forms_leave_theta_to_eval_params(form):
    model, tx = Model(), form(optax.sgd(0.1), optax.sgd(0.05))
    params = eqx.filter(model, eqx.is_inexact_array)
    grads = eqx.filter_grad(loss_fn)(model, X[0])
    updates, state = tx.update(grads, tx.init(params), params)
    displaced = eqx.filter(eqx.apply_updates(model, updates), eqx.is_inexact_array)
    theta = eqx.combine(eval_params(state, displaced), model)
    rate = 0.1 if form is one_line else 0.0
    assert_close(theta.head.weight, model.head.weight - rate * grads.head.weight)


def test_integers_cannot_be_trained():
    with pytest.raises(TypeError, match="real- or complex-valued"):
        take_step(Model(), TX, eqx.is_array)


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(integration)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("filter_spec", [eqx.is_inexact_array, head_of(Model())], ids=["all", "head"])
@pytest.mark.parametrize("form", [profit, profit_transparent])
def test_the_model_itself_may_stand_for_the_parameters(form, filter_spec):
    tx = form(optax.adamw(0.01), optax.sgd(0.01), N_REF)

    def run(select):
        def step(model, state, x):
            value_and_grad_fn = make_value_and_grad_fn(loss_fn, model, filter_spec=filter_spec)
            _, grads = value_and_grad_fn(eqx.filter(model, filter_spec), x[0])
            extra = {"value_and_grad_fn": value_and_grad_fn, "batches": x[1:]} if form is profit else {}
            updates, state = tx.update(grads, state, select(model), **extra)
            return eqx.apply_updates(model, updates), state

        model = Model()
        state = tx.init(eqx.filter(model, filter_spec))
        for i in range(N_REF + 1):
            model, state = eqx.filter_jit(step)(model, state, jnp.roll(X, i, axis=0))
        return model, state

    expected = run(lambda model: eqx.filter(model, filter_spec))
    for select in (lambda model: model, lambda model: eqx.filter(model, eqx.is_array)):
        assert eqx.tree_equal(run(select), expected)


class Counting(eqx.Module):
    """A layer beside a function and a buffer of integers."""

    layer: eqx.nn.Linear
    activation: Callable
    calls: jax.Array


@pytest.mark.parametrize("form", [profit, profit_transparent])
def test_a_state_made_for_every_array_takes_no_functions(form):
    model = Counting(eqx.nn.Linear(2, 2, key=jax.random.key(0)), jax.nn.relu, jnp.array(3))
    tx = form(optax.adamw(0.01), optax.sgd(0.01), 1)
    grads = jax.tree.map(jnp.ones_like, eqx.filter(model, eqx.is_inexact_array))
    extra = {"value_and_grad_fn": lambda params, batch: (0.0, grads), "batches": jnp.zeros(1)} if form is profit else {}
    updates, _ = tx.update(grads, tx.init(eqx.filter(model, eqx.is_array)), model, **extra)
    after = eqx.apply_updates(model, updates)
    assert after.calls == 3
    assert after.activation is jax.nn.relu
    assert not np.array_equal(after.layer.weight, model.layer.weight)
