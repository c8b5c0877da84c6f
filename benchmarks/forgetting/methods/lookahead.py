"""Lookahead: fast weights that run ahead, and slow ones that follow them part of the way."""

from typing import Any

import chex
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Stepped, ValueAndGradFn, unstacked


def lookahead(sync_period: int = 5) -> Method:
    """Optax's Lookahead (Zhang et al., 2019) around AdamW, evaluated at its slow weights."""
    return Method(
        name="Lookahead" if sync_period == 5 else f"Lookahead, synchronised every {sync_period} steps",
        gradients=1,
        optimizer=lambda setting: optax.lookahead(optax.adamw(setting["rate"]), sync_period, setting["slow_step_size"]),
        step=_step,
        init=optax.LookaheadParams.init_synced,
        eval_params=lambda state, params: params.slow,
        grid=(("rate", FEW_RATES), ("slow_step_size", (0.2, 0.5, 0.8))),
    )


def _step(
    tx: optax.GradientTransformation,
    value_and_grad_fn: ValueAndGradFn,
    params: chex.ArrayTree,
    state: optax.OptState,
    batches: Any,
) -> Stepped:
    (batch,) = unstacked(batches)
    _, grads = value_and_grad_fn(params.fast, batch)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state
