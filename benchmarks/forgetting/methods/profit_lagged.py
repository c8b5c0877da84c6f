"""PROFIT at one gradient a step, and the other directions that its displacement could take."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import Main, Method, Setting
from benchmarks.forgetting.methods.profit import GRID, cosine, profit_name
from profit_optax import ProfitMetrics, eval_params, orthogonalize
from profit_optax import profit_lagged as profit_lagged_form
from profit_optax._projection import zero_metrics

# What the displacement is a multiple of: the gradient, the gradient after projecting, or the state of AdamW.
Direction = Callable[[chex.ArrayTree, chex.ArrayTree, optax.OptState], chex.ArrayTree]


def profit_lagged(warmup_steps: int = 0, main: Main = optax.adamw) -> Method:
    """The lagged form around `main`, which displaces along the raw gradient at 1/"ratio" of the rate."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        rate, ratio = setting["rate"], setting["ratio"]
        return profit_lagged_form(main(rate), optax.sgd(rate / ratio), warmup_steps=warmup_steps)

    return Method(
        profit_name("PROFIT lagged", 1, warmup_steps), 1, optimizer, eval_params=eval_params, metrics=cosine, grid=GRID
    )


def lagged_along(name: str, direction: Direction) -> Method:
    """The lagged recurrence around AdamW, displacing along another direction than the raw gradient."""
    return Method(
        name=name,
        gradients=1,
        optimizer=lambda setting: _lagged_along(direction, setting["rate"], setting["rate"] / setting["ratio"]),
        eval_params=lambda state, params: _theta(state, params),
        metrics=cosine,
        grid=GRID,
    )


def projected_gradient(grads: chex.ArrayTree, projected: chex.ArrayTree, state: optax.OptState) -> chex.ArrayTree:
    """The gradient that the main optimizer was given."""
    del grads, state
    return projected


def momentum(grads: chex.ArrayTree, projected: chex.ArrayTree, state: optax.OptState) -> chex.ArrayTree:
    """AdamW's first moment, which its state holds already: Δ needs no copy of its own."""
    del grads, projected
    return optax.tree.get(state, "mu")


class _State(NamedTuple):
    step: jax.Array
    optimizer_state: optax.OptState
    metrics: ProfitMetrics
    theta: chex.ArrayTree
    displacement: chex.ArrayTree


def _theta(state: _State, params: chex.ArrayTree) -> chex.ArrayTree:
    return jax.tree.map(lambda theta, p: jnp.where(state.step > 0, theta, p), state.theta, params)


def _lagged_along(direction: Direction, rate: Any, reference_rate: Any) -> optax.GradientTransformation:
    optimizer = optax.adamw(rate)

    def init_fn(params: chex.ArrayTree) -> _State:
        zeros = optax.tree.zeros_like(params)
        return _State(jnp.zeros((), jnp.int32), optimizer.init(params), zero_metrics(params), zeros, zeros)

    def update_fn(
        updates: chex.ArrayTree, state: _State, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, _State]:
        theta = _theta(state, params)
        projected, metrics = orthogonalize(updates, state.displacement)
        main_updates, optimizer_state = optimizer.update(projected, state.optimizer_state, theta)
        theta = optax.apply_updates(theta, main_updates)
        displacement = optax.tree.scale(-reference_rate, direction(updates, projected, optimizer_state))
        moved = optax.tree.sub(optax.apply_updates(theta, displacement), params)
        return moved, _State(state.step + 1, optimizer_state, metrics, theta, displacement)

    return optax.GradientTransformation(init_fn, update_fn)
