"""What tells one comparison from another: hashes of arrays, programs and the scorer's source."""

import hashlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of_arrays(tree: Any) -> str:
    """A hash of a tree's structure, shapes, dtypes and bits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = to_numpy(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def of_program(closed_jaxpr: Any) -> str:
    """A hash of a traced program and of the arrays that it closes over."""
    # Functions are printed with their addresses, which differ from process to process.
    text = re.sub(r"0x[0-9a-f]+", "", str(closed_jaxpr))
    return hashlib.sha256((text + of_arrays(list(closed_jaxpr.consts))).encode()).hexdigest()[:16]


def of_source(function: Callable[..., Any]) -> str:
    """A hash of a function's source text; empty where Python does not know it."""
    try:
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        return ""


def to_numpy(leaf: Any) -> np.ndarray:
    """A leaf on the host; typed PRNG keys as their data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
