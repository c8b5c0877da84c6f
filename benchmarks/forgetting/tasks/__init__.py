"""What is to be learnt and what is not to be forgotten. A new task is a function that returns a `Task`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax

from profit_optax.compare.errors import CompareError

# A path into the parameters, as `jax.tree_util.tree_map_with_path` gives it.
KeyPath = tuple[Any, ...]


class Scores(NamedTuple):
    """Quality on held-out examples, where more is better: an accuracy as a fraction, or an error with a minus sign.

    Attributes:
      old: on the old task.
      new: on the new task.
    """

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
      is_head: `is_head(path)` tells whether the parameter at that path belongs to the last layer.
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
    is_head: Callable[[KeyPath], bool] = lambda path: False
    fresh_head: bool = False
    together: bool = True

    def is_fresh(self, path: KeyPath) -> bool:
        """Whether the parameter at that path is new, so that there is nothing of it to be kept."""
        return self.fresh_head and self.is_head(path)

    def head(self, params: chex.ArrayTree) -> Any:
        """Which parameters belong to the last layer, as `profit_optax.compare.head_then_all` is told.

        Raises:
          CompareError: if none does.
        """
        found = jax.tree_util.tree_map_with_path(lambda path, _: self.is_head(path), params)
        if not any(jax.tree.leaves(found)):
            raise CompareError(f"the task {self.name!r} names no parameter of its last layer: give it `is_head`.")
        return found


def start_scores(task: Task) -> Scores:
    """Every seed's scores before it learns the new task, [seeds]."""
    scores: Scores = jax.jit(jax.vmap(task.evaluate, in_axes=(0, None, 0)))(task.params, task.data, task.held_out)
    return scores
