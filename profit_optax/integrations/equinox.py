"""Equinox: the closure that `profit` takes, from a loss on the model."""

from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

ValueAndGradFn = Callable[[chex.ArrayTree, Any], tuple[Any, chex.ArrayTree]]


def make_value_and_grad_fn(
    loss_fn: Callable[[Any, Any], Any], model: Any, *, filter_spec: Any = eqx.is_inexact_array, has_aux: bool = False
) -> ValueAndGradFn:
    """The closure that `profit` takes, on the trained arrays of an Equinox model.

    The parameters are `eqx.filter(model, filter_spec)`: the model with None for everything that is not trained. So
    neither the optimizer nor PROFIT spends memory on the rest, and it takes no part in the projection.

    Args:
      loss_fn: `loss_fn(model, batch)`, a scalar, or with `has_aux` the pair of it and a pytree.
      model: the model, or any pytree, that what is not trained is taken from.
      filter_spec: what is trained: a function of a leaf, or a pytree of bools, as in `eqx.partition`. It must select
        floating-point or complex arrays only.
      has_aux: whether `loss_fn` returns a pair.

    Returns:
      A function `(params, batch) -> (value, grads)`, for your own pass on the first batch and for `tx.update`. The
      gradients of complex leaves come conjugated, as Optax wants them.

    Raises:
      TypeError: when called, from JAX, if `filter_spec` selects what cannot be differentiated.

    Examples:
      >>> import equinox as eqx, jax, jax.numpy as jnp, optax
      >>> from profit_optax import profit
      >>> from profit_optax.integrations.equinox import make_value_and_grad_fn
      >>> def loss_fn(model, batch):
      ...     x, y = batch
      ...     return jnp.mean((jax.vmap(model)(x) - y) ** 2)
      >>> tx = profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=2)
      >>> @eqx.filter_jit
      ... def train_step(model, opt_state, first_batch, batches):
      ...     value_and_grad_fn = make_value_and_grad_fn(loss_fn, model)
      ...     params = eqx.filter(model, eqx.is_inexact_array)
      ...     loss, grads = value_and_grad_fn(params, first_batch)
      ...     updates, opt_state = tx.update(
      ...         grads, opt_state, params, value_and_grad_fn=value_and_grad_fn, batches=batches)
      ...     return eqx.apply_updates(model, updates), opt_state, loss
      >>> model = eqx.nn.MLP(3, 1, width_size=4, depth=1, key=jax.random.key(0))
      >>> opt_state = tx.init(eqx.filter(model, eqx.is_inexact_array))
      >>> x, y = jax.random.normal(jax.random.key(1), (3, 8, 3)), jnp.ones((3, 8, 1))
      >>> model, opt_state, loss = train_step(model, opt_state, (x[0], y[0]), (x[1:], y[1:]))
      >>> int(opt_state.count)
      1

    References:
      This project's own.

    .. note::
      Dropout keys are leaves of the batches, one key a batch. A state (`eqx.nn.State`, as of BatchNorm) is closed over
      by `loss_fn` and returned as aux: the one to keep is that of your own pass, since what the passes inside return
      is dropped. Equinox lets a state be used once, so let `loss_fn` clone it: `jax.tree.map(lambda x: x, state)`.
      `tx.update(grads, opt_state, model, ...)` with the whole model in place of `params` works as well: what has no
      gradient stays as it is. Pytrees of real arrays alone, such as a dictionary of parameters, need nothing but
      `jax.value_and_grad`.
    """
    _, static = eqx.partition(model, filter_spec)

    def loss_on_params(params: chex.ArrayTree, batch: Any) -> Any:
        return loss_fn(eqx.combine(params, static), batch)

    def value_and_grad_fn(params: chex.ArrayTree, batch: Any) -> tuple[Any, chex.ArrayTree]:
        # They may be the whole model.
        trained = eqx.filter(params, filter_spec)
        value, grads = jax.value_and_grad(loss_on_params, has_aux=has_aux)(trained, batch)
        # Optax descends along the conjugate of what JAX calls the gradient of a complex leaf.
        return value, jax.tree.map(jnp.conj, grads)

    return value_and_grad_fn
