"""Fine-tuning of the last layer alone."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import Main, Method
from benchmarks.forgetting.tasks import KeyPath, Task


def head_only(task: Task, main: Main = optax.adamw) -> Method:
    """`main` on the last layer; nothing else moves."""

    def labels(params: chex.ArrayTree) -> Any:
        found = jax.tree_util.tree_map_with_path(lambda path, _: _label(path), params)
        if "head" not in jax.tree.leaves(found):
            raise ValueError(f"the task {task.name!r} names no parameter of its last layer: give it `is_head`.")
        return found

    def _label(path: KeyPath) -> str:
        return "head" if task.is_head(path) else "body"

    return Method(
        name="head only",
        gradients=1,
        optimizer=lambda setting: optax.partition({"head": main(setting["rate"]), "body": optax.set_to_zero()}, labels),
        grid=(("rate", (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)),),
    )
