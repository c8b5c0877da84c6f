"""Ways to fine-tune. A new method is a function that returns a `Method`, named in `catalogue`."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import optax

from benchmarks.forgetting.tasks import Task
from profit_optax.compare.methods import params_to_evaluate

Loss = Callable[[chex.ArrayTree, Any], jax.Array]
ValueAndGradFn = Callable[[chex.ArrayTree, Any], tuple[jax.Array, chex.ArrayTree]]
Stepped = tuple[chex.ArrayTree, optax.OptState]
# "rate", and what else a method can be set to. Inside of compiled programs the values are scalar arrays, so that one
# program serves all settings. Optimizers are also told the "task".
Setting = Mapping[str, Any]

# Makes an optimizer from a rate.
Main = Callable[[Any], optax.GradientTransformation]

# Rates of Adam's kind for methods that have nothing else to be set, and for those that have one number more.
RATES = (3e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3)
FEW_RATES = (3e-5, 1e-4, 3e-4)


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


def cosine(state: optax.OptState) -> dict[str, jax.Array]:
    """The cosine between displacement and gradient, where a method has one: near -1 it may announce a collapse."""
    found = optax.tree.get(state, "cosine")
    return {} if found is None else {"cosine": found}


class Method(NamedTuple):
    """One way to fine-tune, at any setting.

    Attributes:
      name: what tables call it.
      gradients: how many gradients one step takes.
      optimizer: `optimizer(setting)` is the transformation; its `init(params)` is where a run starts.
      step: `step(tx, value_and_grad_fn, params, state, batches)` returns the next params and state. Every leaf of
        `batches` has a leading axis of length `batches`.
      batches: how many batches one step takes; None for as many as gradients.
      eval_params: `eval_params(state, params)` are the parameters to evaluate, by default those of PROFIT's forms.
      metrics: `metrics(state)` are scalars of the last step, whose means are recorded along training.
      keep: `keep(task, params, data, train)` is what is kept of the old task, for one seed; None for nothing.
      loss: `loss(task, kept, setting)` is the loss to minimise; None for the task's.
      grid: values of what it can be set to, from which tuning picks; in every method there are as many combinations.
    """

    name: str
    gradients: int
    optimizer: Callable[[Setting], optax.GradientTransformation]
    step: Callable[[optax.GradientTransformation, ValueAndGradFn, chex.ArrayTree, optax.OptState, Any], Stepped] = (
        plain_step
    )
    batches: int | None = None
    eval_params: Callable[[optax.OptState, chex.ArrayTree], chex.ArrayTree] = params_to_evaluate
    metrics: Callable[[optax.OptState], dict[str, jax.Array]] = cosine
    keep: Callable[[Task, chex.ArrayTree, Any, jax.Array], Any] | None = None
    loss: Callable[[Task, Any, Setting], Loss] | None = None
    grid: tuple[tuple[str, tuple[float, ...]], ...] = (("rate", RATES),)

    def setting(self, **values: float) -> dict[str, float]:
        """Those of the values that it can be set to; what they leave open is in the middle of its grid."""
        return {name: values.get(name, tried[len(tried) // 2]) for name, tried in self.grid}

    def settings(self) -> list[dict[str, float]]:
        """All combinations of the grid's values."""
        names, values = zip(*self.grid, strict=True)
        return [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]
