"""LP-FT: first the last layer alone, then everything."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting
from benchmarks.forgetting.methods.head_only import head_only
from benchmarks.forgetting.tasks import Task

# Not tuned: a linear layer alone is learnt at a higher rate than a network.
HEAD_RATE = 1e-3


class LpFtState(NamedTuple):
    """State of LP-FT.

    Attributes:
      step: steps taken, [].
      head_state: of the optimizer of the last layer.
      optimizer_state: of the optimizer of everything, which starts when the last layer is done.
    """

    step: jax.Array
    head_state: optax.OptState
    optimizer_state: optax.OptState


def lp_ft(task: Task, head_steps: tuple[float, ...] = (50.0, 200.0, 500.0)) -> Method:
    """AdamW on the last layer for `head_steps` steps, then on everything (Kumar et al., 2022)."""
    head = head_only(task).optimizer({"rate": HEAD_RATE})

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        everything = optax.adamw(setting["rate"])

        def init_fn(params: chex.ArrayTree) -> LpFtState:
            return LpFtState(jnp.zeros((), jnp.int32), head.init(params), everything.init(params))

        def update_fn(
            updates: chex.ArrayTree, state: LpFtState, params: chex.ArrayTree | None = None
        ) -> tuple[chex.ArrayTree, LpFtState]:
            of_head, head_state = head.update(updates, state.head_state, params)
            of_all, optimizer_state = everything.update(updates, state.optimizer_state, params)
            probing = state.step < setting["head_steps"]
            updates, head_state, optimizer_state = jax.tree.map(
                lambda now, later: jnp.where(probing, now, later),
                (of_head, head_state, state.optimizer_state),
                (of_all, state.head_state, optimizer_state),
            )
            return updates, LpFtState(state.step + 1, head_state, optimizer_state)

        return optax.GradientTransformation(init_fn, update_fn)

    return Method("LP-FT", 1, optimizer, grid=(("rate", FEW_RATES), ("head_steps", head_steps)))
