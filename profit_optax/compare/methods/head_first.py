"""First the last layer alone, then everything."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax.compare.methods import Main, Method, Setting

# Not tuned: a linear layer alone is learnt at a higher rate than a network.
HEAD_RATE = 1e-3


class HeadThenAllState(NamedTuple):
    """State of `head_then_all`.

    Attributes:
      step: steps taken, [].
      head_state: of the optimizer of the last layer.
      optimizer_state: of the optimizer of everything, which starts when the last layer is done.
    """

    step: jax.Array
    head_state: optax.OptState
    optimizer_state: optax.OptState


def head_then_all(
    head_optimizer: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    head: Any,
    head_steps: float | jax.Array,
) -> optax.GradientTransformation:
    """One optimizer on the last layer for some steps, then another one on everything.

    Args:
      head_optimizer: of the last layer.
      optimizer: of everything, afterwards.
      head: which leaves are the last layer: a prefix pytree of bools, or a function of params to one.
      head_steps: how many steps the last layer is alone.

    Returns:
      A `GradientTransformation`.

    Raises:
      ValueError: in `init`, if `head` names no leaf, or is no prefix of the parameters.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from profit_optax.compare import head_then_all
      >>> tx = head_then_all(optax.sgd(1.0), optax.sgd(1.0), {"body": False, "head": True}, head_steps=1)
      >>> params = {"body": jnp.ones(1), "head": jnp.ones(1)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> float(updates["body"][0]), float(updates["head"][0])
      (0.0, -1.0)

    References:
      Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution*, ICLR 2022.
    """
    leaves_of_head = functools.partial(in_head, head)
    alone = optax.masked(head_optimizer, leaves_of_head)

    def init_fn(params: chex.ArrayTree) -> HeadThenAllState:
        if not any(jax.tree.leaves(leaves_of_head(params))):
            raise ValueError("head must name a leaf of the parameters, got False for all of them.")
        return HeadThenAllState(jnp.zeros((), jnp.int32), alone.init(params), optimizer.init(params))

    def update_fn(
        updates: chex.ArrayTree, state: HeadThenAllState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, HeadThenAllState]:
        def first() -> Any:
            of_head, head_state = alone.update(updates, state.head_state, params)
            inside = leaves_of_head(updates if params is None else params)
            of_head = jax.tree.map(lambda u, keep: u if keep else jnp.zeros_like(u), of_head, inside)
            return of_head, head_state, state.optimizer_state

        def then() -> Any:
            of_all, optimizer_state = optimizer.update(updates, state.optimizer_state, params)
            return of_all, state.head_state, optimizer_state

        updates, head_state, optimizer_state = jax.lax.cond(state.step < head_steps, first, then)
        return updates, HeadThenAllState(optax.safe_increment(state.step), head_state, optimizer_state)

    return optax.GradientTransformation(init_fn, update_fn)


def in_head(head: Any, params: chex.ArrayTree) -> Any:
    """Whether each parameter is the last layer's, as a tree like `params`, from what `Task.head` is."""
    prefix = head(params) if callable(head) else head
    try:
        return jax.tree.map(lambda inside, part: jax.tree.map(lambda _: inside, part), prefix, params)
    except ValueError:
        raise ValueError(
            "head must have what the parameters have at each level, True for the last layer and False for all "
            f"beside it, got {prefix} for parameters with {_outline(params)}. Or pass a function, lambda params: "
            'jax.tree.map_with_path(lambda path, _: "head" in jax.tree_util.keystr(path), params).'
        ) from None


def _outline(params: chex.ArrayTree) -> str:
    """The paths of a tree's first leaves."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    return ", ".join(paths[:8]) + (" and so on" if len(paths) > 8 else "")


def head_first(share: float = 0.2, head_rate: float = HEAD_RATE, main: Main = optax.adamw) -> Method:
    """AdamW on the last layer alone for a share of the steps, then `main` on everything. It needs `Task.head`."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        head_steps = max(1, round(share * setting.steps))
        return head_then_all(optax.adamw(head_rate), main(setting.rate), setting.task.head, head_steps)

    return Method("head first", optimizer, needs=("head",))
