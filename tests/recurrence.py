"""The recurrence of `orthogonalize_to_previous` before an optimizer in float64 NumPy, beside its definition.

m ← 0
repeat:
  take a new batch, g ← ∇L(θ)
  θ ← O(θ, project(g, −m))         g as it is in warm-up
  m ← decay m + (1 − decay) g      the raw g
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.algorithm1 import Projection, Tree, add, project, scale


class OneLine:
    """One gradient a step. The optimizer maps parameters and a gradient to new parameters.

    Attributes:
      theta: θ.
      previous: m.
      projections: one record a step.
    """

    def __init__(self, theta: Tree, optimizer: Callable[[Tree, Tree], Tree], decay: float = 0.0, warmup_steps: int = 0):
        self.theta, self.previous = theta, {name: np.zeros_like(x) for name, x in theta.items()}
        self.optimizer, self.decay, self.warmup_steps = optimizer, decay, warmup_steps
        self.projections: list[Projection] = []

    def step(self, gradient: Callable[[Tree, Any], Tree], batch: Any) -> None:
        g = gradient(self.theta, batch)
        displacement = scale(-float(len(self.projections) >= self.warmup_steps), self.previous)
        self.projections.append(project(g, displacement))
        self.theta = self.optimizer(self.theta, self.projections[-1].gradient)
        self.previous = add(scale(self.decay, self.previous), scale(1 - self.decay, g))
