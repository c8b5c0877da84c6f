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

# Characters of numbers that are kept as they are.
_SHOWN = 300


def of_arrays(tree: Any) -> str:
    """A hash of a tree's structure, shapes, dtypes and bits."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = to_numpy(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def of_text(text: str) -> str:
    """A hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_program(closed_jaxpr: Any) -> str:
    """A hash of a traced program and of the arrays that it closes over."""
    # Functions are printed with their addresses, which differ from process to process; and on terminals in colours.
    text = re.sub(r"0x[0-9a-f]+|\x1b\[[0-9;]*m", "", str(closed_jaxpr))
    return of_text(text + of_arrays(list(closed_jaxpr.consts)))


def of_source(function: Callable[..., Any]) -> str:
    """A hash of a function's source text; empty where Python does not know it."""
    try:
        return of_text(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def of_what_is_read(function: Callable[..., Any]) -> dict[str, str]:
    """Hashes of the functions that a function calls and of the arrays it reads, and its numbers, as far as is known.

    Those are its module's globals that it reads and what it closes over, the attributes of objects whose class is not
    an installed package's, and what these read in turn. Installed packages are left to their versions.
    """
    functions, arrays, numbers, changing = [], [], set[tuple[str, str]](), set[str]()
    seen, waiting = set[int](), list[tuple[str, Any]]([("", function)])
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, int | float | complex):
            numbers.add((name, repr(value)))
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        # Not lists: a scorer may write into one what it has seen.
        if isinstance(value, tuple):
            waiting += [(f"{name}[{i}]", each) for i, each in enumerate(value)]
        elif isinstance(value, dict):
            waiting += [(f"{name}[{key!r}]", each) for key, each in value.items()]
        elif isinstance(value, functools.partial):
            waiting += [(name, each) for each in (value.func, value.args, value.keywords)]
        elif _is_whole_array(value):
            arrays.append(of_arrays(value))
        elif found := _own_function(value):
            functions.append(of_source(found))
            waiting += [*_named_by(found), (name, getattr(value, "__self__", None))]
            changing |= _written_by(found)
        elif _is_own(kind := value if isinstance(value, type) else type(value)):
            functions.append(of_source(kind))
            waiting += [*vars(kind).items(), *(getattr(value, "__dict__", {}).items())]
    # A number that the code itself changes is a count of what it has seen.
    fixed = [f"{name}={value}" for name, value in numbers if re.split(r"[.\[]", name)[0] not in changing]
    hashes = {kind: of_text("".join(sorted(each))) for kind, each in (("functions", functions), ("arrays", arrays))}
    # As they are, so that an error can say which one is another: it may be the time, which is only printed.
    shown = ", ".join(sorted(fixed))
    return hashes | {"numbers": shown if len(shown) <= _SHOWN else of_text(shown)}


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


def _is_own(kind: type) -> bool:
    """Whether a class is written in Python and is none of an installed package's."""
    try:
        return not inspect.getfile(kind).startswith(INSTALLED)
    except TypeError:  # Python's own.
        return False
    except OSError:  # From no file, as in a notebook.
        return True


def _codes(function: types.FunctionType) -> list[types.CodeType]:
    """A function's code, and that of the functions inside of it."""
    found = [function.__code__]
    for code in found:
        found += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return found


def _named_by(function: types.FunctionType) -> list[tuple[str, Any]]:
    """What a function closes over, and the globals that it or a function inside of it reads, by their names."""
    read = [each.argval for code in _codes(function) for each in dis.get_instructions(code)
            if each.opname == "LOAD_GLOBAL"]  # fmt: skip
    closed = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # It is empty.
            closed.append((name, cell.cell_contents))
    known = function.__globals__
    return [*closed, *((name, known[name]) for name in dict.fromkeys(read) if name in known)]


def _written_by(function: types.FunctionType) -> set[str]:
    """Names of globals, of what it closes over and of attributes to which a function assigns, but for `__init__`."""
    if function.__name__ == "__init__":
        return set()
    stores = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR")
    return {each.argval for code in _codes(function) for each in dis.get_instructions(code) if each.opname in stores}


def to_numpy(leaf: Any) -> np.ndarray:
    """A leaf on the host; typed PRNG keys as their data."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
