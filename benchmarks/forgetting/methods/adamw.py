"""AdamW, also with several batches a step."""

import optax

from benchmarks.forgetting.methods import Method, plain_step


def adamw(gradients: int = 1) -> Method:
    """AdamW on the mean gradient of that many batches a step."""
    name = "AdamW" if gradients == 1 else f"AdamW x{gradients}"
    return Method(name, gradients, optax.adamw, plain_step)
