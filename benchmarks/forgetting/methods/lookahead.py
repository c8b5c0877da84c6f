"""Lookahead: fast weights that run ahead, and slow ones that follow them part of the way."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method


class LookaheadState(NamedTuple):
    """State of Lookahead.

    Attributes:
      slow: the slow weights.
      optimizer_state: Optax's.
    """

    slow: chex.ArrayTree
    optimizer_state: optax.OptState


def fast_and_slow(main: optax.GradientTransformation, sync_period: int, slow_step_size: float) -> Any:
    """Lookahead of Optax around an optimizer, as a transformation of the fast weights that keeps the slow ones."""
    tx = optax.lookahead(main, sync_period, slow_step_size)

    def init_fn(params: chex.ArrayTree) -> LookaheadState:
        # A copy, since a step may be given both to write over.
        return LookaheadState(jax.tree.map(jnp.copy, params), tx.init(optax.LookaheadParams.init_synced(params)))

    def update_fn(
        updates: chex.ArrayTree, state: LookaheadState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, LookaheadState]:
        both = optax.LookaheadParams(params, state.slow)
        moves, optimizer_state = tx.update(updates, state.optimizer_state, both)
        return moves.fast, LookaheadState(optax.apply_updates(state.slow, moves.slow), optimizer_state)

    return optax.GradientTransformation(init_fn, update_fn)


def slow(state: LookaheadState, params: chex.ArrayTree) -> chex.ArrayTree:
    """The weights to evaluate."""
    del params
    return state.slow


def lookahead(sync_period: int = 5) -> Method:
    """Optax's Lookahead (Zhang et al., 2019) around AdamW, evaluated at its slow weights."""
    return Method(
        name="Lookahead" if sync_period == 5 else f"Lookahead, synchronised every {sync_period} steps",
        gradients=1,
        optimizer=lambda setting: fast_and_slow(optax.adamw(setting["rate"]), sync_period, setting["slow_step_size"]),
        eval_params=slow,
        grid=(("rate", FEW_RATES), ("slow_step_size", (0.2, 0.5, 0.8))),
    )
