"""Gradients that no optimizer reads, such as those of frozen leaves."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.extend.core import Literal


def zero_unread(grads: chex.ArrayTree, *updates: Callable[[chex.ArrayTree], Any]) -> chex.ArrayTree:
    """`grads` with zeros for the leaves that none of `updates` reads.

    A leaf that `optax.set_to_zero` freezes in every optimizer counts in no norm then, and XLA drops the work of
    computing its gradient.

    Args:
      grads: a pytree of arrays.
      *updates: functions of such a pytree. A later one is looked at only for what the earlier ones leave unread.
    """
    unread = [True] * len(jax.tree.leaves(grads))
    for update in updates:
        if any(unread):
            unread = [a and b for a, b in zip(unread, _unread(update, grads), strict=True)]
    unread_tree = jax.tree.unflatten(jax.tree.structure(grads), unread)
    return jax.tree.map(lambda g, alone: jnp.zeros_like(g) if alone else g, grads, unread_tree)


def _unread(update: Callable[[chex.ArrayTree], Any], grads: chex.ArrayTree) -> list[bool]:
    """Which leaves no output of `update(grads)` depends on. A nested program counts as reading all that it is given."""
    jaxpr = jax.make_jaxpr(update)(grads).jaxpr
    read = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not read.isdisjoint(equation.outvars):
            read.update(v for v in equation.invars if not isinstance(v, Literal))
    return [v not in read for v in jaxpr.invars]
