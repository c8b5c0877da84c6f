"""A moving average of the weights."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax.compare.methods import Main, Method, from_optimizer


class AverageParamsState(NamedTuple):
    """State of `average_params`.

    Attributes:
      average: the moving average of the parameters, which begins with those at `init`.
    """

    average: chex.ArrayTree


def average_params(decay: jax.typing.ArrayLike = 0.99) -> optax.GradientTransformation:
    """Keeps a moving average of the parameters and leaves the updates as they are: the last in a chain.

    Args:
      decay: of the average after each step, between 0 and 1. It looks back about 1/(1 − decay) steps.

    Returns:
      A `GradientTransformation`; `averaged(opt_state, params)` is what to evaluate.

    Raises:
      ValueError: if decay is not between 0 and 1, and in `update` without `params`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from profit_optax.compare import average_params, averaged
      >>> tx = optax.chain(optax.sgd(1.0), average_params(0.5))
      >>> params = jnp.array([1.0])
      >>> updates, state = tx.update(jnp.array([2.0]), tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> params.tolist(), averaged(state, params).tolist()
      ([-1.0], [0.0])

    References:
      Polyak and Juditsky, *Acceleration of Stochastic Approximation by Averaging*, 1992. Beginning with the old weights
      is what makes it keep some of the old task.
    """
    if isinstance(decay, int | float) and not 0 <= decay <= 1:
        raise ValueError(f"decay must be between 0 and 1, got {decay}.")

    def init_fn(params: chex.ArrayTree) -> AverageParamsState:
        return AverageParamsState(jax.tree.map(jnp.copy, params))

    def update_fn(
        updates: chex.ArrayTree, state: AverageParamsState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, AverageParamsState]:
        if params is None:
            raise ValueError("params must be given to average_params, got None. Call tx.update(grads, state, params).")
        average = jax.tree.map(
            lambda mean, p: (decay * mean + (1 - decay) * p).astype(mean.dtype),
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, AverageParamsState(average)

    return optax.GradientTransformation(init_fn, update_fn)


def averaged(opt_state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
    """The average that `average_params` keeps somewhere in an optimizer's state.

    Args:
      opt_state: the state.
      params: the parameters it belongs to, which give the tree.

    Returns:
      A pytree like `params`.

    Raises:
      ValueError: if there is no average in the state, or more than one.

    Examples:
      >>> import jax.numpy as jnp
      >>> from profit_optax.compare import average_params, averaged
      >>> averaged(average_params().init(jnp.ones(1)), jnp.zeros(1)).tolist()
      [1.0]

    References:
      This project's own.
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, AverageParamsState))
    found = [leaf for leaf in leaves if isinstance(leaf, AverageParamsState)]
    if len(found) != 1:
        raise ValueError(f"opt_state must hold one state of average_params, got {len(found)}.")
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(found[0].average))


def ema(decay: float = 0.99, main: Main = optax.adamw) -> Method:
    """`main`, evaluated at the moving average of its weights."""
    chained = lambda rate: optax.chain(main(rate), average_params(decay))  # noqa: E731
    return from_optimizer(f"EMA {decay:g}", chained, eval_params=averaged)
