"""PROFIT as one line of a chain: each gradient made orthogonal to the one before, or to an average of those before."""

from typing import Any, NamedTuple

import chex
import jax
import optax

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting
from benchmarks.forgetting.methods.l2_sp import pulled as with_pull
from benchmarks.forgetting.methods.profit import profit_name
from profit_optax import ProfitMetrics, orthogonalize, orthogonalize_to_previous

DECAYS = (0.0, 0.5, 0.7, 0.9)
# The strength of a pull to the start that went well with it.
PULL = 0.1


def one_line(warmup_steps: int = 0, main: Main = optax.adamw) -> Method:
    """`orthogonalize_to_previous` before `main`, with a moving average of the gradients where "decay" is above 0."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        line = orthogonalize_to_previous(setting["decay"], warmup_steps=warmup_steps)
        return optax.chain(line, main(setting["rate"]))

    grid = (("rate", FEW_RATES), ("decay", DECAYS[:3]))
    return Method(profit_name("PROFIT one line", 1, warmup_steps), 1, optimizer, grid=grid)


def one_line_at(decay: float, dtype: str | None = None) -> Method:
    """The same before AdamW at one decay, to be tuned in its rate alone; the memory may have a dtype of its own."""
    return Method(
        f"one line {decay:g}" + ("" if dtype is None else f" {dtype}"),
        1,
        lambda setting: optax.chain(orthogonalize_to_previous(decay, dtype=dtype), optax.adamw(setting["rate"])),
    )


def pulled(method: Method) -> Method:
    """A method on the loss of L2-SP: with a pull to the start."""
    return method._replace(
        name=f"{method.name} + pull",
        optimizer=lambda setting: with_pull(method.optimizer(setting), setting, PULL),
    )


def one_line_of_moment() -> Method:
    """AdamW, whose gradients are made orthogonal to its own first moment: no memory besides."""
    return Method(
        "one line of moment",
        1,
        lambda setting: _orthogonal_to_moment(optax.adamw(setting["rate"])),
    )


class _State(NamedTuple):
    optimizer_state: optax.OptState
    metrics: ProfitMetrics


def _orthogonal_to_moment(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    def update_fn(
        updates: chex.ArrayTree, state: _State, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, _State]:
        moment = optax.tree.get(state.optimizer_state, "mu")
        projected, metrics = orthogonalize(updates, optax.tree.scale(-1, moment))
        updates, optimizer_state = optimizer.update(projected, state.optimizer_state, params)
        return updates, _State(optimizer_state, metrics)

    def init_fn(params: chex.ArrayTree) -> _State:
        zeros: Any = optax.tree.zeros_like(params)
        return _State(optimizer.init(params), jax.tree.map(jax.numpy.zeros_like, orthogonalize(zeros, zeros)[1]))

    return optax.GradientTransformation(init_fn, update_fn)
