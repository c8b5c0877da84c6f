"""What is to be learnt and what is not to be forgotten. A new task is a function that returns a `Task`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import optax

from profit_optax.compare.methods.head_first import in_head


class Scores(NamedTuple):
    """Quality on held-out examples of both tasks, where more is better: an accuracy, or an error with a minus sign."""

    old: jax.Array
    new: jax.Array


class Task(NamedTuple):
    """Old and new data, and models converged on the old, one for each seed.

    Attributes:
      name: what the new task is, for titles.
      seeds: the number that each seed's randomness comes from, [seeds]. Tuning takes others than reporting.
      data: arrays that all seeds share.
      train: indices of the examples that each seed trains on, [seeds, n_train].
      held_out: what each seed is evaluated on; every leaf has a leading axis over seeds.
      params: the converged models, all of which is trained; every leaf has a leading axis over seeds.
      batch: `batch(data, indices, key)` gives the new task's training examples with these indices, augmented where the
        task says so.
      loss: `loss(params, batch)` is the mean over a batch's examples, to be minimised.
      evaluate: `evaluate(params, data, held_out)` scores one seed's model.
      outputs: `outputs(params, batch)` are the logits of the model, or None where no method asks for them.
      old_batch: as `batch`, for the old task, or None where no method asks for old data.
      head: which parameters are the last layer's, as `compare.Task` is told: a prefix pytree of bools, or a function of
        params to one; None where no method asks.
      fresh_head: whether the last layer is a new one, which has nothing to be kept.
      together: whether seeds are trained at once, as one batched program. Convolutions are faster one after the other.
    """

    name: str
    seeds: jax.Array
    data: Any
    train: jax.Array
    held_out: Any
    params: chex.ArrayTree
    batch: Callable[[Any, jax.Array, jax.Array], Any]
    loss: Callable[[chex.ArrayTree, Any], jax.Array]
    evaluate: Callable[[chex.ArrayTree, Any, Any], Scores]
    outputs: Callable[[chex.ArrayTree, Any], jax.Array] | None = None
    old_batch: Callable[[Any, jax.Array, jax.Array], Any] | None = None
    head: Any = None
    fresh_head: bool = False
    together: bool = True

    def fresh(self, params: chex.ArrayTree) -> Any:
        """Whether each parameter is new, so that there is nothing of it to be kept, as a tree like `params`."""
        return in_head(self.head if self.fresh_head else False, params)


def layer(name: str) -> Callable[[Any], Any]:
    """The parameters of a layer of a Flax model, for `Task.head`."""
    return lambda params: {"params": {each: each == name for each in params["params"]}}


def trained(
    loss: Callable[[chex.ArrayTree, Any], jax.Array],
    tx: optax.GradientTransformation,
    params: chex.ArrayTree,
    batch: Callable[[jax.Array], Any],
    keys: jax.Array,
) -> chex.ArrayTree:
    """The parameters of an old model: after a step on `batch(key)` for each of the keys."""

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch(key)), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    return params


def start_scores(task: Task) -> Scores:
    """Every seed's scores before it learns the new task, [seeds]."""
    scores: Scores = jax.jit(jax.vmap(task.evaluate, in_axes=(0, None, 0)))(task.params, task.data, task.held_out)
    return scores
