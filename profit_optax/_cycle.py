"""The steps of Algorithm 1 as pure functions, shared by every form of PROFIT.

With θ kept aside, Δ starts at 0 and n_ref times Δ ← Δ + O_ref(g), where g is the gradient at θ + Δ. The projection of
the last g and the main optimizer's step at θ (`main_step`) follow.

Δ is the sum of the reference updates. The difference θ' − θ of line 7 is the same in exact arithmetic, but where the
reference rate is small, rounding θ' loses most of it.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax import _checks, _projection, _unread


class Options(NamedTuple):
    """What every form is configured with.

    Attributes:
      optimizer: O, the main optimizer, which takes extra arguments.
      reference_optimizer: O_ref.
      warmup_steps: for how many first steps O is alone.
      displacement_dtype: the dtype in which Δ is kept, None for that of the reference updates.
      axis_name: the mesh axes over which parameters are sharded by hand.
    """

    optimizer: optax.GradientTransformationExtraArgs
    reference_optimizer: optax.GradientTransformation
    warmup_steps: int
    displacement_dtype: jnp.dtype | None
    axis_name: Any


def make_options(
    optimizer: optax.GradientTransformation,
    reference_optimizer: optax.GradientTransformation,
    *,
    warmup_steps: int,
    displacement_dtype: Any,
    axis_name: Any,
) -> Options:
    """The options of a form, or the error that says what is wrong with them."""
    _checks.check_optimizer("optimizer", optimizer)
    _checks.check_optimizer("reference_optimizer", reference_optimizer)
    _checks.check_axis_name(axis_name)
    return Options(
        optimizer=optax.with_extra_args_support(optimizer),
        reference_optimizer=reference_optimizer,
        warmup_steps=_checks.check_count("warmup_steps", warmup_steps, minimum=0),
        displacement_dtype=_checks.check_dtype("displacement_dtype", displacement_dtype),
        axis_name=axis_name,
    )


class Displacement(NamedTuple):
    """Where the reference steps have led.

    Attributes:
      delta: Δ.
      reference_state: state of the reference optimizer.
    """

    delta: chex.ArrayTree
    reference_state: optax.OptState


def displace(params: chex.ArrayTree, delta: chex.ArrayTree) -> chex.ArrayTree:
    """θ + Δ, rounded to the dtypes of the parameters."""
    return optax.apply_updates(params, delta)


def reference_step(
    options: Options, grads: chex.ArrayTree, displacement: Displacement, params: chex.ArrayTree
) -> Displacement:
    """Δ + O_ref(g), rounded to the dtype in which Δ is kept: what is rounded is what is applied and projected against.

    Args:
      options: the options of the form.
      grads: g, the gradient at θ + Δ.
      displacement: Δ, and the state of the reference optimizer.
      params: θ + Δ.
    """
    updates, reference_state = options.reference_optimizer.update(grads, displacement.reference_state, params)
    reference_state = as_before(reference_state, displacement.reference_state)
    return Displacement(optax.apply_updates(displacement.delta, updates), reference_state)


def as_before(state: chex.ArrayTree, before: chex.ArrayTree) -> chex.ArrayTree:
    """A new state in the dtypes of the old one: gradients wider than the parameters would widen its moments."""
    return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype), state, before)


def zero_delta(
    options: Options, grads: chex.ArrayTree, reference_state: optax.OptState, params: chex.ArrayTree
) -> chex.ArrayTree:
    """Δ = 0, in the dtypes that it is kept in, and sharded like the parameters."""
    updates, _ = jax.eval_shape(options.reference_optimizer.update, grads, reference_state, params)
    return jax.tree.map(
        lambda p, u: jnp.zeros_like(p, dtype=_delta_dtype(u.dtype, options.displacement_dtype)), params, updates
    )


def difference(displaced: chex.ArrayTree, params: chex.ArrayTree, dtype: jnp.dtype | None) -> chex.ArrayTree:
    """θ' − θ, in `dtype` or else in the dtypes of the parameters."""

    def subtract(p: jax.Array, q: jax.Array) -> jax.Array:
        kept = _delta_dtype(q.dtype, dtype)
        wide = jnp.promote_types(q.dtype, kept)
        return (p.astype(wide) - q.astype(wide)).astype(kept)

    return jax.tree.map(subtract, displaced, params)


def _delta_dtype(dtype: jnp.dtype, asked: jnp.dtype | None) -> jnp.dtype:
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
) -> MainStep:
    """O(g) at θ, with g orthogonal to Δ where the two conflict. In warm-up Δ is 0, and O is alone.

    Args:
      options: the options of the form.
      grads: g, the gradient at θ + Δ.
      delta: Δ.
      state: the state of the form before this step.
      params: θ.
      extra_args: what the main optimizer is given besides.
    """
    # Leaves that neither optimizer reads, such as frozen ones, take no part in the norms.
    grads = _unread.zero_unread(
        grads,
        lambda g: options.reference_optimizer.update(g, state.reference_state, params),
        lambda g: options.optimizer.update(g, state.optimizer_state, params, **extra_args),
    )
    grads, metrics = _projection.orthogonalize(grads, delta, axis_name=options.axis_name)
    updates, optimizer_state = options.optimizer.update(grads, state.optimizer_state, params, **extra_args)
    return MainStep(updates, optimizer_state, optax.tree.cast_like(metrics, state.metrics))


def select(condition: jax.Array, tree: chex.ArrayTree, otherwise: chex.ArrayTree) -> chex.ArrayTree:
    """One of two pytrees; a NaN in the other one does not come through."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), tree, otherwise)


def move(params: chex.ArrayTree, target: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """The updates that take a caller from `params` to `target`, in the dtypes of `like`."""
    return jax.tree.map(lambda p, t, u: (_promoted(t, u) - _promoted(p, u)).astype(u.dtype), params, target, like)


def _promoted(x: jax.Array, other: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, other.dtype))


def strong_arrays(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The leaves as arrays of definite dtypes: a weakly typed loop carry would trace the model twice."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.result_type(x)), tree)
