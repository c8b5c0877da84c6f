"""Gradients that are means over devices, whatever maps the program over them."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import lax

from profit_optax import _axes, _checks


def reduced_value_and_grad(
    loss_fn: Callable[[chex.ArrayTree, Any], Any], axis_name: str | tuple[str, ...], *, has_aux: bool = False
) -> Callable[[chex.ArrayTree, Any], tuple[Any, chex.ArrayTree]]:
    """`jax.value_and_grad` for data parallelism by hand: value and gradients are the means over the devices.

    Where the mean belongs depends on what maps the program. Under `jax.shard_map` with `check_vma=True` the gradient
    of a local loss with respect to replicated parameters comes out summed over devices, so the *loss* is averaged and
    then differentiated. Under `check_vma=False`, `jax.pmap` and `jax.vmap` it comes out local, so the *gradients* are
    averaged. Either recipe is wrong in the other place; the types of the values tell which place this is.

    Args:
      loss_fn: `(params, batch) -> loss`, the mean loss over this device's part of the batch, not yet reduced over
        `axis_name`; with `has_aux`, `(params, batch) -> (loss, aux)`. It may use collectives of its own, such as those
        of BatchNorm over all devices.
      axis_name: the axis, or axes, over which the batch is sharded and the parameters are replicated.
      has_aux: whether `loss_fn` returns a pair.

    Returns:
      A function `(params, batch) -> (value, grads)`, as `jax.value_and_grad` would return it for the whole batch,
      where every device has an equal part; with `has_aux` the value is `(value, aux)`, and `aux` is this device's own.
      The gradients of complex leaves come conjugated, as Optax wants them.
      It is a `value_and_grad_fn` for `profit`, and makes the gradients for any optimizer.

    Raises:
      TypeError: if `loss_fn` is no function, `axis_name` neither a name nor a tuple of names, or `has_aux` no bool.
      ValueError: if `axis_name` names an axis twice; when traced, if it is not an axis of a surrounding `shard_map` or
        `pmap`, and, where types tell (`check_vma=True`), if the parameters differ along it or the loss does not.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jax.sharding import AxisType, PartitionSpec as P
      >>> from profit_optax import profit
      >>> from profit_optax.distributed import reduced_value_and_grad
      >>> def loss_fn(params, batch):
      ...     return jnp.mean((batch @ params) ** 2)
      >>> value_and_grad_fn = reduced_value_and_grad(loss_fn, "data")
      >>> tx = profit(optax.adamw(1e-2), optax.sgd(1e-3))
      >>> def step(params, state, batches):
      ...     value, grads = value_and_grad_fn(params, batches[0])
      ...     updates, state = tx.update(
      ...         grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=batches[1:])
      ...     return optax.apply_updates(params, updates), state, value
      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
      >>> step = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), P(None, "data")), out_specs=P()))
      >>> params = jnp.ones(3)
      >>> batches = jnp.ones((2, 4 * jax.device_count(), 3))  # n_ref + 1 batches, 4 examples a device
      >>> params, state, value = step(params, tx.init(params), batches)
      >>> float(value)
      9.0

    References:
      The JAX documentation, *Manual parallelism with shard_map*, on `check_vma` and on how `psum` transposes.

    .. note::
      Under `jax.jit` with sharded arrays there is no axis name and nothing to reduce: `jax.value_and_grad` is right
      there. Do not combine this with another mean or sum of the loss or of the gradients over the same axis. The axes
      over which *parameters* are sharded by hand do not belong in `axis_name` but in that of `profit`; differentiate
      through them under `check_vma=True`, because elsewhere a `psum` in the loss multiplies the gradients of sharded
      leaves by its number of devices.
    """
    axes = _check_axes(axis_name)
    _checks.check_flag("has_aux", has_aux)
    if not callable(loss_fn):
        raise TypeError(
            f"loss_fn must be a function (params, batch) -> loss, got {type(loss_fn).__name__}. "
            "Pass the function itself, not its value or its gradient."
        )

    def value_and_grad_fn(params: chex.ArrayTree, batch: Any) -> tuple[Any, chex.ArrayTree]:
        tracked = tuple(axis for axis in axes if _is_tracked(axis))
        untracked = tuple(axis for axis in axes if axis not in tracked)
        _check_replicated(params, tracked)

        def mean_loss(params: chex.ArrayTree) -> Any:
            result = loss_fn(params, batch)
            loss, aux = _check_pair(result) if has_aux else (result, None)
            _check_local(loss, tracked)
            return (lax.pmean(loss, tracked) if tracked else loss), aux

        (value, aux), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        if untracked:
            value, grads = lax.pmean((value, grads), untracked)
        # Optax descends along the conjugate of what JAX calls the gradient of a complex leaf.
        return ((value, aux) if has_aux else value), jax.tree.map(jnp.conj, grads)

    return value_and_grad_fn


def _check_axes(axis_name: Any) -> tuple[str, ...]:
    axes = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if not axes or not all(isinstance(axis, str) for axis in axes):
        raise TypeError(
            f"axis_name must be the name of a mesh axis or a tuple of such names, got {axis_name!r}. Pass the axis "
            'over which the batch is sharded, such as "data".'
        )
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis_name must name each axis once, got {axis_name!r}. Leave the second one out.")
    return axes


def _is_tracked(axis: str) -> bool:
    remedy = (
        f'. Call inside one, such as jax.pmap(step, axis_name="{axis}"); under jax.jit with sharded arrays use '
        "jax.value_and_grad, whose gradients are those of the whole batch there."
    )
    return _axes.is_tracked(axis, remedy)


def _check_replicated(params: chex.ArrayTree, tracked: tuple[str, ...]) -> None:
    """An error if types say that parameters differ along a data axis: nothing would add up their gradients."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    for path, axes in zip(paths, _axes.leaf_axes(None, params), strict=True):
        for axis in tracked:
            if axis in axes:
                raise ValueError(
                    f"params{jax.tree_util.keystr(path)} must be the same on all devices along axis_name={axis!r}, got "
                    "a leaf that varies along it: its gradient would be that of one device over their number. Pass the "
                    f"parameters into shard_map with a PartitionSpec without {axis!r}. If loss_fn gathers parameters "
                    f"that are sharded over {axis!r} by hand, use jax.value_and_grad of the loss's lax.pmean instead."
                )


def _check_pair(result: Any) -> tuple[Any, Any]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(
            f"loss_fn must return the pair (loss, aux) with has_aux=True, got a {type(result).__name__}. Return both, "
            "or leave has_aux out."
        )
    return result


def _check_local(loss: Any, tracked: tuple[str, ...]) -> None:
    """An error if types say that the loss is the same along a data axis: it has been reduced, or has one batch."""
    varying = {axis for axes in _axes.leaf_axes(None, loss) for axis in axes}
    for axis in tracked:
        if axis not in varying:
            raise ValueError(
                f"loss_fn must return the loss of this device's part of the batch, which varies along "
                f"axis_name={axis!r}, got one that does not: it was reduced already, and a sum would make the "
                "gradients too large by the number of devices, or every device has the same batch. Return the local "
                f"mean, leave pmean and psum out, and shard the batch with in_specs such as P({axis!r})."
            )
