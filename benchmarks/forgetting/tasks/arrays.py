"""Files that hold data or weights."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from profit_optax.compare.errors import CompareError
from profit_optax.compare.store import readable, write


class ArraysError(CompareError):
    """A file of arrays is missing, or not what it should be."""


def load_arrays(path: Path, needed: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The float32 arrays of a file by their names.

    Raises:
      ArraysError: if there is no such file, or an array that is needed is missing in it.
    """
    try:
        with np.load(path) as file:
            arrays = {name: np.asarray(file[name], np.float32) for name in file}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ArraysError(f"{path} cannot be read as one of NumPy's archives (.npz): {error}.") from error
    for name in needed:
        if name not in arrays:
            raise ArraysError(f"{path} has no {name!r}.")
    return arrays


def kept(path: Path | None, train: Callable[[], chex.ArrayTree]) -> chex.ArrayTree:
    """The parameters in a file, or newly trained ones, which are then kept there: what is killed goes on from the same.

    Args:
      path: of the file; None to keep nothing.
      train: makes the parameters, a tree of dictionaries.
    """
    if path is None:
        return train()
    if not path.exists():
        content = serialization.to_bytes(train())
        write(path, lambda file: file.write(content))
    with readable(path):
        return jax.tree.map(jnp.asarray, serialization.msgpack_restore(path.read_bytes()))
