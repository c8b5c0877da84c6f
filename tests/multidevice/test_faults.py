"""A number that is not finite on one device, at every place: all devices drop the step, and the run goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import orthogonalize_to_previous, profit, profit_transparent, reject_nonfinite
from tests.forms import assert_same

DEVICES, N_REF = 8, 2
MAIN, REFERENCE = optax.adamw(0.1), optax.sgd(1e-3, momentum=0.5)
GUARDED = {
    "closure": (reject_nonfinite(profit(MAIN, REFERENCE, N_REF), 1), N_REF + 1),
    "transparent": (reject_nonfinite(profit_transparent(MAIN, REFERENCE, N_REF), 1), 1),
    "one line": (reject_nonfinite(optax.chain(orthogonalize_to_previous(0.5), MAIN), 1), 1),
    "by Optax": (optax.apply_if_finite(profit_transparent(MAIN, REFERENCE, N_REF), 1), 1),
}


def on_mesh(tree, axis_type):
    mesh = jax.make_mesh((DEVICES,), ("x",), axis_types=(axis_type,))
    split = lambda x: NamedSharding(mesh, P(*[None] * (x.ndim - 1), "x") if x.ndim and x.shape[-1] == DEVICES else P())  # noqa: E731
    return jax.tree.map(lambda x: jax.device_put(x, split(x)), tree)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", GUARDED)
def test_where_one_device_has_a_number_that_is_not_finite_all_drop_the_step(name, axis_type):
    tx, count = GUARDED[name]
    rng = np.random.default_rng(0)
    draw = lambda *axes: {  # noqa: E731
        "w": rng.normal(size=(*axes, 2, DEVICES)).astype(np.float32), "b": rng.normal(size=axes).astype(np.float32)
    }  # fmt: skip

    @jax.jit
    def call(params, state, row):
        others = jax.tree.map(lambda x: x[1:], row)
        extra = {"value_and_grad_fn": lambda _, batch: (0.0, batch), "batches": others} if count > 1 else {}
        updates, state = tx.update(jax.tree.map(lambda x: x[0], row), state, params, **extra)
        return optax.apply_updates(params, updates), state

    params = on_mesh(jax.tree.map(jnp.asarray, draw()), axis_type)
    state, rows = tx.init(params), [draw(count) for _ in range(3)]
    expected = call(*call(params, state, on_mesh(rows[0], axis_type)), on_mesh(rows[2], axis_type))
    for which, device in [(which, device) for which in range(count) for device in (0, 3, DEVICES - 1)]:
        broken = jax.tree.map(np.copy, rows[1])
        broken["w"][which, 1, device] = (np.nan, np.inf, -np.inf)[(which + device) % 3]
        before = call(params, state, on_mesh(rows[0], axis_type))
        after = call(*before, on_mesh(broken, axis_type))
        assert_same(after[0], before[0])
        assert_same(after[1].inner_state, before[1].inner_state)
        assert int(after[1].total_notfinite) == 1
        shardings = lambda tree: jax.tree.map(lambda x: x.sharding.spec, tree)  # noqa: E731
        assert shardings(after[0]) == shardings(params)
        end = call(*after, on_mesh(rows[2], axis_type))
        assert_same(end[0], expected[0])
        assert_same(end[1].inner_state, expected[1].inner_state)
