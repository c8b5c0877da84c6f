"""Sharpness-aware minimisation."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting, Stepped, ValueAndGradFn


def sam() -> Method:
    """Optax's SAM (Foret et al., 2021) around AdamW: two gradients a step, both on the same batch."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        adversary = optax.chain(optax.contrib.normalize(), optax.sgd(setting["rho"]))
        return optax.contrib.sam(optax.adamw(setting["rate"]), adversary, opaque_mode=True)

    def step(
        tx: optax.GradientTransformation,
        value_and_grad_fn: ValueAndGradFn,
        params: chex.ArrayTree,
        state: optax.OptState,
        batches: Any,
    ) -> Stepped:
        batch = jax.tree.map(lambda x: x[0], batches)
        _, grads = value_and_grad_fn(params, batch)
        updates, state = tx.update(grads, state, params, grad_fn=lambda params, _: value_and_grad_fn(params, batch)[1])
        return optax.apply_updates(params, updates), state

    grid = (("rate", FEW_RATES), ("rho", (0.01, 0.05, 0.2)))
    return Method("SAM", 2, optimizer, step, batches=1, grid=grid)
