"""What a user brings: a converged model, a loss, batches of the new task, and a function that scores parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

Loss = Callable[[chex.ArrayTree, Any], Any]
Evaluate = Callable[[chex.ArrayTree], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Task:
    """A model to fine-tune, and how to tell what it learnt and what it forgot.

    Args:
      params: the converged model's parameters, a pytree of inexact arrays: those of Linen, of `equinox.partition`, or
        `flax.nnx.as_pure(nnx.state(model, nnx.Param))`. Sharded arrays stay sharded. They are copied, never changed.
      loss: `loss(params, batch)`, a scalar to minimise on the new task, or with `has_aux` the pair of it and a pytree
        that is ignored. It is traced.
      batches: `batches(seed)`, an iterable of batches of the new task, one for each gradient: pytrees of what NumPy can
        read, such as the batches of PyTorch, Grain and TFDS loaders. One that ends is started anew, and an incomplete
        last batch is left out. The same seed must give the same batches, whatever has shuffled before: make the loader
        with a generator of that seed. Or a pytree of arrays [examples, ...], which is shuffled anew in every epoch.
      evaluate: `evaluate(params)`, a dictionary with the scores "old" and "new", and others if you like; more is
        better. Any Python: it is not traced, and may call another program. Score held-out examples.
      has_aux: whether `loss` returns a pair.
      outputs: `outputs(params, batch)`, the model's logits on a batch of the new task, [..., classes], for `lwf`.
      old_batches: batches of the old task, in the form of `batches`, for `ewc`.
      head: the model's last layer, for `head_first`: a prefix pytree of bools, or a function of params to one.
      name: what the picture calls the new task.
      batch_size: examples for one gradient, where `batches` or `old_batches` are arrays.

    Raises:
      TypeError: for arguments of a wrong type, and for parameters that are no inexact arrays.
      ValueError: for arrays without a batch_size, or fewer of them than one batch has.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from profit_optax.compare import Task
      >>> x = np.linspace(-1, 1, 32)[:, None]
      >>> loss = lambda params, batch: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> old, new = ({"x": x, "y": slope * x[:, 0]} for slope in (1.0, 1.5))
      >>> evaluate = lambda params: {"old": -float(loss(params, old)), "new": -float(loss(params, new))}
      >>> task = Task({"w": jnp.ones(1)}, loss, new, evaluate, batch_size=8)

    References:
      This project's own.

    .. note::
      Statistics of BatchNorm and other variables that are no parameters stay as the converged model has them: close
      over them in `loss` and `evaluate`. Random keys, as for dropout, belong into the batches.
    """

    params: chex.ArrayTree
    loss: Loss
    batches: Any
    evaluate: Evaluate
    _: dataclasses.KW_ONLY
    has_aux: bool = False
    outputs: Callable[[chex.ArrayTree, Any], jax.Array] | None = None
    old_batches: Any = None
    head: Any = None
    name: str = "task"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse what would fail in the middle of a comparison."""
        for name in ("loss", "evaluate"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, got {type(getattr(self, name)).__name__}.")
        for path, leaf in jax.tree.leaves_with_path(self.params):
            if not _is_inexact_array(leaf):
                raise TypeError(
                    f"params must be a pytree of inexact arrays, got {type(leaf).__name__} at "
                    f"{jax.tree_util.keystr(path) or 'the only leaf'}. Pass what is trained alone, such as "
                    "equinox.partition(model, equinox.is_inexact_array)[0] or nnx.as_pure(nnx.state(model, nnx.Param)) "
                    "(nnx.pure before Flax 0.12.7)."
                )
        if not jax.tree.leaves(self.params):
            raise ValueError("params must hold an array, got a tree without leaves.")
        for name in ("batches", "old_batches"):
            check_batches(name, getattr(self, name), self.batch_size)

    def scalar_loss(self, params: chex.ArrayTree, batch: Any) -> jax.Array:
        """The loss without what else it returns."""
        value = self.loss(params, batch)
        return value[0] if self.has_aux else value


def check_batches(name: str, batches: Any, batch_size: int | None) -> None:
    """A function of a seed, or arrays of at least one batch."""
    if batches is None and name == "old_batches":
        return
    if callable(batches):
        return
    leaves = jax.tree.leaves_with_path(batches, is_leaf=is_foreign)
    not_arrays = [leaf for _, leaf in leaves if not hasattr(leaf, "shape") or np.ndim(leaf) == 0]
    if not leaves or not_arrays:
        found = type(not_arrays[0] if not_arrays else batches).__name__
        raise TypeError(
            f"{name} must be a function of a seed that returns an iterable of batches, or a pytree of arrays "
            f"[examples, ...], got {found}. Pass a function that makes the loader, with the seed in its order: "
            "lambda seed: DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(seed))."
        )
    lengths = {jax.tree_util.keystr(path): leaf.shape[0] for path, leaf in leaves}
    if batch_size is None:
        raise ValueError(f"batch_size must be given where {name} are arrays, got None. Pass batch_size=64, say.")
    if len(set(lengths.values())) > 1 or not 1 <= batch_size <= min(lengths.values()):
        raise ValueError(
            f"{name} must be arrays of one length of at least batch_size, got lengths {lengths} and batch_size "
            f"{batch_size}."
        )


def is_foreign(x: Any) -> bool:
    """Whether an object is a leaf that JAX might take for a container: another framework's tensor, or an iterator."""
    return not isinstance(x, Mapping | list | tuple) and (hasattr(x, "__array__") or hasattr(x, "__next__"))


def _is_inexact_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
