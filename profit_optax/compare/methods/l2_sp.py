"""L2-SP: a spring to the weights that fine-tuning starts from."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax.compare.methods import Main, Method, check_strength, from_optimizer


class PullToStartState(NamedTuple):
    """State of `pull_to_start`.

    Attributes:
      start: the parameters at `init`.
    """

    start: chex.ArrayTree


def pull_to_start(strength: float | jax.Array) -> optax.GradientTransformation:
    """L2-SP as a transformation: adds strength · (θ − θ₀) to the gradients, θ₀ being the parameters at `init`.

    Before an optimizer it is the gradient of strength/2 ‖θ − θ₀‖², which Adam rescales with the rest.

    Args:
      strength: of the pull, at least 0; a number. Useful ones lie about 0.01 to 1.

    Returns:
      A `GradientTransformation` whose updates have the dtypes of what comes in.

    Raises:
      ValueError: if strength is negative, and in `update` without `params`.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from profit_optax.compare import pull_to_start
      >>> tx = optax.chain(pull_to_start(0.5), optax.sgd(1.0))
      >>> state = tx.init(jnp.array([1.0]))
      >>> updates, state = tx.update(jnp.array([0.25]), state, jnp.array([2.0]))
      >>> updates.tolist()
      [-0.75]

    References:
      Li et al., *Explicit Inductive Bias for Transfer Learning with Convolutional Networks*, ICML 2018.

    .. note::
      It keeps a copy of the parameters. A fresh layer should not be pulled to where it began: `optax.masked` leaves it
      out. With `profit` it goes inside the main optimizer: `profit(optax.chain(pull_to_start(0.1), optax.adamw(1e-4)),
      optax.sgd(1e-5))`.
    """
    check_strength(strength)

    def init_fn(params: chex.ArrayTree) -> PullToStartState:
        # Copies: a state that shares the parameters' arrays could not be donated.
        return PullToStartState(jax.tree.map(jnp.copy, params))

    def update_fn(
        updates: chex.ArrayTree, state: PullToStartState, params: chex.ArrayTree | None = None
    ) -> tuple[chex.ArrayTree, PullToStartState]:
        if params is None:
            raise ValueError("params must be given to pull_to_start, got None. Call tx.update(grads, state, params).")
        pulled = jax.tree.map(lambda g, p, p0: g + (strength * (p - p0)).astype(g.dtype), updates, params, state.start)
        return pulled, state

    return optax.GradientTransformation(init_fn, update_fn)


def l2_sp(strength: float = 0.1, main: Main = optax.adamw) -> Method:
    """`main` on gradients with a pull to the start."""
    return from_optimizer(f"L2-SP {strength:g}", lambda rate: optax.chain(pull_to_start(strength), main(rate)))
