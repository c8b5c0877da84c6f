"""Small archives in the layout of the public ones, as Python 2 would have written them."""

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class Python2Pickler(pickle._Pickler):
    """Writes strings and bytes as Python 2 wrote its strings, which Python 3 does in no protocol."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, content: str | bytes) -> None:
        plain = content.encode() if isinstance(content, str) else content
        self.write(pickle.BINSTRING + len(plain).to_bytes(4, "little") + plain)
        self.memoize(content)

    dispatch[bytes] = dispatch[str] = save_string


class FortyTwo:
    """Asks the unpickler for a function."""

    def __reduce__(self) -> Any:
        return print, (42,)


def python2_pickle(entries: dict[bytes, Any]) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(entries)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def random_images(rng: np.random.Generator, count: int, classes: int) -> tuple[np.ndarray, list[int]]:
    """Rows as the archives have them, and labels that include the first and the last class."""
    rows = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return rows, [0, classes - 1, *rng.integers(0, classes, count - 2).tolist()]


def write_cifar10(folder: Path, count: int = 4, test: int = 3) -> dict[str, tuple[np.ndarray, list[int]]]:
    """An unpacked archive of CIFAR-10 with `count` images in each training file; what it holds, by file."""
    rng = np.random.default_rng(10)
    content = {f"data_batch_{i}": random_images(rng, count, 10) for i in range(1, 6)}
    content["test_batch"] = random_images(rng, test, 10)
    _write(folder / "cifar-10-batches-py", content, b"labels")
    return content


def write_cifar100(folder: Path, count: int = 6, test: int = 3) -> dict[str, tuple[np.ndarray, list[int]]]:
    """The same for CIFAR-100."""
    rng = np.random.default_rng(100)
    content = {"train": random_images(rng, count, 100), "test": random_images(rng, test, 100)}
    _write(folder / "cifar-100-python", content, b"fine_labels")
    return content


def _write(folder: Path, content: dict[str, tuple[np.ndarray, list[int]]], key: bytes) -> None:
    folder.mkdir(parents=True)
    for name, (rows, labels) in content.items():
        entries = {b"batch_label": b"a batch", key: labels, b"data": rows, b"coarse_labels": labels}
        (folder / name).write_bytes(python2_pickle(entries))
