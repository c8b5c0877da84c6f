"""The last layer alone, or first alone and then everything."""

from typing import Any

import optax

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting
from profit_optax.compare import CompareError, head_then_all

# Of LP-FT's last layer. Not tuned: a linear layer alone is learnt at a higher rate than a network.
HEAD_RATE = 1e-3
_FOR_EVER: Any = float("inf")


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
