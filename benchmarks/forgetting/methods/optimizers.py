"""Optimizers that know nothing of an old task: AdamW, and what a user would take in its place."""

import optax
from optax.contrib import schedule_free_adamw, schedule_free_eval_params

from benchmarks.forgetting.methods import Main, Method

MOMENTUM = 0.9


def adamw(gradients: int = 1) -> Method:
    """AdamW on the mean gradient of that many batches a step."""
    return alone("AdamW", optax.adamw, gradients)


def alone(name: str, optimizer: Main, gradients: int = 1) -> Method:
    """An optimizer on the mean gradient of that many batches a step."""
    name = name if gradients == 1 else f"{name} x{gradients}"
    return Method(name, gradients, lambda setting: optimizer(setting["rate"]))


def sgd() -> Method:
    """SGD with momentum."""
    rates = (1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1, 2e-1)
    return alone("SGD", lambda rate: optax.sgd(rate, MOMENTUM))._replace(grid=(("rate", rates),))


def adan() -> Method:
    """Optax's Adan (Xie et al., 2022): Adam with Nesterov momentum and the change of the gradient."""
    return alone("Adan", optax.adan)


def schedule_free() -> Method:
    """Optax's schedule-free AdamW (Defazio et al., 2024), which is evaluated at an average of its iterates."""
    return alone("schedule-free", schedule_free_adamw)._replace(eval_params=schedule_free_eval_params)
