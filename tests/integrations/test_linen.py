"""The Linen train state: what goes to the optimizer, what replaces fields, and what stays Flax's."""

import doctest

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT

from profit_optax import eval_params, profit
from profit_optax.integrations import linen
from tests import regression
from tests.forms import one_line

EPS = float(jnp.finfo(jnp.float32).eps)
N_REF = 2


class TrainState(linen.TrainState):
    batch_stats: dict


def create(tx, params=None):
    params = regression.params() if params is None else params
    return TrainState.create(apply_fn=None, params=params, tx=tx, batch_stats={"mean": jnp.zeros(())})


def groups(steps):
    data = regression.data(steps, N_REF + 1)
    for i in range(steps):
        yield {name: x[i, 0] for name, x in data.items()}, {name: x[i, 1:] for name, x in data.items()}


@jax.jit
def train_step(state, first, others, batch_stats):
    _, grads = regression.value_and_grad_fn(state.params, first)
    return state.apply_gradients(
        grads=grads, batch_stats=batch_stats, value_and_grad_fn=regression.value_and_grad_fn, batches=others
    )


def test_the_closure_and_the_batches_reach_the_optimizer_and_fields_are_replaced():
    tx = profit(optax.adamw(0.03), optax.sgd(0.02), N_REF)
    state, params = create(tx), regression.params()
    opt_state = tx.init(params)
    update = jax.jit(
        lambda grads, opt_state, params, others: tx.update(
            grads, opt_state, params, value_and_grad_fn=regression.value_and_grad_fn, batches=others
        )
    )
    for step, (first, others) in enumerate(groups(4)):
        state = train_step(state, first, others, {"mean": jnp.float32(step)})
        updates, opt_state = update(regression.value_and_grad_fn(params, first)[1], opt_state, params, others)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), state.params, params)
    assert state.step == 4
    assert state.batch_stats["mean"] == 3
    assert state.opt_state.count == 4


def test_the_optimizer_of_the_state_stays_what_it_was_so_that_nothing_is_traced_again(count_traces):
    tx = profit(optax.adamw(0.03), optax.sgd(0.02), N_REF)
    counted = count_traces(lambda state, *arguments: train_step(state, *arguments))
    jitted, state = jax.jit(counted), create(tx)
    for first, others in groups(3):
        state = jitted(state, first, others, {"mean": jnp.zeros(())})
        assert state.tx is tx
    assert counted.traces == 1


def test_the_optimizer_can_be_replaced_like_every_field():
    state, other = create(optax.sgd(0.1)), optax.sgd(0.2)
    assert state.apply_gradients(grads=state.params, tx=other).tx is other


def test_any_extra_argument_is_handed_on():
    def update(updates, state, params=None, *, value, **extra_args):
        return jax.tree.map(lambda u: value * u, updates), state

    state = create(optax.GradientTransformationExtraArgs(lambda params: (), update))
    ones = jax.tree.map(jnp.ones_like, state.params)
    state = state.apply_gradients(grads=ones, value=3.0, unknown=None)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y + 3), state.params, regression.params())


def test_an_optimizer_that_takes_no_extra_arguments_is_not_handed_them():
    first, others = next(groups(1))
    state = train_step(create(optax.scale(-0.1)), first, others, {"mean": jnp.ones(())})
    grads = regression.value_and_grad_fn(regression.params(), first)[1]
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, regression.params(), grads)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=8 * EPS, atol=8 * EPS), state.params, expected)


def test_batch_statistics_are_updated_once_a_step_and_by_the_pass_at_theta():
    model = nn.BatchNorm(use_running_average=False, momentum=0.5)
    x = jax.random.normal(jax.random.key(0), (N_REF + 1, 8, 3)) + jnp.arange(1.0, N_REF + 2).reshape(-1, 1, 1)
    variables = model.init(jax.random.key(1), x[0])
    tx = profit(optax.sgd(0.1), optax.sgd(0.1), N_REF)
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=tx, batch_stats=variables["batch_stats"]
    )

    @jax.jit
    def step(state, x):
        def loss_fn(params, x):
            variables = {"params": params, "batch_stats": state.batch_stats}
            y, updated = state.apply_fn(variables, x, mutable=["batch_stats"])
            return jnp.mean((y - x) ** 2), updated["batch_stats"]

        value_and_grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, batch_stats), grads = value_and_grad_fn(state.params, x[0])
        return state.apply_gradients(
            grads=grads, batch_stats=batch_stats, value_and_grad_fn=value_and_grad_fn, batches=x[1:]
        )

    mean = step(state, x).batch_stats["mean"]
    np.testing.assert_allclose(mean, 0.5 * jnp.mean(x[0], axis=0), rtol=8 * EPS)


def test_the_parameters_to_evaluate_are_theta():
    state = create(one_line(optax.sgd(0.1), optax.sgd(0.05)))
    state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))
    theta = state.eval_params
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y), theta, eval_params(state.opt_state, state.params))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y - 0.1, rtol=8 * EPS), theta, regression.params())


def test_the_parameters_to_evaluate_need_a_form_of_profit():
    with pytest.raises(ValueError, match="opt_state must hold the state of profit"):
        _ = create(optax.sgd(0.1)).eval_params


def test_what_flax_overwrites_with_its_gradient_stays_out_of_the_optimizer():
    tx = profit(optax.sgd(0.1), optax.sgd(0.1))
    state = create(tx, params={"params": regression.params(), OVERWRITE_WITH_GRADIENT: {"scale": jnp.ones(())}})
    grads = {
        "params": jax.tree.map(jnp.zeros_like, regression.params()),
        OVERWRITE_WITH_GRADIENT: {"scale": jnp.full((), 2.0)},
    }
    first = {name: x[0, 0] for name, x in regression.data(1, 1).items()}
    others = jax.tree.map(lambda x: x[None], first)
    state = state.apply_gradients(grads=grads, value_and_grad_fn=regression.value_and_grad_fn, batches=others)
    assert state.params[OVERWRITE_WITH_GRADIENT]["scale"] == 2
    assert optax.tree.norm(optax.tree.sub(state.params["params"], regression.params())) > 0


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(linen)
    assert results.attempted
    assert not results.failed


def run(tx, steps=3):
    state = create(tx)
    for first, others in groups(steps):
        state = train_step(state, first, others, state.batch_stats)
    return state


def test_objects_of_optax_are_handed_the_extra_arguments():
    tx = profit(optax.sgd(0.03), optax.sgd(0.02), N_REF)
    state, expected = run(optax.MultiSteps(tx, 1)), run(tx)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=8 * EPS, atol=8 * EPS), state.params, expected.params
    )
    assert state.opt_state.inner_opt_state.count == 3


def test_an_optimizer_is_handed_the_extra_arguments_that_it_names():
    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda u: value * u, updates), state

    state = create(optax.GradientTransformation(lambda params: (), update))
    ones = jax.tree.map(jnp.ones_like, state.params)
    state = state.apply_gradients(grads=ones, value=3.0, unknown=None)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y + 3), state.params, regression.params())


def test_a_wrapper_that_drops_the_closure_is_named_by_the_error():
    tx = optax.lookahead(profit(optax.sgd(0.03), optax.sgd(0.02), N_REF), 2, 0.5)
    params = optax.LookaheadParams.init_synced(regression.params())
    first, others = next(groups(1))
    _, grads = regression.value_and_grad_fn(params.fast, first)
    with pytest.raises(ValueError, match=r"value_and_grad_fn is missing.* If you did pass it, .* optax\.lookahead"):
        create(tx, params).apply_gradients(grads=grads, value_and_grad_fn=regression.value_and_grad_fn, batches=others)
