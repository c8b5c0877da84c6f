"""Archives of NumPy's that hold data or weights."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from profit_optax.compare.errors import CompareError


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
