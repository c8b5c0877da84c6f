"""CIFAR-10 and CIFAR-100 from the public archives for Python, unpacked."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import numpy as np

from profit_optax.compare.errors import CompareError

TRAIN_IMAGES = 50_000
TEST_IMAGES = 10_000

_PIXELS = 32 * 32 * 3
# What NumPy rebuilds an array with. Its module has had two names, and files have either.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class Images(NamedTuple):
    """Labelled images, on the host or on a device: uint8 [n, 32, 32, 3] and int32 [n]."""

    pixels: chex.Array
    labels: chex.Array

    def first(self, count: int) -> "Images":
        """So many of them, or all where there are fewer."""
        return Images(self.pixels[:count], self.labels[:count])


class Archive(NamedTuple):
    """One data set: the images to train on, and those to evaluate on."""

    train: Images
    test: Images


class ArchiveError(CompareError):
    """A file of an archive is missing, damaged, or not what it should be."""


def cifar10(folder: Path) -> Archive:
    """CIFAR-10 from `folder`, which holds `cifar-10-batches-py`.

    Raises:
      ArchiveError: names the file that is missing or damaged, and says what to do.
    """
    source = folder / "cifar-10-batches-py"
    train = [source / f"data_batch_{i}" for i in range(1, 6)]
    return Archive(_images(train, b"labels", 10), _images([source / "test_batch"], b"labels", 10))


def cifar100(folder: Path) -> Archive:
    """CIFAR-100 with its 100 fine labels, from `cifar-100-python`; else as `cifar10`."""
    source = folder / "cifar-100-python"
    return Archive(*(_images([source / name], b"fine_labels", 100) for name in ("train", "test")))


def _images(paths: Sequence[Path], labels: bytes, classes: int) -> Images:
    parts = [_of_file(path, labels, classes) for path in paths]
    return Images(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _of_file(path: Path, labels_entry: bytes, classes: int) -> Images:
    if not path.exists():
        raise ArchiveError(
            f"{path} is missing: get the archive 'for Python' from the data set's home page, unpack it, and name the"
            " folder that you unpacked it in."
        )
    try:
        # The public archives were written by Python 2, whose strings are bytes.
        entries = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        rows, labels = np.asarray(entries[b"data"]), np.ravel(entries[labels_entry])
    except Exception as error:
        # Damaged pickles raise whatever the damage makes them do.
        raise ArchiveError(
            f"{path} cannot be read ({type(error).__name__}: {error}): get the archive again."
        ) from error
    known = set(labels.tolist()) <= set(range(classes))
    if not known or rows.dtype != np.uint8 or rows.shape != (len(labels), _PIXELS):
        raise ArchiveError(
            f"{path} is no file of CIFAR-{classes} for Python: get the archive again. Expected are images, uint8"
            f" [n, {_PIXELS}], and as many labels from 0 to {classes - 1}; it has {rows.dtype}"
            f" {list(rows.shape)}, and {len(labels)} labels."
        )
    pixels = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), labels.astype(np.int32))


class _Unpickler(pickle.Unpickler):
    """Rebuilds arrays and plain Python objects, and nothing else: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs")
        return _ALLOWED[module, name]
