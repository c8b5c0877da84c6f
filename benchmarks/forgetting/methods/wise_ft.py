"""Weights between the old ones and the new ones, but for a fresh last layer."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting
from profit_optax.compare import interpolate


class WiseFtState(NamedTuple):
    """State of WiSE-FT: where fine-tuning started, and how much of the way from there is taken, a scalar a leaf."""

    start: chex.ArrayTree
    alpha: chex.ArrayTree


def wise_ft() -> Method:
    """AdamW, evaluated at (1 − alpha) θ₀ + alpha θ (Wortsman et al., 2022)."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        def remember(params: chex.ArrayTree) -> WiseFtState:
            alpha = setting["alpha"]
            fresh = setting["task"].fresh(params)
            return WiseFtState(params, jax.tree.map(lambda new: jnp.ones_like(alpha) if new else alpha, fresh))

        start = optax.GradientTransformation(remember, lambda updates, state, params=None: (updates, state))
        return optax.chain(start, optax.adamw(setting["rate"]))

    def eval_params(state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
        kept: WiseFtState = state[0]
        return jax.tree.map(interpolate, kept.start, params, kept.alpha)

    grid = (("rate", FEW_RATES), ("alpha", (0.5, 0.7, 0.9)))
    return Method("WiSE-FT", 1, optimizer, eval_params=eval_params, grid=grid)
