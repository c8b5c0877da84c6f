"""A train step for those who want none of the details, and the batches that it takes.

Both speak Optax's protocol and know no form of PROFIT: the step hands every optimizer a closure and further batches,
and sees from the trace whether it used them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from profit_optax import _checks, _extra_args

TrainStep = Callable[
    [chex.ArrayTree, optax.OptState, Any], tuple[chex.ArrayTree, optax.OptState, dict[str, chex.ArrayTree]]
]

_METRICS = ("cosine", "conflict", "displacement_norm", "gradient_norm")


def make_train_step(
    loss_fn: Callable[[chex.ArrayTree, Any], Any],
    tx: optax.GradientTransformation,
    *,
    has_aux: bool = False,
    donate: bool = True,
) -> TrainStep:
    """A jitted training step over a group of stacked batches, for every form of PROFIT and any Optax optimizer.

    An optimizer that takes a closure, such as `profit`, is called once: the group is one step of Algorithm 1. Any
    other is called once a batch, and finds nothing new in its arguments: `profit_transparent` makes one step of a
    group of n_ref + 1 batches, `orthogonalize_to_previous` in a chain and plain Optax optimizers make as many steps as
    there are batches.

    Args:
      loss_fn: `loss_fn(params, batch)`, a scalar, or with `has_aux` the pair of it and a pytree. The gradients of
        complex leaves are conjugated, as Optax wants them.
      tx: the optimizer, also inside chains and wrappers. Clipping goes inside both optimizers of PROFIT.
      has_aux: whether `loss_fn` returns a pair.
      donate: whether the memory of params and state is given to the results. What was passed is gone then.

    Returns:
      A function `train_step(params, opt_state, batches)` that returns `(params, opt_state, metrics)`. Every leaf of
      `batches` has a leading axis: n_ref + 1 for `profit` and `profit_transparent`, any length of at least 1 for the
      others, as `group_batches` makes them. The metrics are a dictionary of

      * `loss`, and with `has_aux` also `aux`: those of the pass on the first batch, at the parameters passed in. The
        passes on the other batches are dropped, in every form: values of different forms can be compared.
      * `cosine`, `conflict`, `displacement_norm`, `gradient_norm`: see `ProfitMetrics`, of the last main step. Without
        PROFIT in `tx` they are left out.

    Raises:
      TypeError: if `loss_fn` is no function, `tx` no optimizer, or `has_aux` or `donate` no bool.
      ValueError: when the step is traced, for batches without a leading axis or with one of another length than
        n_ref + 1 (or, with `profit_transparent`, a multiple or 1).

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from profit_optax import profit
      >>> from profit_optax.training import group_batches, make_train_step
      >>> def loss_fn(params, batch):
      ...     x, y = batch
      ...     return jnp.mean((x @ params["w"] - y) ** 2)
      >>> tx = profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=2)
      >>> train_step = make_train_step(loss_fn, tx)
      >>> params = {"w": jnp.ones(3)}
      >>> opt_state = tx.init(params)
      >>> x = jax.random.normal(jax.random.key(0), (9, 8, 3))  # a loader of nine batches
      >>> loader = [(inputs, jnp.sum(inputs, axis=-1) + 0.5) for inputs in x]
      >>> for batches in group_batches(loader, 2 + 1):
      ...     params, opt_state, metrics = train_step(params, opt_state, batches)
      >>> sorted(metrics)
      ['conflict', 'cosine', 'displacement_norm', 'gradient_norm', 'loss']

    References:
      Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS 2025, Algorithm 1.

    .. note::
      In warm-up `profit` takes one gradient of a group, `profit_transparent` one main step of each batch, whose
      `warmup_steps` must be a multiple of n_ref + 1 for its cycles to end with the groups. With the
      call-by-call forms evaluate `eval_params(opt_state, params)`, not `params`. Mutable model state such as BatchNorm
      statistics has no place in this step: see `profit_optax.integrations`. Inside `shard_map` or `pmap` write the
      step out, with gradients reduced over devices; a `jit` with sharded batches needs nothing.
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function (params, batch) -> loss, got {type(loss_fn).__name__}.")
    if not (hasattr(tx, "init") and hasattr(tx, "update")):
        raise TypeError(
            f"tx must be an Optax optimizer such as profit(optax.adamw(1e-4), optax.sgd(1e-5)), got "
            f"{type(tx).__name__}. Call the factory if you passed one."
        )
    _checks.check_flag("has_aux", has_aux)
    _checks.check_flag("donate", donate)
    update = _extra_args.with_extra_args(tx)

    def value_and_grad_fn(params: chex.ArrayTree, batch: Any) -> tuple[Any, chex.ArrayTree]:
        value, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, batch)
        # Optax descends along the conjugate of what JAX calls the gradient of a complex leaf.
        return value, jax.tree.map(jnp.conj, grads)

    def train_step(params: chex.ArrayTree, opt_state: optax.OptState, batches: Any) -> Any:
        _check_grouped(batches)
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        takes_closure = False

        def closure(params: chex.ArrayTree, batch: Any) -> tuple[Any, chex.ArrayTree]:
            nonlocal takes_closure
            takes_closure = True
            return value_and_grad_fn(params, batch)

        value, grads = value_and_grad_fn(params, first)
        updates, opt_state = update(grads, opt_state, params, value_and_grad_fn=closure, batches=others)
        params = optax.apply_updates(params, updates)

        def call(carry: Any, batch: Any) -> Any:
            params, opt_state = carry
            _, grads = value_and_grad_fn(params, batch)
            updates, opt_state = update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        if not takes_closure:
            (params, opt_state), _ = lax.scan(call, (params, opt_state), others)
        return params, opt_state, _metrics(value, has_aux) | _projection_metrics(opt_state)

    return jax.jit(train_step, donate_argnums=(0, 1) if donate else ())


def _check_grouped(batches: Any) -> None:
    shapes = {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(batches)}
    if not shapes or len({shape[:1] for shape in shapes.values()}) > 1 or next(iter(shapes.values()))[:1] in ((), (0,)):
        raise ValueError(
            f"batches must be a pytree whose every leaf has a leading axis of one length of at least 1, for profit and "
            f"profit_transparent n_ref + 1; got leaves of shapes {shapes}. Stack the batches of a step with "
            "group_batches(loader, n_ref + 1)."
        )


def _metrics(value: Any, has_aux: bool) -> dict[str, Any]:
    return dict(zip(("loss", "aux"), value, strict=True)) if has_aux else {"loss": value}


def _projection_metrics(opt_state: optax.OptState) -> dict[str, jax.Array]:
    # Where several parts of the parameters have a form of their own, no one of their metrics is that of the step.
    found = {name: optax.tree.get_all_with_path(opt_state, name) for name in _METRICS}
    return {name: values[0][1] for name, values in found.items() if len(values) == 1}


def group_batches(batches: Iterable[Any], size: int) -> Iterator[Any]:
    """Groups the batches of any loader and stacks each group, as `make_train_step` takes them.

    Batches that are left over at the end, fewer than `size`, are dropped. To lose none of them over several epochs,
    group the chained epochs: `group_batches(itertools.chain.from_iterable(epochs), size)`.

    Args:
      batches: an iterable of pytrees of one structure whose leaves have one shape and dtype in all batches: NumPy or
        JAX arrays, typed PRNG keys among them, numbers, or what NumPy makes an array of.
      size: batches in a group: n_ref + 1.

    Returns:
      An iterator over pytrees whose every leaf has a leading axis of length `size`. Leaves that are JAX arrays are
      stacked by JAX, others by NumPy, so that they stay on the host until the step takes them.

    Raises:
      TypeError: if `batches` is no iterable of batches, or `size` no int.
      ValueError: if `size` is below 1 and, while iterating, if a batch has another structure, shape or dtype than the
        first one of its group, such as a last batch with fewer examples: let the loader drop or fill it.

    Examples:
      >>> import numpy as np
      >>> from profit_optax.training import group_batches
      >>> loader = [{"x": np.full((4, 2), i)} for i in range(5)]
      >>> [group["x"].shape for group in group_batches(loader, 2)]
      [(2, 4, 2), (2, 4, 2)]

    References:
      This project's own.

    .. note::
      It holds no state of the loader: after a restart the loader continues at a multiple of `size` batches.
    """
    try:
        # Of these an iterator would yield letters and keys.
        iterator = None if isinstance(batches, (str, bytes, Mapping)) else iter(batches)
    except TypeError:
        iterator = None
    if iterator is None:
        raise TypeError(
            f"batches must be an iterable of batches, such as a loader or a list, got {batches!r} of type "
            f"{type(batches).__name__}. One batch by itself makes a list of one: [batch]."
        )
    return _groups(iterator, _checks.check_count("size", size, minimum=1))


def _groups(batches: Iterator[Any], size: int) -> Iterator[Any]:
    while len(group := list(itertools.islice(batches, size))) == size:
        for position, batch in enumerate(group):
            _check_alike(position, batch, group[0])
        yield jax.tree.map(_stack, *group)


def _check_alike(position: int, batch: Any, first: Any) -> None:
    structure: Any = jax.tree.structure(batch)
    expected = jax.tree.structure(first)
    if structure != expected:
        raise ValueError(
            f"batches must all have one tree structure, got {structure} at place {position} of a group that began with "
            f"{expected}. Let the loader yield the same keys for every batch."
        )
    for (path, leaf), other in zip(jax.tree.leaves_with_path(batch), jax.tree.leaves(first), strict=True):
        name = jax.tree_util.keystr(path) or "the only leaf"
        if _dtype(leaf) != _dtype(other):
            raise ValueError(
                f"batches must all have the same dtypes to be stacked: at {name} expected {_dtype(other)}, got "
                f"{_dtype(leaf)} at place {position} of a group. Let the loader convert them."
            )
        if np.shape(leaf) != np.shape(other):
            raise ValueError(
                f"batches must all have the same shapes to be stacked: at {name} expected {np.shape(other)}, got "
                f"{np.shape(leaf)} at place {position} of a group. If it is the last batch of an epoch, let the loader "
                "drop it (drop_last, drop_remainder) or fill it up."
            )


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _stack(*leaves: Any) -> Any:
    return jnp.stack(leaves) if isinstance(leaves[0], jax.Array) else np.stack(leaves)
