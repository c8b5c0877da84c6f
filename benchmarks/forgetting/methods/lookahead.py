"""Lookahead: fast weights that run ahead, and slow ones that follow them part of the way."""

from typing import NamedTuple

import chex
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting


class LookaheadState(NamedTuple):
    """State of Lookahead.

    Attributes:
      slow: the slow weights.
      optimizer_state: Optax's.
    """

    slow: chex.ArrayTree
    optimizer_state: optax.OptState


def lookahead(sync_period: int = 5) -> Method:
    """Optax's Lookahead (Zhang et al., 2019) around AdamW, evaluated at its slow weights."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        tx = optax.lookahead(optax.adamw(setting["rate"]), sync_period, setting["slow_step_size"])

        def init_fn(params: chex.ArrayTree) -> LookaheadState:
            return LookaheadState(params, tx.init(optax.LookaheadParams.init_synced(params)))

        def update_fn(
            updates: chex.ArrayTree, state: LookaheadState, params: chex.ArrayTree | None = None
        ) -> tuple[chex.ArrayTree, LookaheadState]:
            both = optax.LookaheadParams(params, state.slow)
            moves, optimizer_state = tx.update(updates, state.optimizer_state, both)
            return moves.fast, LookaheadState(optax.apply_updates(state.slow, moves.slow), optimizer_state)

        return optax.GradientTransformation(init_fn, update_fn)

    return Method(
        name="Lookahead" if sync_period == 5 else f"Lookahead, synchronised every {sync_period} steps",
        gradients=1,
        optimizer=optimizer,
        eval_params=lambda state, params: state.slow,
        grid=(("rate", FEW_RATES), ("slow_step_size", (0.2, 0.5, 0.8))),
    )
