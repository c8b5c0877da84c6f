import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from profit_optax import eval_params, profit_transparent
from tests import forms, regression
from tests.forms import one_line
from tests.multidevice.meshes import set_mesh

CALL_BY_CALL = {
    "transparent": functools.partial(profit_transparent, n_ref=3),
    "one-line": one_line,
}


def mesh(axis_type, devices=8):
    return jax.make_mesh((devices,), ("x",), axis_types=(axis_type,), devices=jax.devices()[:devices])


def types(tree):
    return jax.tree.map(jax.typeof, tree)


@pytest.fixture(params=forms.CASES)
def driven(request):
    """A public optimizer that needs no closure."""
    case = forms.CASES[request.param]
    return forms.with_closure(case, case.make(), lambda params: jnp.sum(params**2))


def test_init_and_every_update_keep_explicit_shardings_of_the_state(driven):
    with set_mesh(mesh(AxisType.Explicit)):
        params = jnp.ones((2, 8, 4), jnp.float16, out_sharding=PartitionSpec(None, "x"))
        state = driven.init(params)
        expected = types(state)
        assert types(jax.jit(driven.init)(params)) == expected
        shardings = [x.sharding.spec for x in jax.tree.leaves(expected) if x.ndim]
        assert all(spec == PartitionSpec(None, "x", None) for spec in shardings)
        update = jax.jit(driven.update)
        for _ in range(4):
            updates, state = update(params, state, params)
            assert types(state) == expected
            assert types(updates) == types(params)


def test_an_update_outside_jit_keeps_them_too(driven):
    # Every operation is a program of its own. Where the sums of several wait for eight devices each, XLA for CPUs may
    # run out of threads, and aborts.
    with set_mesh(mesh(AxisType.Explicit, devices=2)):
        params = jnp.zeros((2, 8, 4), jnp.float16, out_sharding=PartitionSpec(None, "x"))
        state = driven.init(params)
        expected = types((params, state))
        for _ in range(3):
            updates, state = driven.update(params, state, params)
            assert types((updates, state)) == expected


def on_given_gradients(tx, params, gradients):
    """θ after calls with gradients [calls, ...], and what each projection saw."""

    def call(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), optax.tree.get(state, "metrics")

    (params, state), metrics = jax.lax.scan(call, (params, tx.init(params)), gradients)
    return eval_params(state, params), metrics


def problem():
    """Parameters of which "w" can be sharded over eight devices, and the gradients of twelve calls."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(16, 3)), "b": rng.normal(size=(5,))}
    gradients = jax.tree.map(lambda x: rng.normal(size=(12, *x.shape)) + 0.1, params)
    return jax.tree.map(jnp.float32, (params, gradients))


def assert_agree(got, expected):
    (theta, metrics), (expected_theta, expected_metrics) = got, expected
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    assert np.linalg.norm(flat(theta) - flat(expected_theta)) <= 2e-6 * np.linalg.norm(flat(expected_theta))
    np.testing.assert_array_equal(metrics.conflict, expected_metrics.conflict)
    np.testing.assert_allclose(metrics.cosine, expected_metrics.cosine, atol=1e-6)
    assert len(set(np.asarray(metrics.conflict)[4:].tolist())) == 2


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("form", CALL_BY_CALL)
def test_sharded_parameters_under_jit_agree_with_one_device(form, axis_type):
    tx = CALL_BY_CALL[form](optax.adamw(0.01), optax.sgd(0.05, momentum=0.5))
    params, gradients = problem()
    expected = jax.jit(functools.partial(on_given_gradients, tx))(params, gradients)
    m = mesh(axis_type)
    with set_mesh(m):
        spec = {"w": PartitionSpec("x"), "b": PartitionSpec()}
        params = jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(m, s)), params, spec)
        spec = {"w": PartitionSpec(None, "x"), "b": PartitionSpec()}
        gradients = jax.tree.map(lambda x, s: jax.device_put(x, NamedSharding(m, s)), gradients, spec)
        got = jax.jit(functools.partial(on_given_gradients, tx))(params, gradients)
        assert got[0]["w"].sharding.is_equivalent_to(params["w"].sharding, 2)
        got = jax.device_get(got)
    assert_agree(got, expected)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("form", CALL_BY_CALL)
def test_parameters_sharded_by_hand_agree_with_one_device(form, check_vma):
    optimizers = optax.adamw(0.01), optax.sgd(0.05, momentum=0.5)
    params, gradients = problem()
    expected = jax.jit(functools.partial(on_given_gradients, CALL_BY_CALL[form](*optimizers)))(params, gradients)
    options = {} if check_vma else {"axis_name": {"w": "x", "b": None}}
    tx = CALL_BY_CALL[form](*optimizers, **options)
    sharded = jax.shard_map(
        functools.partial(on_given_gradients, tx),
        mesh=mesh(AxisType.Auto),
        in_specs=(
            {"w": PartitionSpec("x"), "b": PartitionSpec()},
            {"w": PartitionSpec(None, "x"), "b": PartitionSpec()},
        ),
        out_specs=({"w": PartitionSpec("x"), "b": PartitionSpec()}, PartitionSpec()),
        check_vma=check_vma,
    )
    assert_agree(jax.device_get(jax.jit(sharded)(params, gradients)), expected)


def grad_fn(reduction):
    """The gradient of the mean loss over devices: where the mean belongs depends on how the devices are driven."""

    def of_mean_loss(params, batch):
        return jax.grad(lambda p: jax.lax.pmean(regression.loss_fn(p, batch), "x"))(params)

    def mean_of_gradients(params, batch):
        return jax.lax.pmean(jax.grad(regression.loss_fn)(params, batch), "x")

    return of_mean_loss if reduction == "of mean loss" else mean_of_gradients


def loop(tx, gradient_at):
    def run(params, batches):
        def call(carry, batch):
            params, state = carry
            updates, state = tx.update(gradient_at(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), optax.tree.get(state, "metrics")

        (params, state), metrics = jax.lax.scan(call, (params, tx.init(params)), batches)
        return eval_params(state, params), metrics

    return run


@pytest.mark.parametrize("recipe", ["shard_map, check_vma", "shard_map", "pmap"])
@pytest.mark.parametrize("form", CALL_BY_CALL)
def test_data_parallel_loops_agree_with_one_device(form, recipe):
    tx = CALL_BY_CALL[form](optax.adamw(0.01), optax.sgd(0.05))
    params = regression.params()
    batches = jax.tree.map(lambda x: x[:, 0], regression.data(24, 1, size=16))
    expected = jax.jit(loop(tx, jax.grad(regression.loss_fn)))(params, batches)
    if recipe == "pmap":
        run = jax.pmap(loop(tx, grad_fn("mean of gradients")), axis_name="x", in_axes=(None, 0))
        by_device = jax.tree.map(lambda x: np.moveaxis(x.reshape(24, 8, 2, *x.shape[2:]), 1, 0), batches)
        got = jax.tree.map(lambda x: x[0], run(params, by_device))
    else:
        check_vma = recipe == "shard_map, check_vma"
        run = jax.shard_map(
            loop(tx, grad_fn("of mean loss" if check_vma else "mean of gradients")),
            mesh=mesh(AxisType.Auto),
            in_specs=(PartitionSpec(), PartitionSpec(None, "x")),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
        got = jax.jit(run)(params, batches)
    assert_agree(jax.device_get(got), jax.device_get(expected))
