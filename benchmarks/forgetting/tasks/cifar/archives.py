"""CIFAR-10 and CIFAR-100 from the public archives for Python, packed or unpacked."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import numpy as np

from profit_optax.compare.errors import CompareError

TRAIN_IMAGES = 50_000
TEST_IMAGES = 10_000

_PIXELS = 32 * 32 * 3
_SUFFIXES = (".tar.gz", ".tgz", ".tar")
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


class Archive(NamedTuple):
    """One data set: the images to train on, and those to evaluate on."""

    train: Images
    test: Images


class ArchiveError(CompareError):
    """A file of an archive is missing, damaged, or not what it should be."""


class _Layout(NamedTuple):
    """How an archive is laid out.

    That is the data set's name for people, the folder that it unpacks to, its own name before the suffix, the training
    files in order, the test file, the entry with the labels, and how many classes there are.
    """

    name: str
    folder: str
    packed: str
    train: tuple[str, ...]
    test: str
    labels: bytes
    classes: int


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_CIFAR10 = _Layout("CIFAR-10", "cifar-10-batches-py", "cifar-10-python", _BATCHES, "test_batch", b"labels", 10)
_CIFAR100 = _Layout("CIFAR-100", "cifar-100-python", "cifar-100-python", ("train",), "test", b"fine_labels", 100)


def cifar10(folder: Path, train_images: int = TRAIN_IMAGES, test_images: int = TEST_IMAGES) -> Archive:
    """CIFAR-10 from `folder`, which holds `cifar-10-batches-py` or `cifar-10-python.tar.gz`.

    Args:
      folder: where the archive is, packed or unpacked.
      train_images: how many images to train on, the archive's first ones. Files that are not needed may be missing.
      test_images: how many images to evaluate on, likewise.

    Raises:
      ArchiveError: names the file that is missing or damaged, and says what to do.
    """
    return _load(_CIFAR10, folder, train_images, test_images)


def cifar100(folder: Path, train_images: int = TRAIN_IMAGES, test_images: int = TEST_IMAGES) -> Archive:
    """CIFAR-100 with its 100 fine labels, from `cifar-100-python` or `cifar-100-python.tar.gz`; else as `cifar10`."""
    return _load(_CIFAR100, folder, train_images, test_images)


def _load(layout: _Layout, folder: Path, train_images: int, test_images: int) -> Archive:
    candidates = [folder / layout.folder, *(folder / f"{layout.packed}{suffix}" for suffix in _SUFFIXES)]
    source = next((candidate for candidate in candidates if candidate.exists()), None)
    if source is None:
        raise ArchiveError(
            f"{folder} has no {layout.name}: expected the folder {layout.folder} or the file {layout.packed}.tar.gz in"
            " it. Get the archive 'for Python' from the data set's home page, and name the folder that you put it in."
        )
    files = {path.name: path.read_bytes() for path in source.iterdir()} if source.is_dir() else _unpacked(source)
    train = _first(layout, source, layout.train, files, train_images)
    return Archive(train, _first(layout, source, (layout.test,), files, test_images))


def _unpacked(source: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    files[Path(member.name).name] = file.read()
            # The check sum of what is compressed is behind the last file, and whoever does not get there misses damage.
            while archive.fileobj and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"{source} is damaged ({error}): get the archive again.") from error
    return files


def _first(layout: _Layout, source: Path, names: Sequence[str], files: Mapping[str, bytes], wanted: int) -> Images:
    """The first `wanted` images of the files `names`, of which no more than necessary are read."""
    parts: list[Images] = []
    for name in names:
        if sum(len(part.labels) for part in parts) < wanted:
            parts.append(_images(layout, source / name, files.get(name)))
    pixels, labels = (np.concatenate(arrays)[:wanted] for arrays in zip(*parts, strict=True))
    if len(labels) < wanted:
        raise ArchiveError(
            f"{source} holds {len(labels)} images in {', '.join(names)}, and {wanted} were asked for: get the whole"
            " archive, or ask for fewer."
        )
    return Images(pixels, labels)


def _images(layout: _Layout, path: Path, content: bytes | None) -> Images:
    if content is None:
        raise ArchiveError(f"{path} is missing: get the whole {layout.name} archive, or ask for fewer images.")
    try:
        # The public archives were written by Python 2, whose strings are bytes.
        entries = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        rows, labels = np.asarray(entries[b"data"]), np.ravel(entries[layout.labels])
    except Exception as error:
        # Damaged pickles raise whatever the damage makes them do.
        raise ArchiveError(
            f"{path} cannot be read ({type(error).__name__}: {error}): get the archive again."
        ) from error
    known = set(labels.tolist()) <= set(range(layout.classes))
    if not known or rows.dtype != np.uint8 or rows.shape != (len(labels), _PIXELS):
        raise ArchiveError(
            f"{path} is no file of {layout.name} for Python: get the archive again. Expected are images, uint8"
            f" [n, {_PIXELS}], and as many labels from 0 to {layout.classes - 1}; it has {rows.dtype}"
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
