"""Which devices belong to one model: independent models over a mesh axis, and states that are sharded by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import _axes, _projection, orthogonalize, orthogonalize_to_previous, profit, profit_transparent
from tests.multidevice.meshes import set_mesh

GRADIENTS = jnp.array([[-3.0, 1.0], [5.0, 1.0]])
DISPLACEMENTS = jnp.array([[2.0, 0.0], [2.0, 0.0]])


def over_seeds(function, check_vma):
    mesh = jax.make_mesh((2,), ("seed",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P("seed"), out_specs=P("seed"), check_vma=check_vma))


@pytest.mark.parametrize("check_vma", [True, False])
def test_independent_models_along_an_axis_stay_so(check_vma):
    alone = over_seeds(lambda g, d: orthogonalize(g, d, axis_name=())[0], check_vma)(GRADIENTS, DISPLACEMENTS)
    np.testing.assert_array_equal(alone, [[0.0, 1.0], [5.0, 1.0]])
    # Shards of one model: ω = -6 + 10.
    axis_name = None if check_vma else "seed"
    together = over_seeds(lambda g, d: orthogonalize(g, d, axis_name=axis_name)[0], check_vma)(GRADIENTS, DISPLACEMENTS)
    np.testing.assert_array_equal(together, GRADIENTS)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("make", [profit, profit_transparent])
def test_an_ensemble_over_an_axis_is_trained_as_each_member_alone(make, check_vma):
    tx = make(optax.sgd(0.5), optax.sgd(0.25), axis_name=())

    def train(params, batches):
        state = tx.init(params)
        for batch in batches[0]:
            value_and_grad_fn = jax.value_and_grad(lambda p, b: jnp.sum(jnp.sin(p * b)))
            _, grads = value_and_grad_fn(params, batch)
            closure = {"value_and_grad_fn": value_and_grad_fn, "batches": batch[None] + 1} if make is profit else {}
            updates, state = tx.update(grads, state, params, **closure)
            params = optax.apply_updates(params, updates)
        return params

    params = jnp.array([[0.3, 0.2], [-1.0, 2.0]])
    batches = jnp.array([[1.0, 2.0, 0.5, -1.0], [2.0, -1.0, 3.0, 1.5]])
    found = over_seeds(train, check_vma)(params, batches)
    expected = [train(params[i : i + 1], batches[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("exponent", [-52, -49])
def test_squares_that_may_have_been_flushed_are_counted_on_all_devices(exponent):
    # 32 numbers on four devices: the bound is 32 · 2⁻¹⁰³, and that of the numbers of a device a quarter of it.
    def conflict(g):
        return _projection.project(g, -jnp.ones_like(g), axis_name=None, scale=1.0)[1].conflict

    mesh = jax.make_mesh((4,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
    found = jax.shard_map(conflict, mesh=mesh, in_specs=P("model"), out_specs=P())(jnp.full(32, 2.0**exponent))
    assert bool(found) == (exponent == -49)


def test_one_of_gradient_and_displacement_that_varies_is_enough():
    # The displacement is the same on both devices, and yet each has a shard of the gradient alone.
    def project(g, d):
        return orthogonalize(g, d)[1].inner_product

    mesh = jax.make_mesh((2,), ("seed",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    omega = jax.shard_map(project, mesh=mesh, in_specs=(P("seed"), P()), out_specs=P())(GRADIENTS, DISPLACEMENTS[:1])
    assert float(omega) == -6 + 10


def test_all_processes_name_axes_in_one_order(monkeypatch):
    # Sets of strings have another order in every process, and all processes have to compile one program.
    axes, seen = frozenset([1, *"hgfedcba"]), []
    monkeypatch.setattr(_axes, "_varying_axes", lambda x: axes)
    monkeypatch.setattr(_axes, "_varying", lambda x, names: seen.append(names))
    monkeypatch.setattr(_axes, "is_tracked", lambda axis, remedy: True)
    _axes.like_sums(jnp.zeros(()), (), jnp.ones(2))
    assert _axes.leaf_axes(None, jnp.ones(2)) == seen == [(1, *"abcdefgh")]
    assert _axes.leaf_axes(tuple("hgfedcba"), jnp.ones(2)) == [tuple("abcdefgh")]


def test_a_tuple_of_tuples_names_the_axes_of_a_tuple_of_leaves():
    def axes(x):
        assert _axes.leaf_axes((("a",), ("b",)), (x, x)) == [("a",), ("b",)]
        return x

    jax.vmap(jax.vmap(axes, axis_name="b"), axis_name="a")(jnp.ones((2, 3)))


def test_the_state_of_sharded_parameters_keeps_its_types_along_a_scan():
    tx = profit(optax.sgd(0.5), optax.sgd(0.25))
    value_and_grad_fn = jax.value_and_grad(lambda p, b: jnp.sum(jnp.sin(p * b)))

    def train(params, batches):
        def step(carry, batch):
            params, state = carry
            _, grads = value_and_grad_fn(params, batch)
            updates, state = tx.update(
                grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=1 + batch[None]
            )
            return (optax.apply_updates(params, updates), state), state.metrics.gradient_norm

        return jax.lax.scan(step, (params, tx.init(params)), batches)[1]

    params, batches = jnp.array([0.3, 0.2, -1.0, 2.0]), jnp.array([1.0, 2.0, 0.5])
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    norms = jax.shard_map(train, mesh=mesh, in_specs=(P("model"), P()), out_specs=P())(params, batches)
    np.testing.assert_allclose(norms, train(params, batches), rtol=1e-5)


FORMS = {
    "momentum reference": lambda: profit(optax.adam(0.1), optax.sgd(0.01, momentum=0.9), 2),
    "loop": lambda: profit(optax.adam(0.1), optax.sgd(0.01, momentum=0.9), 2, unroll=False),
    "subtract": lambda: profit(optax.adam(0.1), optax.sgd(0.01, momentum=0.9), 2, displacement="subtract"),
    "warm-up": lambda: profit(optax.adam(0.1), optax.sgd(0.01), 2, warmup_steps=1),
    "transparent": lambda: profit_transparent(optax.adam(0.1), optax.sgd(0.01, momentum=0.9), 2, warmup_steps=1),
    "reset": lambda: profit(
        optax.adam(0.1), optax.sgd(0.01, momentum=0.9), 2, warmup_steps=1, reset_reference_state=True
    ),
    "transparent, reset": lambda: profit_transparent(
        optax.adam(0.1), optax.sgd(0.01, momentum=0.9), 2, reset_reference_state=True
    ),
    "one line": lambda: optax.chain(orthogonalize_to_previous(), optax.adam(0.1)),
    "average": lambda: optax.chain(orthogonalize_to_previous(0.5), optax.adam(0.1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_state_that_is_sharded_beside_replicated_parameters_on_an_explicit_mesh(form):
    start, tx = {"w": jnp.linspace(-1.0, 1.0, 16).reshape(8, 2), "v": jnp.ones(16)}, FORMS[form]()
    batches = jnp.linspace(0.5, 2.0, 3 * 4).reshape(4, 3)

    def value_and_grad_fn(params, scale):
        return jax.value_and_grad(lambda p: jnp.sum(jnp.sin(scale * p["w"])) + jnp.sum(p["v"] ** 2))(params)

    def run(put, put_state):
        params = jax.tree.map(put, start)
        state = jax.tree.map(put_state, tx.init(params))
        held = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, state)

        @jax.jit
        def step(params, state, scales):
            _, grads = value_and_grad_fn(params, scales[0])
            extra = {"value_and_grad_fn": value_and_grad_fn, "batches": scales[1:]} if "transparent" not in form else {}
            updates, state = optax.with_extra_args_support(tx).update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        for scales in batches:
            params, state = step(params, state, scales)
        return params, jax.tree.map(lambda x: jax.typeof(x).sharding.spec, state) == held

    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    with set_mesh(mesh):
        sharded = lambda x: P("d") if x.ndim and x.shape[0] % 8 == 0 else P()  # noqa: E731
        found, kept = run(
            lambda x: jax.device_put(x, NamedSharding(mesh, P())),
            lambda x: jax.device_put(x, NamedSharding(mesh, sharded(x))),
        )
    assert kept
    expected, _ = run(jnp.asarray, jnp.asarray)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), found, expected)
