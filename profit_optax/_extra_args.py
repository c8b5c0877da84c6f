"""Extra arguments of `update`, for every optimizer that takes them."""

import inspect
from typing import Any

import optax


def with_extra_args(tx: Any) -> Any:
    """The `update` of an optimizer, called with extra arguments whether it takes any or not.

    `optax.with_extra_args_support` goes by the type, and so keeps them from objects such as `optax.MultiSteps`, which
    take them.
    """
    parameters = inspect.signature(tx.update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return tx.update
    return optax.with_extra_args_support(tx).update
