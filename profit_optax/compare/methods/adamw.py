"""AdamW, also on several batches a step."""

import optax

from profit_optax.compare.methods import Main, Method, from_optimizer


def adamw(name: str = "AdamW", main: Main = optax.adamw) -> Method:
    """AdamW, or another optimizer."""
    return from_optimizer(name, main)


def adamw_more(batches: int = 2, name: str = "AdamW", main: Main = optax.adamw) -> Method:
    """The same on the mean gradient of several batches a step."""
    return from_optimizer(f"{name} x{batches}", main, gradients=batches)
