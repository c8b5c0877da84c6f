"""Each gradient without what conflicts with the one before."""

import optax

from profit_optax._previous import orthogonalize_to_previous
from profit_optax.compare.methods import Main, Method, from_optimizer


def one_line(decay: float = 0.0, main: Main = optax.adamw) -> Method:
    """`orthogonalize_to_previous` before `main`: this project's own, one gradient a step."""

    def optimizer(rate: float) -> optax.GradientTransformation:
        return optax.chain(orthogonalize_to_previous(decay), main(rate))

    return from_optimizer("one line", optimizer)
