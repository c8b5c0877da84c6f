"""AdamW or another optimizer alone, also with several batches a step."""

from collections.abc import Callable
from typing import Any

import optax

from benchmarks.forgetting.methods import Method


def adamw(gradients: int = 1) -> Method:
    """AdamW on the mean gradient of that many batches a step."""
    return alone("AdamW", optax.adamw, gradients)


def alone(name: str, optimizer: Callable[[Any], optax.GradientTransformation], gradients: int = 1) -> Method:
    """An optimizer on the mean gradient of that many batches a step."""
    return Method(
        name if gradients == 1 else f"{name} x{gradients}", gradients, lambda setting: optimizer(setting["rate"])
    )
