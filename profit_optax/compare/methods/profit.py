"""PROFIT in its closure form."""

import optax

from profit_optax._closure import profit as profit_closure
from profit_optax.compare.methods import Main, Method, from_optimizer


def profit(n_ref: int = 1, ratio: float = 10.0, main: Main = optax.adamw, name: str = "PROFIT") -> Method:
    """PROFIT around `main`, with n_ref SGD reference steps at 1/ratio of its rate (Chakravarthy et al., 2025)."""

    def optimizer(rate: float) -> optax.GradientTransformation:
        return profit_closure(main(rate), optax.sgd(rate / ratio), n_ref)

    return from_optimizer(name, optimizer, gradients=n_ref + 1, closure=True)
