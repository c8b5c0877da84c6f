"""A guard around a whole optimizer that drops the steps whose updates are not finite."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax import _axes, _checks, _cycle, _extra_args, _masking


class RejectNonfiniteState(NamedTuple):
    """State of the transformation returned by `reject_nonfinite`.

    Attributes:
      notfinite_count: non-finite updates in a row; a finite one sets it to 0.
      last_finite: whether the last update was finite.
      total_notfinite: non-finite updates since `init`.
      inner_state: state of the wrapped optimizer.
    """

    notfinite_count: jax.Array
    last_finite: jax.Array
    total_notfinite: jax.Array
    inner_state: optax.OptState


def reject_nonfinite(
    inner: optax.GradientTransformation, max_consecutive_errors: int, *, axis_name: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Drops a step whose update comes out non-finite: zero update, state as it was before.

    `optax.apply_if_finite` looks at the gradients that come in. Around `profit` these are the ones of the first batch
    only, and a NaN that arises inside would get through. This wrapper looks at what comes out.

    Args:
      inner: the optimizer to wrap, such as `profit(...)`.
      max_consecutive_errors: how many non-finite updates in a row are dropped, at least 0. The next one after them is
        let through, so that a broken run is seen to be broken.
      axis_name: as in `profit`: inside `shard_map` or `pmap`, the mesh axes over which *parameters* are sharded by
        hand. All devices along them decide together. Under `check_vma=True` the types of the updates decide, and
        nothing need be given; `()` lets every device decide for itself, as independent models want it.

    Returns:
      A `GradientTransformationExtraArgs` that hands extra arguments on. Its state counts what was dropped. Choosing
      between the old state and the new one keeps both in memory until the update is known.

    Raises:
      TypeError: if `inner` is no optimizer, `max_consecutive_errors` no int, or `axis_name` has a leaf that is no name.
      ValueError: if `max_consecutive_errors` is negative and, when `update` is called, for another optimizer's state.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from profit_optax import reject_nonfinite
      >>> tx = reject_nonfinite(optax.sgd(1.0), max_consecutive_errors=3)
      >>> params = {"w": jnp.ones(2)}
      >>> state = tx.init(params)
      >>> updates, state = tx.update({"w": jnp.array([1.0, jnp.nan])}, state, params)
      >>> optax.apply_updates(params, updates)["w"].tolist(), int(state.total_notfinite)
      ([1.0, 1.0], 1)

    References:
      This project's own; the counters are those of `optax.apply_if_finite`.
    """
    _checks.check_optimizer("inner", inner)
    _checks.check_count("max_consecutive_errors", max_consecutive_errors, minimum=0)
    _checks.check_axis_name(axis_name)
    update_inner = _extra_args.with_extra_args(inner)

    def init_fn(params: chex.ArrayTree) -> RejectNonfiniteState:
        # Of the type that decisions about these leaves have: one for each of independent models.
        like_decision = functools.partial(_axes.like_sums, axis_name=axis_name, tree=params)
        return RejectNonfiniteState(
            notfinite_count=like_decision(jnp.zeros((), jnp.int32)),
            last_finite=like_decision(jnp.ones((), jnp.bool_)),
            total_notfinite=like_decision(jnp.zeros((), jnp.int32)),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: chex.ArrayTree,
        state: RejectNonfiniteState,
        params: chex.ArrayTree | None = None,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, RejectNonfiniteState]:
        _checks.check_state("reject_nonfinite", state, RejectNonfiniteState)
        updates, inner_state = update_inner(updates, state.inner_state, params, **extra_args)
        bad = [jnp.any(~jnp.isfinite(x)).astype(jnp.float32) for x in jax.tree.leaves(updates)]
        finite = _axes.max_leaves(bad, _axes.leaf_axes(axis_name, updates), jnp.zeros(())) == 0
        in_a_row = jnp.where(finite, 0, optax.safe_increment(state.notfinite_count))
        accept = finite | (in_a_row > max_consecutive_errors)
        return (
            jax.tree.map(lambda u: jnp.where(accept, u, _masking.no_change(u.dtype)), updates),
            RejectNonfiniteState(
                notfinite_count=in_a_row,
                last_finite=finite,
                total_notfinite=jnp.where(finite, state.total_notfinite, optax.safe_increment(state.total_notfinite)),
                inner_state=_cycle.select(accept, inner_state, state.inner_state),
            ),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
