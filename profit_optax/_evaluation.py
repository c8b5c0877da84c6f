"""The parameters to evaluate and to export, whatever the form and the moment."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax import _checks
from profit_optax._closure import ProfitState
from profit_optax._previous import OrthogonalizeToPreviousState
from profit_optax._transparent import ProfitTransparentState

_REMEDY = (
    "Pass the parameters that belong to this state. Wrappers that change the tree, such as optax.flatten, go inside "
    "both optimizers, not around."
)

_States = (ProfitState, ProfitTransparentState, OrthogonalizeToPreviousState)


def eval_params(opt_state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
    """θ, the fine-tuned parameters themselves: what is evaluated, exported and compared.

    `profit_transparent` hands the training loop displaced parameters. Its state keeps θ, and this finds it, at any
    depth of `optax.chain`, `optax.inject_hyperparams`, `optax.MultiSteps` and other wrappers; the leaves that
    `optax.partition` or `optax.masked` keep from PROFIT are taken from `params`.

    Args:
      opt_state: the state of an optimizer with a form of PROFIT in it, vmapped or not.
      params: the parameters that the training loop holds together with that state.

    Returns:
      θ, a pytree like `params`: bit for bit what the next main step starts from. `params` as they are for the forms
      that displace nothing.

    Raises:
      ValueError: if there is no state of PROFIT in `opt_state`, or one that belongs to other parameters.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from profit_optax import eval_params, profit_transparent
      >>> tx = optax.apply_if_finite(profit_transparent(optax.sgd(0.5), optax.sgd(0.0625)), 3)
      >>> params = jnp.array([1.0, 2.0])
      >>> updates, state = tx.update(jnp.ones(2), tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> params.tolist(), eval_params(state, params).tolist()
      ([0.9375, 1.9375], [1.0, 2.0])

    References:
      This project's own, after `optax.contrib.schedule_free_eval_params`.
    """
    states = states_in(_without_variables(opt_state))
    theta = functools.reduce(_undisplaced, states, _without_variables(params))
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(theta))


def states_in(opt_state: optax.OptState) -> list[Any]:
    """The states of forms of PROFIT at any depth, or an error if there is none."""
    states = [leaf for leaf in jax.tree.leaves(opt_state, is_leaf=_is_state) if _is_state(leaf)]
    if not states:
        raise ValueError(
            f"opt_state must hold the state of profit, profit_transparent or orthogonalize_to_previous, "
            f"got {type(opt_state).__name__} without one. Pass the state that tx.init and tx.update return, whole."
        )
    return states


def _without_variables(tree: Any) -> Any:
    """The arrays alone: `nnx.Optimizer` wraps each array of its state in a Variable, of a kind other than Param."""
    return jax.tree.map(lambda x: _value_of(x) if _is_variable(x) else x, tree, is_leaf=_is_variable)


def _is_variable(x: Any) -> bool:
    return hasattr(x, "get_metadata") and hasattr(x, "copy_from")


def _value_of(variable: Any) -> Any:
    # Flax before 0.12.1 has no other name for it that stays.
    return variable.get_value() if hasattr(variable, "get_value") else variable[...]


def _is_state(x: Any) -> bool:
    return isinstance(x, _States)


def _undisplaced(params: chex.ArrayTree, state: Any) -> chex.ArrayTree:
    if not isinstance(state, ProfitTransparentState):
        return params
    kept = state.reference_step > 0
    saved = jax.tree.map(lambda x: None if _is_masked(x) else x, state.params, is_leaf=_is_masked)
    _checks.check_same_tree("θ in opt_state", saved, "params", params, missing_leaves=True, remedy=_REMEDY)

    def choose(theta: Any, p: Any) -> Any:
        if theta is None:
            return p
        # A vmapped state has its batch axes in front.
        condition = jnp.reshape(kept, kept.shape + (1,) * (jnp.ndim(theta) - kept.ndim))
        return jnp.where(condition, theta, p)

    return jax.tree.map(choose, saved, params, is_leaf=lambda x: x is None)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)
