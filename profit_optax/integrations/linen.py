"""Flax Linen: a train state that hands extra arguments to the optimizer."""

import dataclasses
from typing import Any, Self

import chex
import optax
from flax.training import train_state

import profit_optax
from profit_optax import _extra_args


class TrainState(train_state.TrainState):
    """Flax's `TrainState` for optimizers that take extra arguments, such as the closure and batches of `profit`.

    `create`, `replace` and all fields are Flax's own; subclass it for further fields, as there. For
    `profit_transparent` and `orthogonalize_to_previous` the state that Flax has will do, apart from `eval_params`.

    Examples:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, optax
      >>> from profit_optax import profit
      >>> from profit_optax.integrations.linen import TrainState
      >>> model = nn.Dense(1)
      >>> x = jax.random.normal(jax.random.key(0), (2, 8, 3))  # n_ref + 1 batches of 8
      >>> y = jnp.ones((2, 8, 1))
      >>> state = TrainState.create(
      ...     apply_fn=model.apply, params=model.init(jax.random.key(1), x[0])["params"],
      ...     tx=profit(optax.adamw(1e-2), optax.sgd(1e-3)))
      >>> @jax.jit
      ... def train_step(state, first_batch, batches):
      ...     def loss_fn(params, batch):
      ...         inputs, targets = batch
      ...         return jnp.mean((state.apply_fn({"params": params}, inputs) - targets) ** 2)
      ...     value_and_grad_fn = jax.value_and_grad(loss_fn)
      ...     loss, grads = value_and_grad_fn(state.params, first_batch)
      ...     return state.apply_gradients(grads=grads, value_and_grad_fn=value_and_grad_fn, batches=batches), loss
      >>> state, loss = train_step(state, (x[0], y[0]), (x[1:], y[1:]))
      >>> int(state.step), int(state.opt_state.count)
      (1, 1)

    .. note::
      BatchNorm: let `loss_fn` return the new statistics as aux, from `apply_fn(..., mutable=["batch_stats"])` with
      the statistics of `state`, and pass those of *your* pass on to `apply_gradients(..., batch_stats=...)`. What the
      passes inside return is dropped, so the statistics are updated once a step, from the pass at θ. Dropout: make
      the keys leaves of the batches, one key a batch, so that every pass has a mask of its own and a rerun has the
      same ones.
    """

    def apply_gradients(self, *, grads: chex.ArrayTree, **kwargs: Any) -> Self:
        """Takes one step: as in Flax, but keywords that are no fields of the state go to `tx.update`.

        Args:
          grads: the gradient at `self.params` on the step's first batch.
          **kwargs: fields to replace, such as `batch_stats`; all others are extra arguments of `tx.update`:
            `value_and_grad_fn` and `batches` for `profit`. An optimizer that takes none is not handed them, so that a
            loop written for `profit` runs any other optimizer. A misspelt field therefore is no error.

        Returns:
          The state after the step.
        """
        names = {field.name for field in dataclasses.fields(self)}
        fields = {name: value for name, value in kwargs.items() if name in names}
        extra_args = {name: value for name, value in kwargs.items() if name not in names}
        update = _extra_args.with_extra_args(self.tx)

        def update_with_extra_args(
            updates: chex.ArrayTree, state: optax.OptState, params: chex.ArrayTree | None = None
        ) -> tuple[chex.ArrayTree, optax.OptState]:
            return update(updates, state, params, **extra_args)

        bound = self.replace(tx=optax.GradientTransformation(self.tx.init, update_with_extra_args))
        return super(TrainState, bound).apply_gradients(grads=grads, **({"tx": self.tx} | fields))

    @property
    def eval_params(self) -> chex.ArrayTree:
        """The parameters to evaluate and export, θ, in every form of PROFIT and at every moment.

        Raises:
          ValueError: if there is no state of PROFIT in `opt_state`.
        """
        return profit_optax.eval_params(self.opt_state, self.params)
