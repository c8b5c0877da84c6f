"""Flax NNX: the closure that `profit` takes, from a loss on the model."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import errors, nnx

# No counter of a stream gets here: keys derived with it are not drawn by the model itself.
_INSIDE = 2**32 - 1


def update_arguments(
    loss_fn: Callable[[Any, Any], Any], model: nnx.Module, batches: Any, *, wrt: Any, has_aux: bool = False
) -> dict[str, Any]:
    """The keywords that `nnx.Optimizer.update` hands to `profit`: the closure, and the batches for it.

    Call it after your own pass, in the same traced function: `optimizer.update(model, grads, **update_arguments(...))`.
    Inside, the loss runs on copies of the model with displaced parameters, and the model itself stays as your pass
    left it: its BatchNorm statistics and other variables are those of the pass at θ.

    Random streams in the model, such as those of `nnx.Dropout`, are forked for the passes inside: for the key of each
    stream, pass i has `jax.random.split(jax.random.fold_in(key, 2**32 - 1), n_ref)[i]` and the count as it is now. The
    model's own streams do not move. So the masks of two passes differ, a rerun has the same ones, and the model draws
    what it would draw with any other optimizer.

    Args:
      loss_fn: `loss_fn(model, batch)`, a scalar, or with `has_aux` the pair of it and a pytree: what you also give to
        `nnx.value_and_grad`.
      model: the model, after your pass at θ.
      batches: the step's other batches, a pytree whose every leaf has a leading axis of length n_ref.
      wrt: the filter of the trained variables, the same as in `nnx.Optimizer` and in `nnx.value_and_grad` (there as
        `argnums=nnx.DiffState(0, wrt)`), such as `nnx.Param` or `nnx.LoRAParam`.
      has_aux: whether `loss_fn` returns a pair.

    Returns:
      A dictionary of `value_and_grad_fn`, on pure parameter states, and `batches`, with the forked streams beside
      yours. Optimizers that take extra arguments but no closure, such as `optax.adamw`, ignore both.

    Raises:
      ValueError: if the model has random streams and `batches` no leaf to take n_ref from, or, when `update` is traced,
        if the optimizer trains other variables than `wrt` selects.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from flax import nnx
      >>> from profit_optax import profit
      >>> from profit_optax.integrations.nnx import update_arguments
      >>> def loss_fn(model, batch):
      ...     x, y = batch
      ...     return jnp.mean((model(x) - y) ** 2)
      >>> @nnx.jit
      ... def train_step(model, optimizer, first_batch, batches):
      ...     loss, grads = nnx.value_and_grad(loss_fn)(model, first_batch)
      ...     optimizer.update(model, grads, **update_arguments(loss_fn, model, batches, wrt=nnx.Param))
      ...     return loss
      >>> model = nnx.Sequential(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), nnx.Dropout(0.1, rngs=nnx.Rngs(1)))
      >>> optimizer = nnx.Optimizer(model, profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=2), wrt=nnx.Param)
      >>> x, y = jax.random.normal(jax.random.key(0), (3, 8, 3)), jnp.ones((3, 8, 1))
      >>> loss = train_step(model, optimizer, (x[0], y[0]), (x[1:], y[1:]))
      >>> int(optimizer.opt_state.count[...])
      1

    References:
      This project's own.

    .. note::
      A model whose `__call__` takes an `nnx.Rngs` has it made inside of `loss_fn`, from a key that is a leaf of the
      batch: `model(x, rngs=nnx.Rngs(batch["key"]))`. Complex parameters: conjugate the gradients of your own pass,
      `jax.tree.map(jnp.conj, grads)`, as for any Optax optimizer; those of the passes inside are conjugated.
      The call-by-call forms need none of this: `optimizer.update(model, grads)` will do, and
      `profit_optax.eval_params(optimizer.opt_state, nnx.state(model, wrt))` are the parameters to evaluate, for
      `nnx.update` on a copy of the model.
    """
    graphdef, *states = nnx.split(model, wrt, nnx.RngKey, ...)
    expected = jax.tree.structure(states[0], is_leaf=lambda x: isinstance(x, nnx.Variable))
    (_, params_def), (keys, keys_def), (rest, rest_def) = map(jax.tree.flatten, states)

    def value_and_grad_fn(params: chex.ArrayTree, batch: Any) -> tuple[Any, chex.ArrayTree]:
        structure: Any = jax.tree.structure(params)
        if structure != expected:
            raise ValueError(
                f"wrt selects other variables than the optimizer trains.\n  of wrt:           {expected}\n  of the "
                f"optimizer: {structure}\nGive update_arguments the wrt that you gave to nnx.Optimizer."
            )

        def loss_on_params(params: chex.ArrayTree) -> Any:
            # Variables made here and now: those of the model belong to another trace, and must not be shared.
            variables = (
                jax.tree.unflatten(params_def, jax.tree.leaves(params)),
                jax.tree.unflatten(keys_def, batch["rng_keys"]),
                jax.tree.unflatten(rest_def, rest),
            )
            return loss_fn(nnx.merge(graphdef, *variables), batch["batch"])

        try:
            value, grads = jax.value_and_grad(loss_on_params, has_aux=has_aux)(params)
        except errors.TraceContextError as error:
            raise ValueError(
                "loss_fn must not change or draw from NNX objects other than its model, such as an nnx.Rngs that it "
                "closes over: they belong to the trace outside. Make the nnx.Rngs inside of loss_fn from a key in the "
                'batch, as in model(x, rngs=nnx.Rngs(batch["key"])), with one key for each batch.'
            ) from error
        # Optax descends along the conjugate of what JAX calls the gradient of a complex leaf.
        return value, jax.tree.map(jnp.conj, grads)

    rng_keys = [_fork(key, _length(batches)) for key in keys]
    return {"value_and_grad_fn": value_and_grad_fn, "batches": {"batch": batches, "rng_keys": rng_keys}}


def _length(batches: Any) -> int:
    """n_ref, as the batches have it; whether they all agree is for `profit` to check."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]
    if not shapes or not shapes[0]:
        raise ValueError(
            "batches must be a pytree whose every leaf has a leading axis of length n_ref: the model has random "
            f"streams, and each pass is given keys of its own. Got leaves of shapes {shapes}. If the loss needs no "
            "data, pass jnp.arange(n_ref)."
        )
    return shapes[0][0]


def _fork(key: jax.Array, n_ref: int) -> jax.Array:
    """Keys [n_ref, ...] from keys [...]; a stream that `nnx.vmap` or `nnx.scan` made holds several."""
    forked = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, _INSIDE), n_ref), out_axes=1)(key.reshape(-1))
    return forked.reshape(n_ref, *key.shape)
