"""AdamSPD: a step that leads a layer further from its start is taken back in part, where gradients allow it."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting


class SpdState(NamedTuple):
    """State of selective projection decay: the weights that fine-tuning started from, and Adam's state."""

    start: chex.ArrayTree
    optimizer_state: optax.OptState


def adam_spd() -> Method:
    """Adam with selective projection decay but for a fresh last layer (Tian et al., 2024)."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        return selective_projection_decay(optax.adam(setting["rate"]), setting["strength"], setting["task"].fresh)

    return Method("AdamSPD", 1, optimizer, grid=(("rate", FEW_RATES), ("strength", (0.3, 1.0, 2.0))))


def selective_projection_decay(
    optimizer: optax.GradientTransformation,
    strength: chex.Numeric,
    free: Callable[[chex.ArrayTree], chex.ArrayTree] = lambda params: jax.tree.map(lambda _: False, params),
) -> optax.GradientTransformation:
    """Pull a layer that moves away from its start back toward it, where its gradient g agrees with its deviation.

    With θ̃ what the optimizer's step from θ leads to, a layer goes to θ̃ − strength · r (θ̃ − θ₀) if ⟨g, θ − θ₀⟩ > 0, and
    r = max(0, ‖θ̃ − θ₀‖ − ‖θ − θ₀‖) / ‖θ̃ − θ₀‖; else to θ̃. A layer is a leaf here, as in the authors' code.
    `free(params)` says of each leaf whether it is never pulled.
    """

    def init_fn(params: chex.ArrayTree) -> SpdState:
        return SpdState(params, optimizer.init(params))

    def update_fn(
        updates: chex.ArrayTree, state: SpdState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, SpdState]:
        grads = updates
        updates, optimizer_state = optimizer.update(grads, state.optimizer_state, params)

        def pulled(is_free: bool, u: jax.Array, g: jax.Array, p: jax.Array, p0: jax.Array) -> jax.Array:
            if is_free:
                return u
            before, after = p - p0, p + u - p0
            length = jnp.linalg.norm(after)
            further = jnp.maximum(length - jnp.linalg.norm(before), 0) / jnp.where(length == 0, 1, length)
            return u - jnp.where(jnp.vdot(g, before) > 0, strength * further, 0) * after

        updates = jax.tree.map(pulled, free(params), updates, grads, params, state.start)
        return updates, state._replace(optimizer_state=optimizer_state)

    return optax.GradientTransformation(init_fn, update_fn)
