"""Algorithm 1 of the PROFIT paper in float64 NumPy, to be read beside it.

Parameters, gradients and displacements are dictionaries of arrays. Nothing here knows JAX or Optax: it is what this
package is compared with.

    repeat:
      θ_ref ← θ
      n_ref times:  take a new batch, g ← ∇L(θ);  θ ← O_ref(θ, g)
      Δ ← θ − θ_ref
      take a new batch, g ← ∇L(θ)
      ω ← ⟨Δ, g⟩
      if ω < 0:  g ← g − (ω / ⟨Δ, Δ⟩) Δ
      θ ← θ_ref
      θ ← O(θ, g)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Tree = dict[str, np.ndarray]
Rate = float | Callable[[int], float]


def float64(tree: Any) -> Tree:
    """A dictionary of arrays (of any library) in the precision of this module."""
    return {name: np.asarray(leaf, np.float64) for name, leaf in tree.items()}


def inner(x: Tree, y: Tree) -> float:
    """⟨x, y⟩ over all weights together."""
    return float(sum(np.sum(x[name] * y[name]) for name in x))


def add(x: Tree, y: Tree) -> Tree:
    return {name: x[name] + y[name] for name in x}


def scale(c: float, x: Tree) -> Tree:
    return {name: c * x[name] for name in x}


class Sgd:
    """θ ← θ − λ m with m ← μ m + g; without momentum, m is g."""

    def __init__(self, rate: Rate, momentum: float = 0.0):
        self.rate, self.momentum, self.steps = rate, momentum, 0
        self.trace: Tree | None = None

    def __call__(self, theta: Tree, g: Tree) -> Tree:
        self.trace = g if self.trace is None else add(scale(self.momentum, self.trace), g)
        rate = rate_at(self.rate, self.steps)
        self.steps += 1
        return add(theta, scale(-rate, self.trace))


class Adam:
    """Adam with bias correction, and with a weight decay apart from the gradient, AdamW."""

    def __init__(self, rate: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0):
        self.rate, self.b1, self.b2, self.eps, self.weight_decay = rate, b1, b2, eps, weight_decay
        self.steps = 0
        self.m: Tree = {}
        self.v: Tree = {}

    def __call__(self, theta: Tree, g: Tree) -> Tree:
        rate = rate_at(self.rate, self.steps)
        self.steps += 1
        new = {}
        for name, x in g.items():
            self.m[name] = self.b1 * self.m.get(name, 0.0) + (1 - self.b1) * x
            self.v[name] = self.b2 * self.v.get(name, 0.0) + (1 - self.b2) * x**2
            m = self.m[name] / (1 - self.b1**self.steps)
            v = self.v[name] / (1 - self.b2**self.steps)
            new[name] = theta[name] - rate * (m / (np.sqrt(v) + self.eps) + self.weight_decay * theta[name])
        return new


def rate_at(rate: Rate, step: int) -> float:
    """A learning rate at a step of its optimizer, counted from 0."""
    return rate(step) if callable(rate) else rate


class Projection(NamedTuple):
    """What the projection of one step saw and made."""

    gradient: Tree
    inner_product: float
    cosine: float
    conflict: bool
    displacement_norm: float
    gradient_norm: float


def project(g: Tree, delta: Tree) -> Projection:
    """Lines 9 to 11: the part of g orthogonal to Δ, where the two conflict."""
    omega, norm, g_norm = inner(delta, g), inner(delta, delta) ** 0.5, inner(g, g) ** 0.5
    projected = add(g, scale(-omega / inner(delta, delta), delta)) if omega < 0 else g
    cosine = omega / (norm * g_norm) if norm and g_norm else 0.0
    return Projection(projected, omega, cosine, omega < 0, norm, g_norm)


class Profit:
    """Algorithm 1. Both optimizers are initialised once and keep their state.

    Attributes:
      projections: one record a step; None for a step of the warm-up.
    """

    def __init__(
        self,
        optimizer: Callable[[Tree, Tree], Tree],
        reference_optimizer: Callable[[Tree, Tree], Tree],
        n_ref: int = 1,
        warmup_steps: int = 0,
    ):
        self.optimizer, self.reference_optimizer = optimizer, reference_optimizer
        self.n_ref, self.warmup_steps = n_ref, warmup_steps
        self.projections: list[Projection | None] = []

    def step(self, theta: Tree, gradient: Callable[[Tree, Any], Tree], batches: Sequence[Any]) -> Tree:
        """One main step on n_ref + 1 batches; in warm-up, the main optimizer alone on the first of them."""
        if len(self.projections) < self.warmup_steps:
            self.projections.append(None)
            return self.optimizer(theta, gradient(theta, batches[0]))
        theta_ref = theta
        for batch in batches[: self.n_ref]:
            theta = self.reference_optimizer(theta, gradient(theta, batch))
        delta = add(theta, scale(-1.0, theta_ref))
        projection = project(gradient(theta, batches[self.n_ref]), delta)
        self.projections.append(projection)
        return self.optimizer(theta_ref, projection.gradient)
