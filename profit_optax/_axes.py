"""Sums over trees whose leaves are sharded by hand, each over its own mesh axes, and shardings in types."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Axes = tuple[Any, ...]

# Few enough for one kernel to take.
_CHUNK = 64

_BY_HAND = " over which parameters are sharded by hand. Under jax.jit with sharded arrays leave axis_name out."


def leaf_axes(axis_name: Any, *trees: Any) -> list[Axes]:
    """The mesh axes over which each leaf of trees of one structure is sharded, as far as a collective is concerned.

    What `axis_name` says is taken. Under `check_vma=True` the type of a leaf says over which axes its values differ:
    that decides where nothing is said, and elsewhere a leaf that is the same along an axis is not sharded over it.

    Args:
      axis_name: None, a name, a tuple of names, or a prefix pytree of these.
      *trees: pytrees of arrays; a leaf is sharded where it is in any of them.

    Returns:
      One tuple of axis names for each leaf.
    """
    leaves = zip(*map(jax.tree.leaves, trees), strict=True)
    varying = [frozenset.union(*map(_varying_axes, leaf)) for leaf in leaves]
    if axis_name is None:
        return [tuple(sorted(axes, key=str)) for axes in varying]
    declared = _broadcast_axes(trees[0], axis_name)
    untracked = {axis for axes in declared for axis in axes if not is_tracked(axis, _BY_HAND)}
    return [
        tuple(sorted((types | untracked).intersection(axes), key=str))
        for types, axes in zip(varying, declared, strict=True)
    ]


def like_sums(x: jax.Array, axis_name: Any, tree: Any) -> jax.Array:
    """`x` as types have it of a sum over `tree`: one value for each of the models that `axis_name` keeps apart."""
    if not any(map(_varying_axes, jax.tree.leaves(tree))):
        # As where types say nothing, or outside of any map, where the names of axes mean nothing either.
        return x
    leaves = zip(jax.tree.leaves(tree), leaf_axes(axis_name, tree), strict=True)
    apart = frozenset().union(*(_varying_axes(leaf).difference(axes) for leaf, axes in leaves))
    return _varying(x, tuple(sorted(apart, key=str))) if apart else x


def sum_leaves(values: Sequence[Any], axes: Sequence[Axes], initial: Any) -> Any:
    """Adds up one value a leaf, with one collective for each distinct set of axes.

    Args:
      values: for each leaf, a pytree of scalars that describes its local shard.
      axes: for each leaf, the axes over which its shards lie.
      initial: what an empty tree gives.

    Returns:
      A pytree like each of `values`, the same on every device.
    """
    totals = ((_total(group), names) for names, group in _groups(values, axes))
    return functools.reduce(_add, (lax.psum(total, names) if names else total for total, names in totals), initial)


def max_leaves(values: Sequence[jax.Array], axes: Sequence[Axes], initial: jax.Array) -> jax.Array:
    """The largest of one value a leaf, as in `sum_leaves`."""
    for names, group in _groups(values, axes):
        largest = functools.reduce(jnp.maximum, group)
        initial = jnp.maximum(initial, lax.pmax(largest, names) if names else largest)
    return initial


def sharded_like(x: jax.Array, other: jax.Array) -> jax.Array:
    """`x` in the sharding of `other`: on meshes with explicit axes types have one, and a sharded state's spreads."""
    sharding = jax.typeof(other).sharding
    return x if jax.typeof(x).sharding == sharding else jax.sharding.reshard(x, sharding)


def _groups(values: Sequence[Any], axes: Sequence[Axes]) -> Iterable[tuple[Axes, list[Any]]]:
    """The values of the leaves that are sharded over the same axes."""
    groups: dict[Axes, list[Any]] = {}
    for value, names in zip(values, axes, strict=True):
        groups.setdefault(names, []).append(value)
    return groups.items()


def _total(values: Sequence[Any]) -> Any:
    """The sum of pytrees of scalars.

    XLA repeats a chain of additions wherever its end is read, and the time to compile one grows faster than its length.
    Sums over arrays that it cannot see through are one operation each.
    """
    chunks = [values[i : i + _CHUNK] for i in range(0, len(values), _CHUNK)]
    return functools.reduce(_add, (jax.tree.map(_sum, *chunk) for chunk in chunks))


def _sum(*scalars: jax.Array) -> jax.Array:
    return jnp.sum(lax.optimization_barrier(jnp.stack(scalars)))


def _add(tree: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, tree, other)


def _broadcast_axes(tree: Any, axis_name: Any) -> list[Axes]:
    try:
        per_leaf = jax.tree.broadcast(axis_name, tree, is_leaf=_is_axes)
    except ValueError as error:
        raise ValueError(
            f"axis_name must be a name, a tuple of names, or a prefix pytree of these for the parameters, got "
            f"{axis_name!r}, which is no prefix of {jax.tree.structure(tree)}. Write None where leaves are replicated."
        ) from error
    # Read at the places of the tree's leaves: the axes of a leaf are None or a tuple, which are no leaves themselves.
    structure: Any = jax.tree.structure(tree)
    return [_as_axes(axes) for axes in structure.flatten_up_to(per_leaf)]


def _is_axes(x: Any) -> bool:
    """Whether `x` says where a leaf is sharded: None, a name, or a tuple of nothing but names."""
    return x is None or isinstance(x, str) or (type(x) is tuple and all(isinstance(name, str) for name in x))


def _as_axes(axes: Any) -> Axes:
    if axes is None:
        return ()
    return axes if isinstance(axes, tuple) else (axes,)


def _varying_axes(x: Any) -> frozenset[Any]:
    of: Any = jax.typeof(x)
    # JAX before 0.10 has them under another name.
    return frozenset(of.manual_axis_type.varying if hasattr(of, "manual_axis_type") else of.vma)


def _varying(x: jax.Array, axes: Axes) -> jax.Array:
    """`x` as types have it of what differs along `axes`."""
    if hasattr(lax, "pcast"):
        return lax.pcast(x, axes, to="varying")
    # JAX before 0.8.2 has it under another name.
    return lax.pvary(x, axes)  # type: ignore[attr-defined]


def is_tracked(axis: Any, remedy: str) -> bool:
    """Whether types record variation over `axis`: the index of a device along it varies by definition.

    Args:
      axis: the name of an axis; if it is not bound, an error says so.
      remedy: the end of what that error says.
    """
    try:
        index = lax.axis_index(axis)
    except NameError as error:
        raise ValueError(
            f"axis_name={axis!r} is not bound here: it must be an axis of a surrounding jax.shard_map or jax.pmap"
            f"{remedy}"
        ) from error
    return axis in _varying_axes(index)
