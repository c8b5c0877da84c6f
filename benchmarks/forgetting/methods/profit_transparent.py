"""PROFIT in its transparent form, one gradient a call."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import Method, Setting, Stepped, ValueAndGradFn, plain_step
from benchmarks.forgetting.methods.profit import GRID, profit_name
from profit_optax import profit_transparent as profit_transparent_form


def profit_transparent(n_ref: int = 1) -> Method:
    """The transparent form around AdamW: a step is n_ref + 1 calls, each on one batch."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        rate, ratio = setting["rate"], setting["ratio"]
        return profit_transparent_form(optax.adamw(rate), optax.sgd(rate / ratio), n_ref)

    name = profit_name("PROFIT transparent", n_ref, warmup_steps=0)
    return Method(name, n_ref + 1, optimizer, _step, grid=GRID)


def _step(
    tx: optax.GradientTransformation,
    value_and_grad_fn: ValueAndGradFn,
    params: chex.ArrayTree,
    state: optax.OptState,
    batches: Any,
) -> Stepped:
    def call(carry: Stepped, batch: Any) -> tuple[Stepped, None]:
        alone = jax.tree.map(lambda x: x[None], batch)
        return plain_step(tx, value_and_grad_fn, *carry, alone), None

    stepped, _ = jax.lax.scan(call, (params, state), batches)
    return stepped
