"""The steps of Algorithm 1 as pure functions, shared by every form of PROFIT.

With θ kept aside, Δ starts at 0 and n_ref times Δ ← Δ + O_ref(g), where g is the gradient at θ + Δ. The projection of
the last g (`_projection`) and the main optimizer's step at θ follow.

Δ is the sum of the reference updates. The difference θ' − θ of line 7 is the same in exact arithmetic, but where the
reference rate is small, rounding θ' loses most of it.
"""

from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

T = TypeVar("T")


def displace(params: chex.ArrayTree, displacement: chex.ArrayTree) -> chex.ArrayTree:
    """θ + Δ, rounded to the dtypes of the parameters."""
    return optax.apply_updates(params, displacement)


def extend(displacement: chex.ArrayTree, reference_updates: chex.ArrayTree) -> chex.ArrayTree:
    """Δ + u, rounded to the dtype in which Δ is kept: what is rounded is what is applied and projected against."""
    return optax.apply_updates(displacement, reference_updates)


def zero_displacement(
    reference_optimizer: optax.GradientTransformation,
    grads: chex.ArrayTree,
    reference_state: optax.OptState,
    params: chex.ArrayTree,
    dtype: jnp.dtype | None,
) -> chex.ArrayTree:
    """Δ = 0, in `dtype` or else in the dtypes of the reference optimizer's updates, and sharded like `params`."""
    updates, _ = jax.eval_shape(reference_optimizer.update, grads, reference_state, params)
    return jax.tree.map(lambda p, u: jnp.zeros_like(p, dtype=displacement_dtype(u.dtype, dtype)), params, updates)


def difference(displaced: chex.ArrayTree, params: chex.ArrayTree, dtype: jnp.dtype | None) -> chex.ArrayTree:
    """θ' − θ, in `dtype` or else in the dtypes of the parameters."""

    def subtract(p: jax.Array, q: jax.Array) -> jax.Array:
        target = displacement_dtype(q.dtype, dtype)
        wide = jnp.promote_types(q.dtype, target)
        return (p.astype(wide) - q.astype(wide)).astype(target)

    return jax.tree.map(subtract, displaced, params)


def displacement_dtype(update_dtype: jnp.dtype, dtype: jnp.dtype | None) -> jnp.dtype:
    """The dtype in which Δ is kept where the reference updates have `update_dtype` and `dtype` was asked for."""
    if dtype is None:
        return update_dtype
    return jnp.result_type(dtype, jnp.complex64) if jnp.issubdtype(update_dtype, jnp.complexfloating) else dtype


def after_warmup(count: jax.Array, warmup_steps: int, main_alone: Callable[[], T], profit: Callable[[], T]) -> T:
    """`main_alone()` for the first `warmup_steps` steps, then `profit()`; without a warm-up no branch is compiled."""
    if warmup_steps == 0:
        return profit()
    return lax.cond(count < warmup_steps, main_alone, profit)


def strong_arrays(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The leaves as arrays of a definite dtype: a weakly typed loop carry would trace the model twice."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x)), tree)
