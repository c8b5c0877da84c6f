"""How many gradients a step takes, and how often and into how much program the model is traced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import orthogonalize, profit
from tests import regression


def update_of(tx, value_and_grad_fn=regression.value_and_grad_fn):
    """`update` as a function of arrays."""

    def update(grads, state, params, batches):
        return tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=batches)

    return update


def arguments(tx, n_ref):
    params = regression.params()
    batches = {name: x[0] for name, x in regression.data(1, n_ref).items()}
    return params, tx.init(params), params, batches


def equations(program):
    """All equations of a program, those of the programs inside it too."""
    program = getattr(program, "jaxpr", program)
    for equation in program.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(inner)


@pytest.mark.parametrize("mode", ["accumulate", "subtract"])
@pytest.mark.parametrize("n_ref", [1, 2, 5])
def test_an_update_takes_n_ref_gradients(n_ref, mode):
    taken = []

    def counted(params, batch):
        jax.debug.callback(lambda: taken.append(1))
        return regression.value_and_grad_fn(params, batch)

    tx = profit(optax.adam(0.1), optax.sgd(0.1), n_ref, displacement=mode)
    jax.block_until_ready(jax.jit(update_of(tx, counted))(*arguments(tx, n_ref)))
    jax.effects_barrier()
    assert len(taken) == n_ref


def test_a_warm_up_step_takes_none():
    taken = []

    def counted(params, batch):
        jax.debug.callback(lambda: taken.append(1))
        return regression.value_and_grad_fn(params, batch)

    tx = profit(optax.adam(0.1), optax.sgd(0.1), n_ref=3, warmup_steps=2)
    update = jax.jit(update_of(tx, counted))
    grads, state, params, batches = arguments(tx, 3)
    counts = []
    for _ in range(4):
        updates, state = update(grads, state, params, batches)
        jax.block_until_ready(updates)
        jax.effects_barrier()
        counts.append(len(taken))
    assert counts == [0, 0, 3, 6]


def tree_of_arrays(params):
    return params


def tree_of_numpy(params):
    return jax.tree.map(np.asarray, params)


def tree_of_weak_types(params):
    return {name: jnp.full(x.shape, 1.0) for name, x in params.items()} | {"scalar": 1.0}


@pytest.mark.parametrize("leaves", [tree_of_arrays, tree_of_numpy, tree_of_weak_types])
@pytest.mark.parametrize(
    "options", [{}, {"warmup_steps": 1}, {"displacement": "subtract"}, {"reset_reference_state": True}], ids=str
)
def test_an_update_traces_the_model_once(options, leaves, count_traces):
    loss_fn = count_traces(lambda params, batch: regression.loss_fn(params, batch) + jnp.sum(params.get("scalar", 0.0)))
    tx = profit(optax.adam(0.1), optax.sgd(0.1, momentum=0.9), n_ref=3, **options)
    params = leaves(regression.params())
    _, _, _, batches = arguments(profit(optax.sgd(1.0), optax.sgd(1.0)), 3)
    jax.make_jaxpr(update_of(tx, jax.value_and_grad(loss_fn)))(params, tx.init(params), params, batches)
    assert loss_fn.traces == 1


@pytest.mark.parametrize("options", [{}, {"warmup_steps": 1}, {"displacement": "subtract"}], ids=str)
def test_the_program_does_not_grow_with_n_ref(options):
    sizes = []
    for n_ref in (2, 16):
        tx = profit(optax.adam(0.1), optax.sgd(0.1, momentum=0.9), n_ref, **options)
        program = jax.make_jaxpr(update_of(tx))(*arguments(tx, n_ref))
        sizes.append(sum(1 for _ in equations(program)))
    assert sizes[0] == sizes[1] > 50


def branches(function, *args):
    program = jax.make_jaxpr(function)(*args)
    return sum(equation.primitive.name == "cond" for equation in equations(program))


def test_without_a_warm_up_no_branch_is_compiled():
    params = regression.params()
    assert branches(orthogonalize, params, params) == 0
    for n_ref in (1, 2):
        make = functools.partial(profit, optax.sgd(0.1), optax.sgd(0.1), n_ref, unroll=False)
        without, with_warmup = (make(warmup_steps=steps) for steps in (0, 1))
        assert branches(update_of(without), *arguments(without, n_ref)) == 0
        assert branches(update_of(with_warmup), *arguments(with_warmup, n_ref)) == 1


@pytest.mark.parametrize("options", [{}, {"warmup_steps": 1}, {"displacement": "subtract"}], ids=str)
def test_the_second_call_compiles_nothing(options):
    tx = profit(optax.adamw(0.1), optax.sgd(0.1, momentum=0.9), n_ref=2, **options)
    step = jax.jit(update_of(tx))
    grads, state, params, batches = arguments(tx, 2)
    for _ in range(3):
        updates, state = step(grads, state, params, batches)
        params = optax.apply_updates(params, updates)
    assert step._cache_size() == 1


def compilations(tx, params, **kwargs):
    """How many programs a training loop of four steps compiles."""

    @jax.jit
    def step(params, state):
        _, grads = quadratic(params, 1.0)
        updates, state = tx.update(grads, state, params, **kwargs)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(4):
        params, state = step(params, state)
    return step._cache_size()


def quadratic(params, batch):
    return jax.value_and_grad(lambda params: jnp.sum(params["w"] ** 2 * batch))(params)


def test_weakly_typed_parameters_compile_no_more_than_with_adamw_alone():
    params = {"w": jnp.full(3, 1.0)}
    assert params["w"].weak_type
    tx = profit(optax.adamw(0.1), optax.sgd(0.1, momentum=0.9), displacement_dtype="bfloat16")
    alone = compilations(optax.adamw(0.1), params)
    assert compilations(tx, params, value_and_grad_fn=quadratic, batches=jnp.ones(1)) <= alone


@pytest.mark.parametrize("options", [{}, {"displacement": "subtract"}, {"displacement_dtype": "bfloat16"}], ids=str)
def test_states_keep_their_types_from_init_on(options):
    tx = profit(optax.adamw(0.1), optax.sgd(0.1, momentum=0.9), 2, warmup_steps=1, **options)
    grads, state, params, batches = arguments(tx, 2)
    _, after = jax.eval_shape(update_of(tx), grads, state, params, batches)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    describe = lambda x: (x.shape, x.dtype, x.weak_type)  # noqa: E731
    assert jax.tree.map(describe, after) == jax.tree.map(describe, state)
