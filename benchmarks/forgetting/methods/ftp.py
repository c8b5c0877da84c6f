"""FTP: each layer stays within a distance from its start, and that distance is learnt along the way."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method

# The authors' numbers: the rate at which distances are learnt, and the first distance.
DISTANCE_RATE = 1e-2
SMALLEST = 1e-8


class FtpState(NamedTuple):
    """State of fast trainable projection.

    Attributes:
      start: the weights that fine-tuning started from.
      step: steps taken, [].
      distances: how far each leaf's rows may be from their start; a scalar a leaf.
      distance_state: of the optimizer that learns them.
      deviations: from the start, before the last projection.
      optimizer_state: of the optimizer that fine-tunes.
    """

    start: chex.ArrayTree
    step: jax.Array
    distances: chex.ArrayTree
    distance_state: optax.OptState
    deviations: chex.ArrayTree
    optimizer_state: optax.OptState


def ftp() -> Method:
    """AdamW with fast trainable projection (Tian et al., 2023)."""
    grid = (("rate", FEW_RATES), ("kappa", (0.0, 0.5, 1.0)))
    return Method("FTP", 1, lambda x: fast_trainable_projection(optax.adamw(x["rate"]), x["kappa"]), grid=grid)


def fast_trainable_projection(
    optimizer: optax.GradientTransformation, kappa: chex.Numeric
) -> optax.GradientTransformation:
    """Project every row of a leaf onto the ball of radius γ around its start, in the norm Σ|·| (MARS).

    With d = θ̃ − θ₀ after the optimizer's step, a row becomes θ₀ + min(1, γ / ‖d‖) d. The next gradient g, taken at the
    projected weights, has ∂L/∂γ = Σ ⟨g, d⟩ / ‖d‖, summed over rows, with d from before; Adam takes γ along it and γ is
    kept between 1e-8 and the longest row. Where that derivative is positive, which would shrink the ball, it is scaled
    by kappa. Rows are what the last axis of a leaf numbers, JAX's kernels being the transposes of PyTorch's; a leaf
    with one axis is one row. The first γ that is learnt is corrected for bias as if it was the second, as the authors'
    code does.
    """
    distance_optimizer = optax.adam(DISTANCE_RATE)

    def init_fn(params: chex.ArrayTree) -> FtpState:
        distances = jax.tree.map(lambda p: jnp.full((), SMALLEST, p.dtype), params)
        _, counted_once = distance_optimizer.update(
            optax.tree.zeros_like(distances), distance_optimizer.init(distances)
        )
        return FtpState(
            start=params,
            step=jnp.zeros((), jnp.int32),
            distances=distances,
            distance_state=counted_once,
            deviations=optax.tree.zeros_like(params),
            optimizer_state=optimizer.init(params),
        )

    def update_fn(
        updates: chex.ArrayTree, state: FtpState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, FtpState]:
        grads = updates
        updates, optimizer_state = optimizer.update(grads, state.optimizer_state, params)
        deviations = jax.tree.map(lambda p, u, p0: p + u - p0, params, updates, state.start)
        slopes = jax.tree.map(lambda g, d: _anneal(jnp.sum(_row_sum(g * d) / row_norms(d)), kappa), grads,
                              state.deviations)  # fmt: skip
        moves, distance_state = distance_optimizer.update(slopes, state.distance_state)
        learnt = jax.tree.map(
            lambda y, m, d: jnp.clip(y + m, SMALLEST, jnp.max(row_norms(d))), state.distances, moves, deviations
        )
        # The first step has no deviation to learn from.
        first = state.step == 0
        distances, distance_state = jax.tree.map(
            lambda before, after: jnp.where(first, before, after),
            (state.distances, state.distance_state),
            (learnt, distance_state),
        )
        projected = jax.tree.map(lambda d, y: jnp.minimum(1, y / row_norms(d)) * d, deviations, distances)
        updates = jax.tree.map(lambda p0, d, p: p0 + d - p, state.start, projected, params)
        return updates, FtpState(state.start, state.step + 1, distances, distance_state, deviations, optimizer_state)

    return optax.GradientTransformation(init_fn, update_fn)


def row_norms(leaf: jax.Array) -> jax.Array:
    """Σ|·| of every row, with the leaf's number of axes."""
    return _row_sum(jnp.abs(leaf)) + SMALLEST


def _row_sum(leaf: jax.Array) -> jax.Array:
    return jnp.sum(leaf, axis=tuple(range(leaf.ndim - 1)) or None, keepdims=True)


def _anneal(slope: jax.Array, kappa: chex.Numeric) -> jax.Array:
    return jnp.where(slope > 0, kappa * slope, slope)
