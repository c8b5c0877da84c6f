"""A pull to where fine-tuning started, which a fresh last layer does not have."""

import chex
import jax
import optax

from benchmarks.forgetting.methods import FEW_RATES, Method, Setting
from profit_optax.compare import pull_to_start


def l2_sp() -> Method:
    """AdamW on the loss + strength/2 ‖θ − θ₀‖² (L2-SP; Li et al., 2018).

    The pull is part of the gradient, so Adam rescales it with the rest; the paper's own optimizer is SGD. A fresh layer
    has AdamW's weight decay, in place of the paper's further term.
    """
    grid = (("rate", FEW_RATES), ("strength", (1e-3, 1e-2, 1e-1)))
    return Method("L2-SP", 1, lambda x: pulled(optax.adamw(x["rate"]), x, x["strength"]), grid=grid)


def pulled(
    optimizer: optax.GradientTransformation, setting: Setting, strength: chex.Numeric
) -> optax.GradientTransformation:
    """An optimizer on gradients with a pull to the start."""

    def old(params: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree.map(lambda fresh: not fresh, setting["task"].fresh(params))

    return optax.chain(optax.masked(pull_to_start(strength), old), optimizer)
