"""`reject_nonfinite` with parameters sharded by hand: all devices decide together, independent models alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from profit_optax import profit, reject_nonfinite
from tests.tuning import mesh_of

DEVICES = 8
EPS = float(jnp.finfo(jnp.float32).eps)
# At most one in a row is dropped. A step of "c" is broken where every device has all of the leaf.
STEPS = ("w", "fine", "w", "w", "fine", "c")
SPECS = {"w": P("model"), "c": P()}
CASES = {
    "tracked": (True, None),
    "tracked and named": (True, {"w": "model", "c": None}),
    "named": (False, {"w": "model", "c": None}),
    "named by tuples": (False, {"w": ("model",), "c": ()}),
}


def params():
    return {"w": jnp.arange(1.0, 17.0), "c": jnp.ones(2)}


def gradients():
    """One a step. Where one is broken, it is finite by itself: the update that is made of it overflows."""
    steps = []
    for broken in STEPS:
        grads = {"w": np.ones(16, np.float32), "c": np.ones(2, np.float32)}
        if broken != "fine":
            grads[broken][-1] = 1e10
        steps.append(grads)
    return steps


def made(axis_name):
    # The projection poisons every leaf for what is not finite in front of it. This is not finite behind it.
    overflowing = optax.chain(optax.trace(1e-3), optax.scale(-1e30))
    return reject_nonfinite(profit(overflowing, optax.sgd(1e-3), axis_name=axis_name), 1, axis_name=axis_name)


def call(tx, grads, state, params):
    """A step, and the counters as a row [1, 3] of this device."""
    closure = lambda params, batch: (0.0, batch)  # noqa: E731
    # Against the first gradient, and so along the displacement: nothing is projected away.
    others = jax.tree.map(lambda g: -g[None], grads)
    updates, state = tx.update(grads, state, params, value_and_grad_fn=closure, batches=others)
    counters = jnp.stack([state.notfinite_count, state.last_finite.astype(jnp.int32), state.total_notfinite])
    return updates, state, counters[None]


def spec_of(path, _):
    names = [key.key for key in path if getattr(key, "key", None) in SPECS]
    return SPECS[names[-1]] if names else P()


@pytest.mark.parametrize("case", CASES)
def test_where_one_shard_overflows_no_device_takes_the_step_and_all_count_it(case):
    check_vma, axis_name = CASES[case]
    alone, tx = made(None), made(axis_name)
    specs = jax.tree.map_with_path(spec_of, alone.init(params()))
    sharded = jax.jit(
        jax.shard_map(
            lambda *arguments: call(tx, *arguments),
            mesh=mesh_of((DEVICES,), ("model",)),
            in_specs=(SPECS, specs, SPECS),
            out_specs=(SPECS, specs, P("model")),
            check_vma=check_vma,
        )
    )
    state = expected_state = alone.init(params())
    seen = []
    for grads in gradients():
        updates, state, counters = sharded(grads, state, params())
        expected, expected_state, expected_counters = call(alone, grads, expected_state, params())
        np.testing.assert_array_equal(counters, np.broadcast_to(expected_counters, (DEVICES, 3)))
        close = lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS)  # noqa: E731
        jax.tree.map(close, (updates, state), (expected, expected_state))
        dropped = all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(updates))
        seen.append((dropped, *counters[0].tolist()))
    assert seen == [
        (True, 1, 0, 1), (False, 0, 1, 1), (True, 1, 0, 2), (False, 2, 0, 3), (False, 0, 1, 3), (True, 1, 0, 4),
    ]  # fmt: skip


@pytest.mark.parametrize("check_vma", [True, False])
def test_independent_models_along_an_axis_each_decide_for_themselves(check_vma):
    tx = reject_nonfinite(optax.adam(0.1), 1, axis_name=())
    params = jnp.arange(1.0, 1.0 + 3 * DEVICES).reshape(DEVICES, 3)
    state = jax.vmap(tx.init)(params)

    def update(grads, state, params):
        return jax.tree.map(lambda x: x[None], tx.update(*jax.tree.map(lambda x: x[0], (grads, state, params))))

    of_each = jax.jit(
        jax.shard_map(
            update,
            mesh=mesh_of((DEVICES,), ("seed",)),
            in_specs=P("seed"),
            out_specs=P("seed"),
            check_vma=check_vma,
        )
    )
    grads = jnp.ones((DEVICES, 3)).at[2, 1].set(jnp.inf)
    updates, after = of_each(grads, state, params)
    expected, expected_after = jax.vmap(tx.update)(grads, state, params)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=8 * EPS), (updates, after), (expected, expected_after)
    )
    assert after.total_notfinite.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert np.all(updates[2] == 0)


@pytest.mark.parametrize("check_vma", [True, False])
def test_independent_models_along_an_axis_may_scan_their_steps(check_vma):
    tx = reject_nonfinite(optax.sgd(0.1), 5, axis_name=())
    grads = jnp.ones((DEVICES, 4, 3)).at[2, 1, 0].set(jnp.nan)

    def train(params, grads):
        def step(carry, grads):
            params, state = carry
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params[0], tx.init(params[0])), grads[0])
        return params[None], state.total_notfinite[None]

    mesh = mesh_of((DEVICES,), ("seed",))
    of_each = jax.jit(jax.shard_map(train, mesh=mesh, in_specs=P("seed"), out_specs=P("seed"), check_vma=check_vma))
    params, dropped = of_each(jnp.ones((DEVICES, 3)), grads)
    assert dropped.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(params[:, 0], [0.6, 0.6, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6], rtol=8 * EPS)


def test_an_axis_that_is_not_bound_is_an_error():
    with pytest.raises(ValueError, match="axis_name='modle' is not bound here"):
        call(made("modle"), gradients()[0], made(None).init(params()), params())
