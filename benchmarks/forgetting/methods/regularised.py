"""What keeps the old weights, or something else of the old task, beside the new ones.

A fresh last layer has nothing to be kept: it is neither pulled to its start nor evaluated between there and its end.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Loss, Main, Method, Setting
from benchmarks.forgetting.tasks import Task
from profit_optax.compare import CompareError, consolidated, distilled, head_then_all, interpolate, pull_to_start

# Of LP-FT's last layer. Not tuned: a linear layer alone is learnt at a higher rate than a network.
HEAD_RATE = 1e-3
_FOR_EVER: Any = float("inf")


def l2_sp() -> Method:
    """AdamW on the loss + strength/2 ‖θ − θ₀‖² (L2-SP; Li et al., 2018).

    The pull is part of the gradient, so Adam rescales it with the rest; the paper's own optimizer is SGD. A fresh layer
    has AdamW's weight decay, in place of the paper's further term.
    """

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        return pulled(optax.adamw(setting["rate"]), setting, setting["strength"])

    return Method("L2-SP", 1, optimizer, grid=(("rate", FEW_RATES), ("strength", (1e-3, 1e-2, 1e-1))))


def pulled(
    optimizer: optax.GradientTransformation, setting: Setting, strength: chex.Numeric
) -> optax.GradientTransformation:
    """An optimizer on gradients with a pull to the start."""

    def old(params: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda fresh: not fresh, setting["task"].fresh(params))

    return optax.chain(optax.masked(pull_to_start(strength), old), optimizer)


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


def lwf() -> Method:
    """AdamW on the loss + strength × distillation of the old model at temperature 2 (Li and Hoiem, 2016).

    Each gradient also takes a forward pass of the old model, which is not counted.
    """

    def keep(task: Task, params: chex.ArrayTree, data: Any, train: jax.Array) -> chex.ArrayTree:
        return params

    def loss(task: Task, kept: chex.ArrayTree, setting: Setting) -> Loss:
        if task.outputs is None:
            raise CompareError("LwF needs the model's logits: give the task `outputs`.")
        return distilled(task.loss, task.outputs, kept, setting["strength"])

    grid = (("rate", FEW_RATES), ("strength", (0.1, 0.3, 1.0)))
    return Method("LwF", 1, lambda setting: optax.adamw(setting["rate"]), keep=keep, loss=loss, grid=grid)


class WiseFtState(NamedTuple):
    """State of WiSE-FT: where fine-tuning started, and how much of the way from there is taken, a scalar a leaf."""

    start: chex.ArrayTree
    alpha: chex.ArrayTree


def wise_ft() -> Method:
    """AdamW, evaluated at (1 − alpha) θ₀ + alpha θ (Wortsman et al., 2022)."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        def remember(params: chex.ArrayTree) -> WiseFtState:
            alpha = setting["alpha"]
            fresh = setting["task"].fresh(params)
            return WiseFtState(params, jax.tree.map(lambda new: jnp.ones_like(alpha) if new else alpha, fresh))

        start = optax.GradientTransformation(remember, lambda updates, state, params=None: (updates, state))
        return optax.chain(start, optax.adamw(setting["rate"]))

    def eval_params(state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
        kept: WiseFtState = state[0]
        return jax.tree.map(interpolate, kept.start, params, kept.alpha)

    grid = (("rate", FEW_RATES), ("alpha", (0.5, 0.7, 0.9)))
    return Method("WiSE-FT", 1, optimizer, eval_params=eval_params, grid=grid)


def head_only(main: Main = optax.adamw) -> Method:
    """`main` on the last layer; nothing else moves."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        return head_then_all(main(setting["rate"]), optax.identity(), _head(setting), _FOR_EVER)

    rates = (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)
    return Method("head only", 1, optimizer, grid=(("rate", rates),))


def lp_ft() -> Method:
    """AdamW on the last layer for `head_steps` steps, then on everything (LP-FT; Kumar et al., 2022)."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        of_head, of_all = optax.adamw(HEAD_RATE), optax.adamw(setting["rate"])
        return head_then_all(of_head, of_all, _head(setting), setting["head_steps"])

    return Method("LP-FT", 1, optimizer, grid=(("rate", FEW_RATES), ("head_steps", (50.0, 200.0, 500.0))))


def _head(setting: Setting) -> Any:
    task = setting["task"]
    if task.head is None:
        raise CompareError(f"the task {task.name!r} names no parameter of its last layer: give it `head`.")
    return task.head
