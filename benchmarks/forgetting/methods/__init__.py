"""Ways to fine-tune. A new method is a function that returns a `Method`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import optax

ValueAndGradFn = Callable[[chex.ArrayTree, Any], tuple[jax.Array, chex.ArrayTree]]
Stepped = tuple[chex.ArrayTree, optax.OptState]


def plain_step(
    tx: optax.GradientTransformation,
    value_and_grad_fn: ValueAndGradFn,
    params: chex.ArrayTree,
    state: optax.OptState,
    batches: Any,
) -> Stepped:
    """A step on the mean gradient of the batches, which is the gradient on all their examples at once."""
    _, grads = value_and_grad_fn(params, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches))
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def params_as_they_are(state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
    """For methods whose parameters are the ones to evaluate."""
    del state
    return params


def no_metrics(state: optax.OptState) -> dict[str, jax.Array]:
    """For methods that say nothing about themselves."""
    del state
    return {}


class Method(NamedTuple):
    """One way to fine-tune, at any rate.

    Attributes:
      name: what tables call it.
      gradients: how many batches, and gradients, one step takes.
      optimizer: `optimizer(rate)` is the transformation; its `init(params)` is where a run starts.
      step: `step(tx, value_and_grad_fn, params, state, batches)` returns the next params and state. Every leaf of
        `batches` has a leading axis of length `gradients`.
      eval_params: `eval_params(state, params)` are the parameters to evaluate.
      metrics: `metrics(state)` are scalars of the last step, whose means are recorded along training.
    """

    name: str
    gradients: int
    optimizer: Callable[[jax.Array], optax.GradientTransformation]
    step: Callable[[optax.GradientTransformation, ValueAndGradFn, chex.ArrayTree, optax.OptState, Any], Stepped]
    eval_params: Callable[[optax.OptState, chex.ArrayTree], chex.ArrayTree] = params_as_they_are
    metrics: Callable[[optax.OptState], dict[str, jax.Array]] = no_metrics
