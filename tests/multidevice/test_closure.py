"""Parameters and batches over eight devices: shardings are kept, and the result is that of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import orthogonalize, profit, reject_nonfinite
from tests.multidevice.meshes import set_mesh
from tests.steps import EPS, assert_close

N_REF = 3
SPECS = {"w": P(None, "x"), "b": P("x"), "v": P("x"), "c": P()}
OPTIONS = [{}, {"warmup_steps": 1}, {"displacement": "subtract"}, {"displacement_dtype": "bfloat16"}]


def start():
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 16), "b": (16,), "v": (16,), "c": ()}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def batches_of(steps):
    """Leaves [steps, n_ref + 1, 16, ...]."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(steps, N_REF + 1, 16, 3)).astype(np.float32)
    return {"x": x, "y": 5 * rng.normal(size=x.shape[:-1]).astype(np.float32)}


def loss_fn(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    return jnp.mean((jnp.sum(hidden * params["v"][None], axis=1) + params["c"] - batch["y"]) ** 2)


value_and_grad_fn = jax.value_and_grad(loss_fn)


def step(tx, params, state, batches, value_and_grad_fn=value_and_grad_fn):
    first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
    _, grads = value_and_grad_fn(params, first)
    updates, state = tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), state, updates


def run(step, params, state, data):
    """All steps; the parameters, the updates of the last step, the state, and the cosines."""
    cosines, updates = [], None
    for i in range(len(data["x"])):
        params, state, updates = step(params, state, jax.tree.map(lambda x: x[i], data))  # noqa: B023
        cosines.append(float(np.ravel(optax.tree.get(state, "cosine"))[0]))
    return params, updates, state, np.array(cosines)


def on_one_device(tx, data):
    return run(jax.jit(lambda *args: step(tx, *args)), start(), tx.init(start()), data)


def assert_same_run(result, expected):
    params, _, _, cosines = result
    expected_params, _, _, expected_cosines = expected
    assert {True, False} == set(expected_cosines < 0)
    assert_close(cosines, expected_cosines, tolerance=1e-4)
    assert_close(params, expected_params, tolerance=1e-4)


def mesh_of(axis_type):
    return jax.make_mesh((8,), ("x",), axis_types=(axis_type,))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda axis_type: axis_type.name)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_updates_and_state_keep_the_shardings_of_their_parameters(options, axis_type):
    tx = reject_nonfinite(profit(optax.adamw(0.03), optax.sgd(0.02, momentum=0.5), N_REF, **options), 3)
    data = batches_of(6)
    expected = on_one_device(tx, data)
    mesh = mesh_of(axis_type)
    with set_mesh(mesh):
        shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
        params = jax.device_put(start(), shardings)
        state = tx.init(params)
        result = run(jax.jit(lambda *args: step(tx, *args)), params, state, data)
    assert_same_run(result, expected)
    params, updates, after, _ = result
    like_params = [params, updates]
    for kept in (state, after):
        like_params += [optax.tree.get(kept, name) for name in ("mu", "nu", "trace")]
    for tree in like_params:
        for name, leaf in tree.items():
            assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim), name


def test_sharded_parameters_compile_no_more_than_with_adamw_alone():
    mesh = mesh_of(AxisType.Auto)
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    batches = jax.tree.map(lambda x: x[0], batches_of(1))
    compiled = []
    # AdamW ignores the closure and the batches that come with it.
    for tx in (optax.with_extra_args_support(optax.adamw(0.1)), profit(optax.adamw(0.1), optax.sgd(0.1), N_REF)):
        jitted = jax.jit(lambda *args: step(tx, *args))  # noqa: B023
        params = jax.device_put(start(), shardings)
        state = tx.init(params)
        for _ in range(3):
            params, state, _ = jitted(params, state, batches)
        compiled.append(jitted._cache_size())
    assert compiled[1] <= compiled[0]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda axis_type: axis_type.name)
def test_a_sharded_batch_gives_the_result_of_one_device(axis_type):
    tx = profit(optax.adamw(0.03), optax.sgd(0.02), N_REF)
    data = batches_of(6)
    expected = on_one_device(tx, data)
    mesh = mesh_of(axis_type)
    with set_mesh(mesh):
        params = jax.device_put(start(), NamedSharding(mesh, P()))
        sharded = {name: jax.device_put(x, NamedSharding(mesh, P(None, None, "x"))) for name, x in data.items()}
        result = run(jax.jit(lambda *args: step(tx, *args)), params, tx.init(params), sharded)
    assert_same_run(result, expected)


def mean_gradient(params, batch):
    return jax.lax.pmean(value_and_grad_fn(params, batch), "x")


def gradient_of_mean(params, batch):
    return jax.value_and_grad(lambda params: jax.lax.pmean(loss_fn(params, batch), "x"))(params)


@pytest.mark.parametrize(
    ("check_vma", "closure"), [(True, gradient_of_mean), (False, mean_gradient)], ids=["checked", "unchecked"]
)
@pytest.mark.parametrize("options", [{}, {"warmup_steps": 1}], ids=str)
def test_shard_map_over_the_batch_gives_the_result_of_one_device(check_vma, closure, options):
    tx = profit(optax.adamw(0.03), optax.sgd(0.02), N_REF, **options)
    data = batches_of(6)
    sharded_step = jax.jit(
        jax.shard_map(
            lambda params, state, batches: step(tx, params, state, batches, closure),
            mesh=mesh_of(AxisType.Auto),
            in_specs=(P(), P(), P(None, "x")),
            out_specs=P(),
            check_vma=check_vma,
        )
    )
    assert_same_run(run(sharded_step, start(), tx.init(start()), data), on_one_device(tx, data))


def test_pmap_over_the_batch_gives_the_result_of_one_device():
    tx = profit(optax.adamw(0.03), optax.sgd(0.02), N_REF)
    data = batches_of(6)
    mapped = jax.pmap(lambda *args: step(tx, *args, mean_gradient), axis_name="x")
    split = jax.tree.map(lambda x: np.moveaxis(x.reshape(6, N_REF + 1, 8, 2, *x.shape[3:]), 2, 1), data)
    replicate = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 8), tree)  # noqa: E731
    params, updates, state, cosines = run(mapped, replicate(start()), replicate(tx.init(start())), split)
    result = jax.tree.map(lambda x: x[0], params), updates, state, cosines
    assert_same_run(result, on_one_device(tx, data))


# ω = ⟨s⟩ + ⟨r⟩ = −(1 + … + 8)/8 + 2 = −5/2. Summed over the axis as well, the replicated leaf would make it positive.
SHARDED = {"s": jnp.arange(1.0, 9.0) / -8, "r": jnp.array([2.0])}
DELTA = {"s": jnp.ones(8), "r": jnp.ones(1)}


@pytest.mark.parametrize(
    ("check_vma", "axis_name"),
    [
        (False, {"s": "x", "r": None}),
        (False, {"s": ("x",), "r": ()}),
        (True, None),
        (True, {"s": "x", "r": None}),
        (True, "x"),
    ],
    ids=str,
)
def test_parameters_sharded_by_hand_are_summed_over_their_own_axes(check_vma, axis_name):
    specs = {"s": P("x"), "r": P()}
    project = jax.shard_map(
        lambda g, delta: orthogonalize(g, delta, axis_name=axis_name),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(specs, specs),
        out_specs=(specs, P()),
        check_vma=check_vma,
    )
    for scale in (1.0, 1e-30):
        delta = jax.tree.map(lambda x: scale * x, DELTA)  # noqa: B023
        result, metrics = jax.jit(project)(SHARDED, delta)
        expected, expected_metrics = orthogonalize(SHARDED, delta)
        assert metrics.inner_product == pytest.approx(-2.5 * scale)
        assert_close(result, expected, tolerance=8 * EPS)
        assert_close(metrics, expected_metrics, tolerance=8 * EPS)


def test_a_leaf_may_be_sharded_over_two_axes():
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    g = {"xy": jnp.arange(-8.0, 0.0), "x": jnp.arange(4.0) / 8, "r": jnp.ones(1)}
    delta = jax.tree.map(jnp.ones_like, g)
    specs = {"xy": P(("x", "y")), "x": P("x"), "r": P()}
    project = jax.shard_map(
        lambda g, delta: orthogonalize(g, delta, axis_name={"xy": ("x", "y"), "x": "x", "r": None}),
        mesh=mesh,
        in_specs=(specs, specs),
        out_specs=(specs, P()),
        check_vma=False,
    )
    assert_close(jax.jit(project)(g, delta), orthogonalize(g, delta), tolerance=8 * EPS)


@pytest.mark.parametrize(("check_vma", "axis_name"), [(True, None), (False, {"s": "x", "r": None})], ids=str)
def test_the_closure_form_trains_parameters_sharded_by_hand(check_vma, axis_name):
    specs = {"s": P("x"), "r": P()}
    given = lambda params, batch: (0.0, batch)  # noqa: E731

    def update(grads, batches, axis_name):
        tx = profit(optax.sgd(1.0), optax.sgd(1e-9), axis_name=axis_name)
        updates, state = tx.update(grads, tx.init(grads), grads, value_and_grad_fn=given, batches=batches)
        return updates, state.metrics

    mapped = jax.shard_map(
        lambda grads, batches: update(grads, batches, axis_name),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(specs, {"s": P(None, "x"), "r": P()}),
        out_specs=(specs, P()),
        check_vma=check_vma,
    )
    grads, batches = DELTA, jax.tree.map(lambda x: -x[None], SHARDED)
    updates, metrics = jax.jit(mapped)(grads, batches)
    expected, expected_metrics = update(grads, batches, None)
    assert metrics.conflict
    assert_close(updates, expected, tolerance=8 * EPS)
    assert_close(metrics, expected_metrics, tolerance=8 * EPS)
