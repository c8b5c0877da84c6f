"""Optimizers that know nothing of an old task: AdamW, and what a user would take in its place."""

from typing import Any, NamedTuple

import chex
import jax
import optax
from optax.contrib import schedule_free_adamw, schedule_free_eval_params

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting, Stepped, ValueAndGradFn

MOMENTUM = 0.9


def adamw(gradients: int = 1) -> Method:
    """AdamW on the mean gradient of that many batches a step."""
    return alone("AdamW", optax.adamw, gradients)


def alone(name: str, optimizer: Main, gradients: int = 1) -> Method:
    """An optimizer on the mean gradient of that many batches a step."""
    name = name if gradients == 1 else f"{name} x{gradients}"
    return Method(name, gradients, lambda setting: optimizer(setting["rate"]))


def sgd() -> Method:
    """SGD with momentum."""
    rates = (1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1, 2e-1)
    return alone("SGD", lambda rate: optax.sgd(rate, MOMENTUM))._replace(grid=(("rate", rates),))


def adan() -> Method:
    """Optax's Adan (Xie et al., 2022): Adam with Nesterov momentum and the change of the gradient."""
    return alone("Adan", optax.adan)


def schedule_free() -> Method:
    """Optax's schedule-free AdamW (Defazio et al., 2024), which is evaluated at an average of its iterates."""
    return alone("schedule-free", schedule_free_adamw)._replace(eval_params=schedule_free_eval_params)


def pytorch_rmsprop(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """RMSProp with the defaults of PyTorch: α 0.99, and ε 1e-8 outside of the root."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def decaying_rmsprop(rate: Any) -> optax.GradientTransformation:
    """The same at a rate that falls to 0.95 of itself every 100 steps, as in the paper's toy problem."""
    return pytorch_rmsprop(optax.exponential_decay(rate, 100, 0.95, staircase=True))


def sam() -> Method:
    """Optax's SAM (Foret et al., 2021) around AdamW: two gradients a step, both on the same batch."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        adversary = optax.chain(optax.contrib.normalize(), optax.sgd(setting["rho"]))
        return optax.contrib.sam(optax.adamw(setting["rate"]), adversary, opaque_mode=True)

    def step(
        tx: optax.GradientTransformation,
        value_and_grad_fn: ValueAndGradFn,
        params: chex.ArrayTree,
        state: optax.OptState,
        batches: Any,
    ) -> Stepped:
        batch = jax.tree.map(lambda x: x[0], batches)
        _, grads = value_and_grad_fn(params, batch)
        updates, state = tx.update(grads, state, params, grad_fn=lambda params, _: value_and_grad_fn(params, batch)[1])
        return optax.apply_updates(params, updates), state

    grid = (("rate", FEW_RATES), ("rho", (0.01, 0.05, 0.2)))
    return Method("SAM", 2, optimizer, step, batches=1, grid=grid)


class LookaheadState(NamedTuple):
    """State of Lookahead: the slow weights, which follow the fast ones part of the way, and Optax's own state."""

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

    grid = (("rate", FEW_RATES), ("slow_step_size", (0.2, 0.5, 0.8)))
    return Method("Lookahead", 1, optimizer, eval_params=lambda state, params: state.slow, grid=grid)
