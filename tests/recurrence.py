"""The recurrence of the lagged form in float64 NumPy, to be read beside its definition.

Δ ← 0
repeat:
  take a new batch, g ← ∇L(θ + Δ)
  θ ← θ + O(project(g, Δ); θ)
  Δ ← O_ref(g; θ)                  the raw g; left out in warm-up
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.algorithm1 import Projection, Tree, add, project, scale


class Lagged:
    """One gradient a step. Both optimizers map parameters and a gradient to new parameters.

    Attributes:
      theta: θ.
      delta: Δ, so that the loop stands at θ + Δ.
      projections: one record a step.
    """

    def __init__(
        self,
        theta: Tree,
        optimizer: Callable[[Tree, Tree], Tree],
        reference_optimizer: Callable[[Tree, Tree], Tree],
        warmup_steps: int = 0,
    ):
        self.theta, self.delta = theta, {name: np.zeros_like(x) for name, x in theta.items()}
        self.optimizer, self.reference_optimizer, self.warmup_steps = optimizer, reference_optimizer, warmup_steps
        self.projections: list[Projection] = []

    @property
    def displaced(self) -> Tree:
        return add(self.theta, self.delta)

    def step(self, gradient: Callable[[Tree, Any], Tree], batch: Any) -> None:
        g = gradient(self.displaced, batch)
        self.projections.append(project(g, self.delta))
        self.theta = self.optimizer(self.theta, self.projections[-1].gradient)
        if len(self.projections) > self.warmup_steps:
            self.delta = add(self.reference_optimizer(self.theta, g), scale(-1.0, self.theta))
