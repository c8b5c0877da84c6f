"""WiSE-FT: what is evaluated lies between the old weights and the fine-tuned ones."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting
from benchmarks.forgetting.tasks import KeyPath
from profit_optax.compare import interpolate


class WiseFtState(NamedTuple):
    """State of WiSE-FT.

    Attributes:
      start: the weights that fine-tuning started from.
      alpha: how much of the way to the fine-tuned weights is taken, a scalar a leaf.
    """

    start: chex.ArrayTree
    alpha: chex.ArrayTree


def wise_ft() -> Method:
    """AdamW, evaluated at (1 − alpha) θ₀ + alpha θ but for a fresh last layer (Wortsman et al., 2022)."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        def remember(params: chex.ArrayTree) -> WiseFtState:
            def alpha(path: KeyPath, leaf: jax.Array) -> jax.Array:
                return jnp.ones_like(setting["alpha"]) if setting["task"].is_fresh(path) else setting["alpha"]

            return WiseFtState(params, jax.tree_util.tree_map_with_path(alpha, params))

        start = optax.GradientTransformation(remember, lambda updates, state, params=None: (updates, state))
        return optax.chain(start, optax.adamw(setting["rate"]))

    def eval_params(state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
        kept: WiseFtState = state[0]
        return jax.tree.map(interpolate, kept.start, params, kept.alpha)

    grid = (("rate", FEW_RATES), ("alpha", (0.5, 0.7, 0.9)))
    return Method("WiSE-FT", 1, optimizer, eval_params=eval_params, grid=grid)
