"""Random trees in random pieces over eight devices: a step is that of one device, and everything stays where it was."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import profit, profit_transparent
from tests import trees
from tests.steps import EPS

N_REF = 2
# Each shape in pieces over the last axis, over the first one, and whole.
SHAPES = ((8,), (8, 8), (2, 8), ())
SPECS = {(8,): (P("x"), P()), (8, 8): (P("x"), P(None, "x"), P()), (2, 8): (P(None, "x"), P()), (): (P(),)}
# Few trees, so that few programs are compiled, and any numbers in them.
TREES = trees.specs(shapes=SHAPES, dtypes=("float32", "bfloat16"), nothing=(None,)).filter(jax.tree.leaves)


def steps_of(make):
    tx = make(optax.sgd(0.25, momentum=0.5), optax.sgd(2.0**-20, momentum=0.5), N_REF)

    def update(gradients, state, params):
        if make is profit:
            batches = jax.tree.map(lambda *x: jnp.stack(x), *gradients[1:])
            closure = {"value_and_grad_fn": lambda _, batch: (0.0, batch), "batches": batches}
            return tx.update(gradients[0], state, params, **closure)
        for grads in gradients[:-1]:
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return tx.update(gradients[-1], state, params)

    return tx, jax.jit(update)


@functools.cache
def mesh_of(axis_type):
    return jax.make_mesh((8,), ("x",), axis_types=(axis_type,))


# Every example compiles: a failure is shown as it is found, and not made smaller first.
@hypothesis.settings(
    max_examples=hypothesis.settings().max_examples // 12, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
@hypothesis.given(
    TREES,
    st.integers(0, 2**32 - 1),
    st.randoms(use_true_random=False),
    st.sampled_from((AxisType.Auto, AxisType.Explicit)),
    st.sampled_from((profit, profit_transparent)),
)
def test_a_step_on_pieces_is_that_on_one_device_and_keeps_them(spec, seed, random, axis_type, make):
    specs = jax.tree.map(lambda x: random.choice(SPECS[x.shape]), spec)
    place = lambda tree: jax.tree.map(lambda x, p: jax.device_put(x, NamedSharding(mesh_of(axis_type), p)), tree, specs)  # noqa: E731
    params, *gradients = (trees.numbers(spec, seed + i) for i in range(N_REF + 2))
    tx, update = steps_of(make)
    expected, of_expected = update(gradients, tx.init(params), params)
    state = tx.init(place(params))
    updates, after = update([place(g) for g in gradients], state, place(params))
    before = jax.tree.leaves((place(params), state))
    for x, like in zip(jax.tree.leaves((updates, after)), before, strict=True):
        assert x.sharding.is_equivalent_to(like.sharding, x.ndim) or not x.ndim
    assert trees.description((updates, after)) == trees.description((expected, of_expected))
    near = 64 * EPS + 4 * trees.eps(params) * max(1, trees.norm(params))
    trees.assert_near(jax.tree.map(np.asarray, updates), expected, near)
    trees.assert_near(jax.tree.map(np.asarray, after.metrics), of_expected.metrics, 1e-5 * (1 + trees.norm(gradients)))
