"""The steps of Algorithm 1 as pure functions, shared by every form of PROFIT.

With θ kept aside, Δ starts at 0 and n_ref times Δ ← Δ + O_ref(g), where g is the gradient at θ + Δ. The projection of
the last g and the main optimizer's step at θ (`main_step`) follow.

Δ is the sum of the reference updates. The difference θ' − θ of line 7 is the same in exact arithmetic, but where the
reference rate is small, rounding θ' loses most of it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from profit_optax import _axes, _checks, _extra_args, _masking, _projection

T = TypeVar("T")


class Options(NamedTuple):
    """What every form is configured with.

    Attributes:
      optimizer: O, the main optimizer, which takes extra arguments.
      reference_optimizer: O_ref.
      warmup_steps: for how many first steps O is alone.
      displacement_dtype: the dtype in which Δ is kept, None for that of the reference updates.
      reset_reference_state: whether O_ref starts anew in each main step.
      mask: which leaves are trained; None for all.
      axis_name: the mesh axes over which parameters are sharded by hand.
    """

    optimizer: optax.GradientTransformationExtraArgs
    reference_optimizer: optax.GradientTransformation
    warmup_steps: int
    displacement_dtype: jnp.dtype | None
    reset_reference_state: bool
    mask: Any
    axis_name: Any


def make_options(
    optimizer: optax.GradientTransformation,
    reference_optimizer: optax.GradientTransformation,
    *,
    warmup_steps: int,
    displacement_dtype: Any,
    reset_reference_state: bool,
    mask: Any,
    axis_name: Any,
) -> Options:
    """The options of a form, or the error that says what is wrong with them."""
    _checks.check_optimizer("optimizer", optimizer)
    _checks.check_reference_optimizer(reference_optimizer)
    _checks.check_flag("reset_reference_state", reset_reference_state)
    _checks.check_axis_name(axis_name)
    return Options(
        optimizer=optax.GradientTransformationExtraArgs(optimizer.init, _extra_args.with_extra_args(optimizer)),
        reference_optimizer=reference_optimizer,
        warmup_steps=_checks.check_count("warmup_steps", warmup_steps, minimum=0),
        displacement_dtype=_checks.check_dtype("displacement_dtype", displacement_dtype),
        reset_reference_state=reset_reference_state,
        mask=mask,
        axis_name=axis_name,
    )


class InnerStates(NamedTuple):
    """What both inner optimizers start from.

    Attributes:
      optimizer_state: state of the main optimizer.
      reference_state: state of the reference optimizer.
    """

    optimizer_state: optax.OptState
    reference_state: optax.OptState


def init_inner(options: Options, params: chex.ArrayTree) -> InnerStates:
    """The states of both inner optimizers, neither of which may be a form of PROFIT."""
    states = InnerStates(options.optimizer.init(params), options.reference_optimizer.init(params))
    _checks.check_no_inner_form("optimizer", states.optimizer_state)
    _checks.check_no_inner_form("reference_optimizer", states.reference_state)
    return states


def trained(options: Options, grads: chex.ArrayTree, params: chex.ArrayTree, state: Any) -> _masking.Trained:
    """What the inner optimizers are handed of gradients and parameters."""
    states = InnerStates(state.optimizer_state, state.reference_state)
    return _masking.trained(options.mask, grads, params, functools.partial(init_inner, options), states)


def fresh_reference_state(options: Options, params: chex.ArrayTree, before: optax.OptState) -> optax.OptState:
    """The state that the reference optimizer starts from at `params`, of the types of the one that it had before."""
    return like(options.reference_optimizer.init(params), before)


class Displacement(NamedTuple):
    """Where the reference steps have led.

    Attributes:
      delta: Δ.
      reference_state: state of the reference optimizer.
    """

    delta: chex.ArrayTree
    reference_state: optax.OptState


def scale_of(delta: chex.ArrayTree) -> float:
    """The power of two by which a Δ of these dtypes is multiplied, for sums of its squares to stay in range.

    Norms of Δ then may lie between 1e-20 and 1e10. float16 has no room for a factor.
    """
    return 1.0 if any(leaf.dtype == jnp.float16 for leaf in jax.tree.leaves(delta)) else 2.0**30


def displace(params: chex.ArrayTree, delta: chex.ArrayTree, scale: float = 1.0) -> chex.ArrayTree:
    """θ + Δ, rounded to the dtypes of the parameters, where Δ comes multiplied by `scale`."""
    return like(optax.apply_updates(params, times(1 / scale, delta)), params)


def reference_step(
    options: Options,
    grads: chex.ArrayTree,
    displacement: Displacement,
    params: chex.ArrayTree,
    scale: float = 1.0,
) -> Displacement:
    """Δ + O_ref(g), rounded to the dtype in which Δ is kept: what is rounded is what is applied and projected against.

    Args:
      options: the options of the form.
      grads: g, the gradient at θ + Δ.
      displacement: Δ times `scale`, and the state of the reference optimizer.
      params: θ + Δ.
      scale: a power of two.
    """
    updates, reference_state = reference_updates(options, grads, displacement.reference_state, params)
    return Displacement(displace(displacement.delta, times(scale, updates)), reference_state)


def times(scale: float, tree: chex.ArrayTree) -> chex.ArrayTree:
    """A tree multiplied by a number."""
    return tree if scale == 1 else jax.tree.map(lambda x: scale * x, tree)


def reference_updates(
    options: Options, grads: chex.ArrayTree, reference_state: optax.OptState, params: chex.ArrayTree
) -> tuple[chex.ArrayTree, optax.OptState]:
    """What O_ref makes of g, and its next state."""
    with _checks.reference_arguments():
        updates, after = options.reference_optimizer.update(grads, reference_state, params)
    return updates, like(after, reference_state)


def like(tree: chex.ArrayTree, before: chex.ArrayTree) -> chex.ArrayTree:
    """A new tree in the dtypes and shardings of the old one, as loops and branches want it.

    Gradients wider than the parameters would widen an optimizer's moments. Leaves that have no gradient, for which an
    optimizer returns None, stay what they were.
    """
    try:
        return jax.tree.map(_like_leaf, tree, before, is_leaf=lambda x: x is None)
    except ValueError:  # A state of another structure: nothing here to keep it like.
        return tree


def _like_leaf(x: Any, before: Any) -> Any:
    if x is None or not (hasattr(x, "dtype") and hasattr(before, "dtype")):
        return before if x is None else x
    return _axes.sharded_like(x if x.dtype == before.dtype else x.astype(before.dtype), before)


def zero_delta(
    options: Options, grads: chex.ArrayTree, reference_state: optax.OptState, params: chex.ArrayTree
) -> chex.ArrayTree:
    """Δ = 0, in the dtypes that it is kept in, and sharded like the parameters."""
    with _checks.reference_arguments():
        updates, _ = jax.eval_shape(options.reference_optimizer.update, grads, reference_state, params)
    return jax.tree.map(
        lambda p, u: jnp.zeros_like(p, dtype=kept_dtype(u.dtype, options.displacement_dtype)), params, updates
    )


def difference(displaced: chex.ArrayTree, params: chex.ArrayTree, dtype: jnp.dtype | None) -> chex.ArrayTree:
    """θ' − θ, in `dtype` or else in the dtypes of the parameters."""
    return jax.tree.map(lambda p, q: _subtract(p, q, kept_dtype(q.dtype, dtype)), displaced, params)


def move(params: chex.ArrayTree, target: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """The updates that take a caller from `params` to `target`, in the dtypes of `like`."""
    return jax.tree.map(lambda p, t, u: _subtract(t, p, u.dtype), params, target, like)


def _subtract(x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Subtracts in the widest of the three dtypes; what has not moved has no difference, be it infinite."""
    wide = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), dtype)
    # Integers and bools, which have no gradient, never move.
    wide = wide if jnp.issubdtype(wide, jnp.inexact) else jnp.dtype(jnp.float32)
    x, y = x.astype(wide), y.astype(wide)
    unmoved = (x == y) | (jnp.isnan(x) & jnp.isnan(y))
    return jnp.where(unmoved, _masking.no_change(wide), x - y).astype(dtype)


def kept_dtype(dtype: jnp.dtype, asked: jnp.dtype | None) -> jnp.dtype:
    """The dtype in which Δ is kept, where that of the updates is `dtype` and another one may have been asked for."""
    if asked is None:
        return dtype
    return jnp.result_type(asked, jnp.complex64) if jnp.issubdtype(dtype, jnp.complexfloating) else asked


class MainStep(NamedTuple):
    """What the main step leads to.

    Attributes:
      updates: the updates of θ.
      optimizer_state: state of the main optimizer.
      metrics: what the projection saw.
    """

    updates: chex.ArrayTree
    optimizer_state: optax.OptState
    metrics: _projection.ProfitMetrics


def main_step(
    options: Options,
    grads: chex.ArrayTree,
    delta: chex.ArrayTree,
    state: Any,
    params: chex.ArrayTree,
    extra_args: dict[str, Any],
    scale: float,
) -> MainStep:
    """O(g) at θ, with g orthogonal to Δ where the two conflict. In warm-up Δ is 0, and O is alone.

    Args:
      options: the options of the form.
      grads: g, the gradient at θ + Δ.
      delta: Δ, times `scale`.
      state: the state of the form before this step.
      params: θ.
      extra_args: what the main optimizer is given besides.
      scale: a power of two.
    """
    grads, metrics = _projection.project(grads, delta, axis_name=options.axis_name, scale=scale)
    updates, optimizer_state = options.optimizer.update(grads, state.optimizer_state, params, **extra_args)
    return MainStep(updates, like(optimizer_state, state.optimizer_state), like(metrics, state.metrics))


def select(condition: jax.Array, tree: chex.ArrayTree, otherwise: chex.ArrayTree) -> chex.ArrayTree:
    """One of two pytrees; a NaN in the other one does not come through."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, otherwise)


def choose(condition: jax.Array, function: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """What one of two functions returns. Outside of traces the other one is not even traced: nothing is compiled."""
    if is_traced(condition):
        return lax.cond(condition, function, otherwise)
    return function() if condition else otherwise()


def choose_cheap(condition: jax.Array, function: Callable[[], T], otherwise: Callable[[], T]) -> T:
    """`choose`, where both functions are cheap enough for accelerators to compute both.

    There a branch stops the device until the host has read the condition, and what it returns cannot be written over
    what it is given: it takes a copy of all of it. CPUs have neither trouble, and save the other function's work.
    """
    if not is_traced(condition):
        return choose(condition, function, otherwise)
    # Traced once for both platforms.
    function, otherwise = jax.jit(function), jax.jit(otherwise)
    return lax.platform_dependent(
        cpu=lambda: lax.cond(condition, function, otherwise),
        default=lambda: select(condition, function(), otherwise()),
    )


def is_traced(*trees: chex.ArrayTree) -> bool:
    """Whether any leaf is known to a program only, and not by its value."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
