"""PROFIT in its closure form, around AdamW."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import Method, Stepped, ValueAndGradFn
from profit_optax import profit as profit_closure


def profit(n_ref: int, ratio: float) -> Method:
    """PROFIT around AdamW, with `n_ref` SGD reference steps at 1/`ratio` of the rate."""
    return Method(
        name="PROFIT",
        gradients=n_ref + 1,
        optimizer=lambda rate: profit_closure(optax.adamw(rate), optax.sgd(rate / ratio), n_ref),
        step=closure_step,
        metrics=cosine,
    )


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


def cosine(state: optax.OptState) -> dict[str, jax.Array]:
    """The cosine between displacement and gradient, which near -1 announces a collapse."""
    return {"cosine": optax.tree.get(state, "cosine")}
