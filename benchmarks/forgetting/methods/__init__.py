"""Ways to fine-tune. A new method is a function that returns a `Method`, named in `catalogue`."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import optax

from benchmarks.forgetting.tasks import Task

Loss = Callable[[chex.ArrayTree, Any], jax.Array]
ValueAndGradFn = Callable[[chex.ArrayTree, Any], tuple[jax.Array, chex.ArrayTree]]
Stepped = tuple[chex.ArrayTree, optax.OptState]
# "rate", and what else a method can be set to. Inside of compiled programs the values are scalar arrays, so that one
# program serves all settings.
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


def unstacked(batches: Any) -> list[Any]:
    """The batches one by one."""
    n_batches = len(jax.tree.leaves(batches)[0])
    return [jax.tree.map(lambda x, i=i: x[i], batches) for i in range(n_batches)]


def params_as_they_are(state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
    """For methods whose parameters are the ones to evaluate."""
    del state
    return params


def no_metrics(state: optax.OptState) -> dict[str, jax.Array]:
    """For methods that say nothing about themselves."""
    del state
    return {}


def nothing(task: Task, params: chex.ArrayTree, data: Any, train: jax.Array) -> None:
    """For methods that keep nothing of the old task."""
    del task, params, data, train


def start(task: Task, params: chex.ArrayTree, data: Any, train: jax.Array) -> chex.ArrayTree:
    """For methods that keep the weights that fine-tuning starts from."""
    del task, data, train
    return params


def task_loss(task: Task, kept: Any, setting: Setting) -> Loss:
    """For methods that minimise the new task's loss alone."""
    del kept, setting
    return task.loss


class Method(NamedTuple):
    """One way to fine-tune, at any setting.

    Attributes:
      name: what tables call it.
      gradients: how many gradients one step takes.
      optimizer: `optimizer(setting)` is the transformation; its `init(params)` is where a run starts.
      step: `step(tx, value_and_grad_fn, params, state, batches)` returns the next params and state. Every leaf of
        `batches` has a leading axis of length `batches`.
      batches: how many batches one step takes; None for as many as gradients.
      init: `init(params)` are the parameters to begin with, where they are more than a model's.
      eval_params: `eval_params(state, params)` are the parameters to evaluate.
      metrics: `metrics(state)` are scalars of the last step, whose means are recorded along training.
      keep: `keep(task, params, data, train)` is what is kept of the old task, for one seed.
      loss: `loss(task, kept, setting)` is the loss to minimise.
      grid: values of what it can be set to, from which tuning picks; in every method there are as many combinations.
    """

    name: str
    gradients: int
    optimizer: Callable[[Setting], optax.GradientTransformation]
    step: Callable[[optax.GradientTransformation, ValueAndGradFn, chex.ArrayTree, optax.OptState, Any], Stepped] = (
        plain_step
    )
    batches: int | None = None
    init: Callable[[chex.ArrayTree], chex.ArrayTree] = lambda params: params
    eval_params: Callable[[optax.OptState, chex.ArrayTree], chex.ArrayTree] = params_as_they_are
    metrics: Callable[[optax.OptState], dict[str, jax.Array]] = no_metrics
    keep: Callable[[Task, chex.ArrayTree, Any, jax.Array], Any] = nothing
    loss: Callable[[Task, Any, Setting], Loss] = task_loss
    grid: tuple[tuple[str, tuple[float, ...]], ...] = (("rate", RATES),)

    def setting(self, **values: float) -> dict[str, float]:
        """Those of the values that it can be set to."""
        return {name: values[name] for name, _ in self.grid}

    def settings(self) -> list[dict[str, float]]:
        """All combinations of the grid's values."""
        names, values = zip(*self.grid, strict=True)
        return [dict(zip(names, each, strict=True)) for each in itertools.product(*values)]
