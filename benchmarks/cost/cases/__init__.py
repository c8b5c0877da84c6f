"""What is trained while costs are measured. A new case is a function that returns a `Case`, named in `catalogue`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax


class Case(NamedTuple):
    """A model, its loss and the size of its batches, all in float32.

    Attributes:
      name: what options and tables call it.
      title: what it is, for readers.
      params: the trained parameters.
      frozen: parameters that the loss reads and nothing updates; an empty dict if there are none.
      loss: `loss(params, frozen, batch)`.
      batches: `batches(n)` are n batches, on a leading axis of every leaf.
      batch: how large a batch is, for readers.
      eager: `eager(torch, params, batch)` is the same loss in PyTorch, of a dict that `eager.tensors` makes; None
        where there is none.
    """

    name: str
    title: str
    params: chex.ArrayTree
    frozen: chex.ArrayTree
    loss: Callable[[chex.ArrayTree, chex.ArrayTree, Any], jax.Array]
    batches: Callable[[int], Any]
    batch: str
    eager: Callable[[Any, Mapping[str, Any], Any], Any] | None = None


class Sizes(NamedTuple):
    """Bytes that tell what a step is bound by.

    Attributes:
      params: of all parameters, frozen ones included: the unit P.
      trained: of the trained parameters.
      activations: of what the backward pass keeps from the forward pass, parameters and batch apart, as JAX has it
        before XLA drops or recomputes any.
    """

    params: int
    trained: int
    activations: int


def sizes(case: Case) -> Sizes:
    """The sizes of a case, from shapes alone."""
    trained, frozen = tree_bytes(case.params), tree_bytes(case.frozen)
    return Sizes(trained + frozen, trained, _activation_bytes(case))


def tree_bytes(tree: chex.ArrayTree) -> int:
    """The bytes of all leaves together."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def one_batch(case: Case) -> Any:
    """A single batch."""
    return jax.tree.map(lambda x: x[0], case.batches(1))


def _activation_bytes(case: Case) -> int:
    def kept(params: chex.ArrayTree, frozen: chex.ArrayTree, batch: Any) -> Any:
        return jax.tree.leaves(jax.vjp(lambda p: case.loss(p, frozen, batch), params)[1])

    jaxpr: Any = jax.make_jaxpr(kept)(case.params, case.frozen, one_batch(case)).jaxpr
    given = set(jaxpr.invars)
    computed = {x for x in jaxpr.outvars if isinstance(x, type(jaxpr.invars[0])) and x not in given}
    return sum(x.aval.size * x.aval.dtype.itemsize for x in computed)
