"""What tells one comparison from another: hashes of arrays, programs and the scorer's source."""

import contextlib
import dis
import functools
import hashlib
import inspect
import re
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from profit_optax.compare.errors import INSTALLED


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


def of_what_is_read(function: Callable[..., Any]) -> dict[str, str]:
    """Hashes of the functions that a function calls and of the arrays that it reads, as far as Python knows them.

    Those are its module's globals that it reads and what it closes over, and what these functions read in turn.
    Functions of installed packages are left to their versions.
    """
    functions, arrays, seen, waiting = [], [], set[int](), [function]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        # Not lists: a scorer may write into one what it has seen.
        if isinstance(value, tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, functools.partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif _is_whole_array(value):
            arrays.append(of_arrays(value))
        elif found := _own_function(value):
            functions.append(of_source(found))
            waiting += _named_by(found)
    hashes = {"functions": functions, "arrays": arrays}
    return {name: hashlib.sha256("".join(sorted(each)).encode()).hexdigest()[:16] for name, each in hashes.items()}


def _is_whole_array(value: Any) -> bool:
    """Whether an array has bits: not one of Python's objects, nor one that was donated."""
    if isinstance(value, jax.Array):
        return not value.is_deleted()
    return isinstance(value, np.ndarray) and not value.dtype.hasobject


def _own_function(value: Any) -> types.FunctionType | None:
    """The function that an object calls, also within jit or as a method; None if it is an installed package's."""
    if not callable(value):
        return None
    function = inspect.unwrap(getattr(value, "__func__", value))
    if not isinstance(function, types.FunctionType) or function.__code__.co_filename.startswith(INSTALLED):
        return None
    return function


def _named_by(function: types.FunctionType) -> list[Any]:
    """What a function closes over, and the globals that it or a function inside of it reads."""
    codes, names = [function.__code__], []
    while codes:
        code = codes.pop()
        names += [each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"]
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    closed = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # It is empty.
            closed.append(cell.cell_contents)
    known = function.__globals__
    return [*closed, *(known[name] for name in dict.fromkeys(names) if name in known)]


def to_numpy(leaf: Any) -> np.ndarray:
    """A leaf on the host; typed PRNG keys as their data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
