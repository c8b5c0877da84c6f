"""Plain stochastic gradient descent."""

import optax

from benchmarks.forgetting.methods import Method

MOMENTUM = 0.9


def sgd() -> Method:
    """SGD with momentum."""
    return Method(
        name="SGD",
        gradients=1,
        optimizer=lambda setting: optax.sgd(setting["rate"], momentum=MOMENTUM),
        grid=(("rate", (1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1, 2e-1)),),
    )
