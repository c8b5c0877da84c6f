"""Leaves that stay as they are: those that a mask leaves out, and those that come without a gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from profit_optax import _checks


class Trained(NamedTuple):
    """What is trained: trees in which frozen leaves are `optax.MaskedNode`, and None where there is no gradient.

    Attributes:
      grads: the gradients.
      params: the parameters beside them.
    """

    grads: chex.ArrayTree
    params: chex.ArrayTree


def prune(mask: Any, params: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
    """`tree`, which is like `params`, with `optax.MaskedNode` for every leaf that `mask` leaves out."""
    if mask is None:
        return tree
    mask = mask(params) if callable(mask) else mask
    _checks.check_mask(mask, tree)

    def keep(trained: Any, subtree: chex.ArrayTree) -> chex.ArrayTree:
        # Leaf by leaf, so that prefixes that end deeper, such as axis_name's or another mask, still fit.
        return subtree if trained else jax.tree.map(lambda _: optax.MaskedNode(), subtree)

    return jax.tree.map(keep, mask, tree)


def trained(
    mask: Any,
    grads: chex.ArrayTree,
    params: chex.ArrayTree,
    init: Callable[[chex.ArrayTree], chex.ArrayTree],
    state: chex.ArrayTree,
) -> Trained:
    """The trained part of gradients and parameters, or the error that says what does not fit.

    Args:
      mask: which leaves are trained.
      grads: the gradients.
      params: the parameters.
      init: makes the states of the inner optimizers.
      state: these states, which tell what they were made for.
    """
    _checks.check_grads("grads", grads)
    _checks.check_same_tree("grads", grads, "params", params, missing_leaves=True)
    pruned = prune(mask, params, grads)
    part = Trained(pruned, restrict(params, pruned))
    _checks.check_inexact("grads", part.grads, "params", part.params)
    _checks.check_complex_alike("grads", part.grads, "params", part.params)
    made_for: Any = jax.tree.structure(state)
    missing = any(x is None for x in jax.tree.leaves(pruned, is_leaf=_is_empty))
    if missing and made_for != jax.tree.structure(jax.eval_shape(init, part.params)):
        # It was made for leaves without a gradient, too: these have one of 0. Functions, which models hold, do not.
        whole = jax.tree.map(lambda p: p if hasattr(p, "dtype") else None, prune(mask, params, params))
        part = Trained(zeros_for_missing(pruned, whole), whole)
    # Arrays of definite dtypes: a weakly typed loop carry would trace the model twice.
    return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x)), part)


def restrict(tree: chex.ArrayTree, part: chex.ArrayTree) -> chex.ArrayTree:
    """`tree` without the leaves that `part` does not have."""
    return jax.tree.map(lambda x, y: x if _is_empty(x) else y, part, tree, is_leaf=_is_empty)


def fill(part: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
    """`part` with the leaves of `tree` where it has none."""
    return jax.tree.map(lambda x, y: y if _is_empty(x) else x, part, tree, is_leaf=_is_empty)


def zeros_for_missing(grads: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """`grads` as arrays, with zeros for every leaf of `like` that has None beside it."""

    def fill_in(grad: Any, leaves: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, leaves) if grad is None else jnp.asarray(grad)

    return jax.tree.map(fill_in, grads, like, is_leaf=lambda x: x is None)


def whole_updates(updates: chex.ArrayTree, grads: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    """The updates of all leaves: those of masked ones leave every bit as it is."""
    return jax.tree.map(
        lambda u, g, p: _no_update(g, p) if g is None or isinstance(u, optax.MaskedNode) else u,
        updates,
        grads,
        params,
        is_leaf=_is_empty,
    )


def _no_update(grad: Any, param: Any) -> Any:
    if _is_empty(grad):
        return grad
    dtype = jnp.result_type(grad) if jnp.issubdtype(jnp.result_type(grad), jnp.inexact) else jnp.result_type(param)
    return jnp.full_like(param, no_change(dtype), dtype=dtype)


def no_change(dtype: Any) -> Any:
    """What changes no bit of what it is added to: 0 would turn -0 into 0, in one part of a complex number, too."""
    zero = np.zeros((), dtype)
    return -zero if jnp.issubdtype(dtype, jnp.inexact) else zero


def _is_empty(x: Any) -> bool:
    return x is None or isinstance(x, optax.MaskedNode)
