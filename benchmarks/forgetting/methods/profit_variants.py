"""PROFIT with a brake on its updates, and with a projection for each leaf: experiments against its collapse."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import Method, Setting, ValueAndGradFn
from benchmarks.forgetting.methods.profit import GRID, closure_step, cosine
from profit_optax import ProfitMetrics, orthogonalize

Project = Callable[[chex.ArrayTree, chex.ArrayTree], tuple[chex.ArrayTree, ProfitMetrics]]


def braked() -> Method:
    """Main updates times √(1 − cos²) where the projection fired: Adam would rescale what is left to full steps."""
    return _variant("PROFIT braked", orthogonalize, brake=True)


def by_leaf() -> Method:
    """One projection for each leaf in place of one for all together."""
    return _variant("PROFIT by leaf", _by_leaf, brake=False)


def braked_by_leaf() -> Method:
    """Both."""
    return _variant("PROFIT by leaf braked", _by_leaf, brake=True)


def _by_leaf(gradient: chex.ArrayTree, displacement: chex.ArrayTree) -> tuple[chex.ArrayTree, ProfitMetrics]:
    projected = jax.tree.map(lambda g, d: orthogonalize(g, d)[0], gradient, displacement)
    return projected, orthogonalize(gradient, displacement)[1]


class _State(NamedTuple):
    optimizer_state: optax.OptState
    metrics: ProfitMetrics


def _variant(name: str, project: Project, brake: bool) -> Method:
    def optimizer(setting: Setting) -> optax.GradientTransformationExtraArgs:
        main, reference_rate = optax.adamw(setting["rate"]), setting["rate"] / setting["ratio"]

        def init(params: chex.ArrayTree) -> _State:
            zeros: Any = optax.tree.zeros_like(params)
            return _State(main.init(params), jax.tree.map(jnp.zeros_like, orthogonalize(zeros, zeros)[1]))

        def update(
            updates: chex.ArrayTree,
            state: _State,
            params: chex.ArrayTree | None = None,
            *,
            value_and_grad_fn: ValueAndGradFn,
            batches: Any,
        ) -> tuple[chex.ArrayTree, _State]:
            displacement = optax.tree.scale(-reference_rate, updates)
            batch = jax.tree.map(lambda x: x[0], batches)
            _, gradient = value_and_grad_fn(optax.apply_updates(params, displacement), batch)
            projected, metrics = project(gradient, displacement)
            main_updates, optimizer_state = main.update(projected, state.optimizer_state, params)
            if brake:
                left = optax.tree.norm(projected) / jnp.maximum(optax.tree.norm(gradient), 1e-30)
                main_updates = optax.tree.scale(left, main_updates)
            return main_updates, _State(optimizer_state, metrics)

        return optax.GradientTransformationExtraArgs(init, update)

    return Method(name, 2, optimizer, closure_step, metrics=cosine, grid=GRID)
