"""CIFAR-10 and CIFAR-100 from the public archives for Python, packed or unpacked."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
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
    """Labelled images, on the host or on a device.

    Attributes:
      pixels: uint8 [n, 32, 32, 3].
      labels: int32 [n].
    """

    pixels: chex.Array
    labels: chex.Array


class Archive(NamedTuple):
    """One data set.

    Attributes:
      train: the images to train on.
      test: the images to evaluate on.
    """

    train: Images
    test: Images


class ArchiveError(CompareError):
    """A file of an archive is missing, damaged, or not what it should be."""


class _Layout(NamedTuple):
    """How an archive is laid out.

    Attributes:
      name: of the data set, for people.
      folder: what it unpacks to.
      packed: its name before the suffix.
      train: the training files in order.
      test: the test file.
      labels: the entry with the labels.
      classes: how many there are.
    """

    name: str
    folder: str
    packed: str
    train: tuple[str, ...]
    test: str
    labels: bytes
    classes: int


_CIFAR10 = _Layout(
    "CIFAR-10",
    "cifar-10-batches-py",
    "cifar-10-python",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    b"labels",
    10,
)
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
    source = _find(layout, folder)
    wanted = {*layout.train, layout.test}
    files = _unpacked(source, wanted) if source.is_dir() else _packed(source, layout.folder, wanted)
    train = _take(layout, source, layout.train, files, train_images)
    return Archive(train, _take(layout, source, (layout.test,), files, test_images))


def _find(layout: _Layout, folder: Path) -> Path:
    candidates = [folder / layout.folder, *(folder / f"{layout.packed}{suffix}" for suffix in _SUFFIXES)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ArchiveError(
        f"{folder} has no {layout.name}: expected the folder {layout.folder} or the file {layout.packed}.tar.gz in it."
        f" Get the archive 'for Python' from the data set's home page, and name the folder that you put it in."
    )


def _unpacked(source: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    return {name: (source / name).read_bytes() for name in wanted if (source / name).is_file()}


def _packed(source: Path, folder: str, wanted: Iterable[str]) -> dict[str, bytes]:
    paths = {f"{folder}/{name}": name for name in wanted}
    try:
        return dict(_members(source, paths))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"{source} is damaged ({error}): get the archive again.") from error


def _members(source: Path, paths: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """The wanted files in the order that they are packed in, since going back means to decompress again."""
    with tarfile.open(source) as archive:
        for member in archive:
            name, file = paths.get(member.name.removeprefix("./")), archive.extractfile(member)
            if name and file:
                yield name, file.read()
        # The check sum of what is compressed is behind the last file, and whoever does not get there misses damage.
        while archive.fileobj and archive.fileobj.read(2**20):
            pass


def _take(layout: _Layout, source: Path, names: Iterable[str], files: Mapping[str, bytes], wanted: int) -> Images:
    """The first `wanted` images of the files `names`, of which no more than necessary are read."""
    parts, found = [], 0
    for name in names:
        if found < wanted:
            parts.append(_images(layout, source / name, files.get(name)))
            found += len(parts[-1].labels)
    if found < wanted:
        raise ArchiveError(
            f"{source} holds {found} images in {', '.join(names)}, and {wanted} were asked for: get the whole archive,"
            f" or ask for fewer."
        )
    pixels, labels = (np.concatenate(arrays)[:wanted] for arrays in zip(*parts, strict=True))
    return Images(pixels, labels)


def _images(layout: _Layout, path: Path, content: bytes | None) -> Images:
    if content is None:
        raise ArchiveError(f"{path} is missing: get the whole {layout.name} archive, or ask for fewer images.")
    entries = _unpickle(path, content)
    try:
        rows, labels = np.asarray(entries[b"data"]), np.asarray(entries[layout.labels])
    except (KeyError, TypeError, ValueError) as error:
        raise _not_a_batch(layout, path, f"{type(error).__name__}: {error}") from error
    _check(layout, path, rows, labels)
    pixels = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), labels.astype(np.int32))


def _check(layout: _Layout, path: Path, rows: np.ndarray, labels: np.ndarray) -> None:
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != _PIXELS:
        raise _not_a_batch(layout, path, f"its images are {rows.dtype} {list(rows.shape)}, not uint8 [n, {_PIXELS}]")
    if labels.shape != rows.shape[:1]:
        raise _not_a_batch(layout, path, f"{len(rows)} images have labels of shape {list(labels.shape)}")
    if labels.size and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= layout.classes):
        raise _not_a_batch(layout, path, f"its labels are not integers from 0 to {layout.classes - 1}")


def _not_a_batch(layout: _Layout, path: Path, problem: str) -> ArchiveError:
    return ArchiveError(f"{path} is no file of {layout.name} for Python ({problem}): get the archive again.")


class _Unpickler(pickle.Unpickler):
    """Rebuilds arrays and plain Python objects, and nothing else: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data set needs") from None


def _unpickle(path: Path, content: bytes) -> Any:
    try:
        # The public archives were written by Python 2, whose strings are bytes.
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:
        # Damaged pickles raise whatever the damage makes them do.
        raise ArchiveError(f"{path} cannot be read ({error}): get the archive again.") from error
