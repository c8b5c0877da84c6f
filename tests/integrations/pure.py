"""NNX states without their variables, in every version of Flax."""

import jax
from flax import nnx


def as_pure(tree):
    return jax.tree.map(
        lambda x: x[...] if isinstance(x, nnx.Variable) else x, tree, is_leaf=lambda x: isinstance(x, nnx.Variable)
    )
