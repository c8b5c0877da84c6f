"""A pull to where fine-tuning started, weighted by what the old task's data say of each parameter."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Loss, Method, Setting
from benchmarks.forgetting.tasks import Task
from profit_optax.compare import CompareError, consolidated


def ewc() -> Method:
    """AdamW on the loss + strength/2 Σ F (θ − θ₀)² (Kirkpatrick et al., 2017). It reads the old training data.

    The Fisher information takes as many backward passes as there are old examples and classes, before the first step;
    they are not counted.
    """

    def keep(task: Task, params: chex.ArrayTree, data: Any, train: jax.Array) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        if task.old_batch is None:
            raise CompareError("EWC needs the old task's examples: give the task `old_batch`.")
        return params, fisher(task, params, task.old_batch(data, train, jax.random.key(0)))

    def loss(task: Task, kept: tuple[chex.ArrayTree, chex.ArrayTree], setting: Setting) -> Loss:
        return consolidated(task.loss, *kept, setting["strength"])

    grid = (("rate", FEW_RATES), ("strength", (1e2, 1e3, 1e4)))
    return Method("EWC", 1, lambda setting: optax.adamw(setting["rate"]), keep=keep, loss=loss, grid=grid)


def fisher(task: Task, params: chex.ArrayTree, examples: Any) -> chex.ArrayTree:
    """The diagonal of the Fisher information: the mean over examples of E_y[(∂ log p(y|x) / ∂θ)²], y from the model."""
    outputs = task.outputs
    if outputs is None:
        raise CompareError("EWC needs the model's logits: give the task `outputs`.")

    def of_example(total: chex.ArrayTree, example: Any) -> tuple[chex.ArrayTree, None]:
        def log_probabilities(params: chex.ArrayTree) -> jax.Array:
            return jax.nn.log_softmax(outputs(params, jax.tree.map(lambda x: x[None], example))[0])

        log_p, vjp = jax.vjp(log_probabilities, params)
        (gradients,) = jax.vmap(vjp)(jnp.eye(len(log_p)))
        mean = jax.tree.map(lambda g: jnp.tensordot(jnp.exp(log_p), g**2, axes=1), gradients)
        return optax.tree.add(total, mean), None

    total, _ = jax.lax.scan(of_example, optax.tree.zeros_like(params), examples)
    n_examples = len(jax.tree.leaves(examples)[0])
    return optax.tree.scale(1 / n_examples, total)
