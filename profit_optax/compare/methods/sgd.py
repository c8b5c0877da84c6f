"""Stochastic gradient descent."""

import optax

from profit_optax.compare.methods import Method, from_optimizer


def sgd(momentum: float = 0.9, rate_factor: float = 30.0) -> Method:
    """SGD with momentum, at rates that many times higher than Adam's, of which it needs such."""
    return from_optimizer("SGD", lambda rate: optax.sgd(rate, momentum), rate_factor=rate_factor)
