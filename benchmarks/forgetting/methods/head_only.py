"""The last layer alone, or first alone and then everything."""

from typing import Any

import optax

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting
from profit_optax.compare import head_then_all

# Of LP-FT's last layer. Not tuned: a linear layer alone is learnt at a higher rate than a network.
HEAD_RATE = 1e-3
FOR_EVER: Any = float("inf")


def head_only(main: Main = optax.adamw) -> Method:
    """`main` on the last layer; nothing else moves."""
    return Method(
        name="head only",
        gradients=1,
        optimizer=lambda setting: head_then_all(
            main(setting["rate"]), optax.identity(), setting["task"].head, FOR_EVER
        ),
        grid=(("rate", (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)),),
    )


def lp_ft(head_steps: tuple[float, ...] = (50.0, 200.0, 500.0)) -> Method:
    """AdamW on the last layer for `head_steps` steps, then on everything (LP-FT; Kumar et al., 2022)."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        head, head_steps = setting["task"].head, setting["head_steps"]
        return head_then_all(optax.adamw(HEAD_RATE), optax.adamw(setting["rate"]), head, head_steps)

    return Method("LP-FT", 1, optimizer, grid=(("rate", FEW_RATES), ("head_steps", head_steps)))
