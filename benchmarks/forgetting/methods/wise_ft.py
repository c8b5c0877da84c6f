"""WiSE-FT: what is evaluated lies between the old weights and the fine-tuned ones."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting
from benchmarks.forgetting.tasks import KeyPath, Task


class WiseFtState(NamedTuple):
    """State of WiSE-FT.

    Attributes:
      start: the weights that fine-tuning started from.
      alpha: how much of the way to the fine-tuned weights is taken, [].
      optimizer_state: of the optimizer that fine-tunes.
    """

    start: chex.ArrayTree
    alpha: jax.Array
    optimizer_state: optax.OptState


def wise_ft(task: Task) -> Method:
    """AdamW, evaluated at (1 − alpha) θ₀ + alpha θ but for a fresh last layer (Wortsman et al., 2022)."""

    def eval_params(state: WiseFtState, params: chex.ArrayTree) -> chex.ArrayTree:
        def between(path: KeyPath, p0: jax.Array, p: jax.Array) -> jax.Array:
            return p if task.is_fresh(path) else (1 - state.alpha) * p0 + state.alpha * p

        return jax.tree_util.tree_map_with_path(between, state.start, params)

    return Method(
        name="WiSE-FT",
        gradients=1,
        optimizer=_optimizer,
        eval_params=eval_params,
        grid=(("rate", FEW_RATES), ("alpha", (0.5, 0.7, 0.9))),
    )


def _optimizer(setting: Setting) -> optax.GradientTransformation:
    optimizer = optax.adamw(setting["rate"])

    def init_fn(params: chex.ArrayTree) -> WiseFtState:
        return WiseFtState(params, jnp.asarray(setting["alpha"]), optimizer.init(params))

    def update_fn(
        updates: chex.ArrayTree, state: WiseFtState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, WiseFtState]:
        updates, optimizer_state = optimizer.update(updates, state.optimizer_state, params)
        return updates, state._replace(optimizer_state=optimizer_state)

    return optax.GradientTransformation(init_fn, update_fn)
