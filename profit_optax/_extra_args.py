"""Extra arguments of `update`, for every optimizer that takes them."""

import inspect
from typing import Any

import chex
import optax


def with_extra_args(tx: Any) -> Any:
    """The `update` of an optimizer, called with extra arguments of which it is handed those that it takes.

    `optax.with_extra_args_support` goes by the type: it keeps all of them from objects such as `optax.MultiSteps`,
    which take them, and hands all of them to optimizers such as `optax.contrib.sam`, which take but one.
    """
    parameters = inspect.signature(tx.update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return tx.update

    def update(
        updates: chex.ArrayTree, state: optax.OptState, params: chex.ArrayTree | None = None, **extra_args: Any
    ) -> tuple[chex.ArrayTree, optax.OptState]:
        taken = {name: value for name, value in extra_args.items() if name in parameters}
        return tx.update(updates, state, params, **taken)

    return update
