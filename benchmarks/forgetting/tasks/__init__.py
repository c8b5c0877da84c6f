"""What is to be learnt and what is not to be forgotten. A new task is a function that returns a `Task`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax


class Scores(NamedTuple):
    """Quality on held-out examples, as fractions.

    Attributes:
      old: accuracy on the old task.
      new: accuracy on the new task.
    """

    old: jax.Array
    new: jax.Array


class Task(NamedTuple):
    """Old and new data, and models converged on the old, one for each seed.

    Attributes:
      name: what the new task is, for titles.
      data: arrays that all seeds share.
      train: indices of the examples that each seed trains on, [seeds, n_train].
      held_out: what each seed is evaluated on; every leaf has a leading axis over seeds.
      params: the converged models; every leaf has a leading axis over seeds.
      batch: `batch(data, indices)` gives the new task's training examples with these indices.
      loss: `loss(params, batch)` is the mean over a batch's examples, to be minimised.
      evaluate: `evaluate(params, data, held_out)` scores one seed's model.
    """

    name: str
    data: Any
    train: jax.Array
    held_out: Any
    params: chex.ArrayTree
    batch: Callable[[Any, jax.Array], Any]
    loss: Callable[[chex.ArrayTree, Any], jax.Array]
    evaluate: Callable[[chex.ArrayTree, Any, Any], Scores]
