"""PROFIT in its closure form."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting, Stepped, ValueAndGradFn
from benchmarks.forgetting.methods import cosine as cosine
from profit_optax import profit as profit_closure

RATIOS = (10.0, 100.0, 1000.0)
GRID = (("rate", FEW_RATES), ("ratio", RATIOS))


def profit(n_ref: int = 1, warmup_steps: int = 0, main: Main = optax.adamw, **options: Any) -> Method:
    """PROFIT around `main`, with `n_ref` SGD reference steps at 1/"ratio" of the rate, and any of its options."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        rate, ratio = setting["rate"], setting["ratio"]
        return profit_closure(main(rate), optax.sgd(rate / ratio), n_ref, warmup_steps=warmup_steps, **options)

    return Method(profit_name("PROFIT", n_ref, warmup_steps), n_ref + 1, optimizer, closure_step, grid=GRID)


def profit_name(form: str, n_ref: int, warmup_steps: int) -> str:
    """What tables call a form, with what differs from one reference step and no warm-up."""
    steps = "" if n_ref == 1 else f", n_ref {n_ref}"
    return form + steps + (f", {warmup_steps} steps of warm-up" if warmup_steps else "")


def closure_step(
    tx: optax.GradientTransformationExtraArgs,
    value_and_grad_fn: ValueAndGradFn,
    params: chex.ArrayTree,
    state: optax.OptState,
    batches: Any,
) -> Stepped:
    """A step that hands the batches after the first one to the transformation, with the closure."""
    first, others = (jax.tree.map(lambda x, part=part: x[part], batches) for part in (0, slice(1, None)))
    _, grads = value_and_grad_fn(params, first)
    updates, state = tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), state
