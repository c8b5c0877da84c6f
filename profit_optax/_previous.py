"""PROFIT as one line of a chain, this project's own: each gradient made orthogonal to the one before."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from profit_optax import _checks, _cycle, _masking, _projection


class OrthogonalizeToPreviousState(NamedTuple):
    """State of the transformation returned by `orthogonalize_to_previous`.

    Attributes:
      count: how many steps were taken, warm-up included (int32, saturating).
      previous: the gradient before, or the moving average of the gradients, as they came; zeros before the first step.
        A leaf that comes without a gradient counts as one of 0.
      metrics: what the projection of the last step saw, where Δ is minus `previous`.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of this name; Optax's states do the same
    previous: chex.ArrayTree
    metrics: _projection.ProfitMetrics


def orthogonalize_to_previous(
    decay: optax.ScalarOrSchedule = 0.0,
    *,
    warmup_steps: int = 0,
    dtype: Any = None,
    mask: Any = None,
    axis_name: Any = None,
) -> optax.GradientTransformation:
    """PROFIT without displaced weights, at one gradient a step: put it before any optimizer of a chain.

    Where a gradient agrees with the one before, the part along it is removed, as PROFIT removes it after a reference
    step along that one. That is the limit of PROFIT for a small reference rate, with the previous step's gradient in
    place of one more at the same weights. Nothing is displaced and nothing need be restored: parameters, evaluation
    and checkpoints are what they are with any other optimizer.

    Args:
      decay: how much of the memory is kept, in [0, 1): a number, or a schedule of steps. 0 remembers the last gradient;
        more, a moving average of the gradients, decay · memory + (1 − decay) · gradient.
      warmup_steps: for that many first steps gradients pass as they are, and the memory follows.
      dtype: dtype of the memory, such as `"bfloat16"`; None for that of the parameters given to `init`: for gradients
        wider than these name it here. A complex leaf takes the matching complex dtype.
      mask: which leaves take part, as in `profit`. The others have no memory, count in nothing, and get updates of 0.
      axis_name: as in `profit`.

    Returns:
      A `GradientTransformation` of gradients, which needs no parameters and keeps their dtypes. Its state, an
      `OrthogonalizeToPreviousState`, holds one copy of the gradients.

    Raises:
      TypeError: for arguments of a wrong type and, when `update` is traced, for integer or bool leaves.
      ValueError: for arguments out of range, and for gradients of another tree or shape than `init` was given.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from profit_optax import orthogonalize_to_previous
      >>> tx = optax.chain(orthogonalize_to_previous(), optax.adamw(1e-2))
      >>> params = jnp.array([2.0, 1.0])
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     grads = jax.grad(lambda p: jnp.sum(jnp.array([1.0, 2.0]) * p**2))(params)
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(optax.tree.get(state, "conflict"))
      True

    References:
      This project's own limit of Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS
      2025. With m the memory, from m = 0: the update is `orthogonalize(g, -m)`, then m ← decay · m + (1 − decay) · g.

    .. note::
      Place it first in a chain: what precedes it changes the gradients that it compares, and clipping belongs behind
      it. Weight decay in the same chain still moves leaves that `mask` leaves out: freeze these in the whole chain.
      A gradient that is not finite makes every update of its step NaN and no other: an average leaves it out, and with
      a decay of 0 the next gradient passes as the first one does. `optax.apply_if_finite` around the whole chain drops
      such steps. It is not to be combined with `profit` or `profit_transparent`, which project already.
    """
    _checks.check_decay("decay", decay)
    warmup_steps = _checks.check_count("warmup_steps", warmup_steps, minimum=0)
    dtype = _checks.check_dtype("dtype", dtype)
    _checks.check_axis_name(axis_name)
    keeps_average = callable(decay) or isinstance(decay, jax.Array) or decay != 0

    def init_fn(params: chex.ArrayTree) -> OrthogonalizeToPreviousState:
        params = _masking.prune(mask, params, params)
        return OrthogonalizeToPreviousState(
            count=jnp.zeros((), jnp.int32),
            previous=jax.tree.map(
                lambda p: jnp.zeros_like(p, dtype=_cycle.kept_dtype(jnp.result_type(p), dtype)), params
            ),
            metrics=_projection.zero_metrics(params, axis_name),
        )

    def update_fn(
        updates: chex.ArrayTree, state: OrthogonalizeToPreviousState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, OrthogonalizeToPreviousState]:
        _checks.check_state("orthogonalize_to_previous", state, OrthogonalizeToPreviousState)
        _checks.check_grads("updates", updates)
        if params is not None:
            _checks.check_same_tree("updates", updates, "params", params, missing_leaves=True)
        pruned = _masking.prune(mask, updates if params is None else params, updates)
        _checks.check_same_tree("updates", pruned, "previous", state.previous, missing_leaves=True)
        _checks.check_inexact("updates", pruned)
        if params is not None:
            _checks.check_inexact("params", _masking.restrict(params, pruned))
        grads = _masking.zeros_for_missing(pruned, state.previous)
        _checks.check_complex_alike("updates", grads, "the parameters that init was given", state.previous)
        same_dtypes = all(
            g.dtype == m.dtype for g, m in zip(*map(jax.tree.leaves, (grads, state.previous)), strict=True)
        )
        active = state.count >= warmup_steps if warmup_steps else True
        if not keeps_average:
            # The memory is the gradient before: if that was not finite, its own step has said so.
            active &= jnp.isfinite(state.metrics.gradient_norm)
        projected, metrics = _projection.project(
            grads,
            state.previous,
            axis_name=axis_name,
            scale=-1.0,
            # What was the gradient is the memory now.
            square=None if keeps_average or not same_dtypes else state.metrics.gradient_norm**2,
            active=active,
        )
        if keeps_average:
            kept = decay(state.count) if callable(decay) else decay
            finite = jnp.isfinite(metrics.gradient_norm)
            previous = jax.tree.map(lambda g, m: jnp.where(finite, _average(kept, m, g), m), grads, state.previous)
        else:
            # Never the old memory, which XLA for accelerators cannot know: into a donated buffer it writes what it
            # computes from that buffer's content; anything else takes a copy of the content first. CPUs need no copy.
            never = lax.platform_dependent(state.count, cpu=jnp.zeros_like, default=jnp.negative) > 0
            previous = _cycle.select(never, state.previous, _cycle.like(grads, state.previous))
        projected = _masking.restrict(projected, pruned)
        return _masking.whole_updates(projected, updates, updates if params is None else params), (
            OrthogonalizeToPreviousState(
                count=optax.safe_increment(state.count),
                previous=_cycle.like(previous, state.previous),
                metrics=_cycle.like(metrics, state.metrics),
            )
        )

    return optax.GradientTransformation(init_fn, _checks.with_mask_of_state(init_fn, update_fn))


def _average(decay: Any, memory: jax.Array, gradient: jax.Array) -> jax.Array:
    """The memory decay · m + (1 − decay) · g, to be rounded once. Entries of m that overflowed begin anew."""
    wide = memory.astype(jnp.promote_types(memory.dtype, jnp.float32))
    average: jax.Array = decay * jnp.where(jnp.isfinite(wide), wide, 0) + (1 - decay) * gradient
    return average
