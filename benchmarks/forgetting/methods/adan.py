"""Adan: Adam with Nesterov momentum and the change of the gradient."""

import optax

from benchmarks.forgetting.methods import Method


def adan() -> Method:
    """Optax's Adan (Xie et al., 2022)."""
    return Method("Adan", 1, lambda setting: optax.adan(setting["rate"]))
