"""Endless batches from arrays and from any loader."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from profit_optax.compare.errors import KEPT, CompareError, said
from profit_optax.compare.task import is_foreign


def stream(name: str, batches: Any, batch_size: int | None, seed: int) -> Iterator[Any]:
    """The batches of a seed, epoch after epoch, as trees of arrays.

    Args:
      name: what errors call them.
      batches: as `Task` has them.
      batch_size: examples in a batch of arrays.
      seed: decides their order.
    """
    if callable(batches):
        return _explained(name, seed, _of_loader(name, batches, seed))
    return _of_arrays(jax.tree.map(np.asarray, batches, is_leaf=is_foreign), batch_size or 1, seed)


def one_pass(name: str, batches: Any, batch_size: int | None, seed: int, most: int) -> Iterator[Any]:
    """At most `most` batches of one epoch."""
    if callable(batches):
        return _explained(name, seed, itertools.islice(_one_epoch(batches, seed), most))
    per_epoch = len(jax.tree.leaves(batches, is_leaf=is_foreign)[0]) // (batch_size or 1)
    return itertools.islice(stream(name, batches, batch_size, seed), min(per_epoch, most))


def as_arrays(batch: Any) -> Any:
    """A batch of any framework: what is no JAX array becomes one of NumPy's."""
    return jax.tree.map_with_path(_as_array, batch, is_leaf=is_foreign)


def _as_array(path: Any, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    array = np.asarray(leaf)
    if array.dtype.kind in "OUSM":
        raise CompareError(
            f"a batch has {type(leaf).__name__} at {jax.tree_util.keystr(path) or 'its only leaf'}, of which a model "
            "cannot take a gradient: let `batches` leave it out."
        )
    return array


def _of_arrays(arrays: Any, batch_size: int, seed: int) -> Iterator[Any]:
    examples = len(jax.tree.leaves(arrays)[0])
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(examples)
        for end in range(batch_size, examples + 1, batch_size):
            at = order[end - batch_size : end]
            yield jax.tree.map(lambda x, at=at: x[at], arrays)


def _one_epoch(batches: Callable[[int], Iterable[Any]], seed: int) -> Iterator[Any]:
    yield from map(as_arrays, batches(seed))


def _explained(name: str, seed: int, batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, and an error that says whose a failure is."""
    try:
        yield from batches
    except CompareError:
        raise
    except Exception as error:
        raise CompareError(f"{name}({seed}) raised {said(error)}. {KEPT}") from error


def _of_loader(name: str, batches: Any, seed: int) -> Iterator[Any]:
    loader, first, given = None, None, 0
    while True:
        # A loader that can be read again shuffles for itself; an iterator that ended cannot, and is made anew.
        if loader is None or hasattr(loader, "__next__"):
            loader = batches(seed)
            if not hasattr(loader, "__iter__"):
                raise CompareError(f"{name}({seed}) must return an iterable of batches, got {type(loader).__name__}.")
        before = given
        for batch in loader:
            arrays = as_arrays(batch)
            first = arrays if first is None else first
            if _is_complete(name, arrays, first):
                given += 1
                yield arrays
        if given == before:
            raise CompareError(f"{name}({seed}) gave no batch: let it return an iterable that has some.")


def _is_complete(name: str, batch: Any, first: Any) -> bool:
    """Whether a batch has the shapes of the first one. Fewer examples are an epoch's rest; all else is an error."""
    structure: Any = jax.tree.structure(batch)
    if structure != jax.tree.structure(first):
        raise CompareError(f"{name} must all have one structure, got {structure} after {jax.tree.structure(first)}.")
    shapes = [(np.shape(x), np.shape(y)) for x, y in zip(jax.tree.leaves(batch), jax.tree.leaves(first), strict=True)]
    if all(shape == expected for shape, expected in shapes):
        return True
    if all(shape == expected or _is_shorter(shape, expected) for shape, expected in shapes):
        return False
    raise CompareError(
        f"{name} must all have the same shapes, so that one program serves them: got {[s for s, _ in shapes]} after "
        f"{[s for _, s in shapes]}. Pad them to one length."
    )


def _is_shorter(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) > 0 and shape[0] < expected[0] and shape[1:] == expected[1:]
