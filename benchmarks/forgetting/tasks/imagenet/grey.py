"""Grey images for a network of coloured ones: Fashion-MNIST and scikit-learn's digits."""

import gzip
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.forgetting.tasks.arrays import ArraysError
from benchmarks.forgetting.tasks.cifar.archives import Archive, Images

# Where Debian's package `dataset-fashion-mnist` (MIT licence) puts it.
FASHION = Path("/usr/share/datasets/fashion-mnist")
# Of 1,797, in the order of their writers, so that those at the end are of other hands.
_TEST_DIGITS = 400


def fashion(folder: Path = FASHION) -> Archive:
    """Fashion-MNIST: ten kinds of clothes, 28 x 28.

    Raises:
      ArraysError: if a file is missing, or not what it should be.
    """
    parts = [(f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")]
    return Archive(*(Images(coloured(idx(folder / of)), idx(folder / to).astype(np.int32)) for of, to in parts))


def digits() -> Archive:
    """Scikit-learn's handwritten digits, 8 x 8."""
    images, labels = load_digits(return_X_y=True)
    pixels = coloured(np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8))
    every = Images(pixels, labels.astype(np.int32))
    train = every.first(len(labels) - _TEST_DIGITS)
    return Archive(train, Images(*(array[-_TEST_DIGITS:] for array in every)))


def coloured(pixels: np.ndarray) -> np.ndarray:
    """The same in three channels, [n, height, width, 3]."""
    return np.repeat(pixels[..., None], 3, axis=-1)


def idx(path: Path) -> np.ndarray:
    """The bytes of a compressed file of MNIST's format, in their shape.

    Raises:
      ArraysError: if there is no such file, or it is of another format.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        shape = np.frombuffer(content, ">u4", content[3], 4)
        return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise ArraysError(
            f"{path} cannot be read as a file of MNIST's format ({error}): on Debian, apt-get install"
            " dataset-fashion-mnist."
        ) from error
