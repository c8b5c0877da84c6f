"""Complex parameters: whoever builds the closure conjugates its gradients, and the run is that on the parts."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from profit_optax import eval_params, profit, profit_transparent
from profit_optax.integrations.equinox import make_value_and_grad_fn
from profit_optax.integrations.linen import TrainState
from profit_optax.integrations.nnx import update_arguments
from profit_optax.training import make_train_step
from tests import phasors

OPTIMIZERS = optax.sgd(phasors.RATE), optax.sgd(phasors.REFERENCE_RATE), phasors.N_REF
TX = profit(*OPTIMIZERS)


@pytest.mark.parametrize("tx", [TX, profit_transparent(*OPTIMIZERS)], ids=["closure", "transparent"])
def test_the_train_step_takes_them(tx):
    step = make_train_step(phasors.loss_fn, tx)
    z, state = phasors.start(), tx.init(phasors.start())
    for batches in phasors.data():
        z, state, _ = step(z, state, batches)
    phasors.assert_right(eval_params(state, z))


class Model(eqx.Module):
    z: jax.Array


def test_in_equinox_the_own_pass_goes_through_the_same_function():
    def loss_fn(model, batch):
        return phasors.loss_fn(model.z, batch)

    @eqx.filter_jit
    def step(model, state, batches):
        value_and_grad_fn = make_value_and_grad_fn(loss_fn, model)
        params = eqx.filter(model, eqx.is_inexact_array)
        _, grads = value_and_grad_fn(params, batches[0])
        updates, state = TX.update(
            grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=jnp.asarray(batches[1:])
        )
        return eqx.apply_updates(model, updates), state

    model = Model(phasors.start())
    state = TX.init(model)
    for batches in phasors.data():
        model, state = step(model, state, batches)
    phasors.assert_right(model.z)


class Module(nnx.Module):
    def __init__(self):
        self.z = nnx.Param(phasors.start())


def test_in_nnx_the_own_pass_is_conjugated_as_the_docstring_says():
    def loss_fn(model, batch):
        return phasors.loss_fn(model.z[...], batch)

    @nnx.jit
    def step(model, optimizer, batches):
        grads = jax.tree.map(jnp.conj, nnx.grad(loss_fn)(model, batches[0]))
        optimizer.update(model, grads, **update_arguments(loss_fn, model, batches[1:], wrt=nnx.Param))

    model = Module()
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    for batches in phasors.data():
        step(model, optimizer, batches)
    phasors.assert_right(model.z[...])


def test_in_linen_the_closure_is_written_out_and_conjugates():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self):
            return self.param("z", lambda _: phasors.start())

    def value_and_grad_fn(params, batch):
        value, grads = jax.value_and_grad(lambda p: phasors.loss_fn(Layer().apply({"params": p}), batch))(params)
        return value, jax.tree.map(jnp.conj, grads)

    @jax.jit
    def step(state, batches):
        _, grads = value_and_grad_fn(state.params, batches[0])
        return state.apply_gradients(grads=grads, value_and_grad_fn=value_and_grad_fn, batches=batches[1:])

    params = Layer().init(jax.random.key(0))["params"]
    state = TrainState.create(apply_fn=Layer().apply, params=params, tx=TX)
    for batches in phasors.data():
        state = step(state, batches)
    phasors.assert_right(state.params["z"])
