"""Tasks far from handwritten digits, for models that know nothing but those."""

from collections.abc import Mapping

import numpy as np
from sklearn.datasets import make_classification

from benchmarks.forgetting.tasks.digits import Transform


def permuted_pixels(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same pixels, all in other places."""
    order = np.random.default_rng(0).permutation(images[0].size)
    return images.reshape(len(images), -1)[:, order].reshape(images.shape), labels


def permuted_labels(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same images, each called by the number after its own: no label stays."""
    return images, (labels + 1) % 10


def inverted_upside_down(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dark strokes on a light ground, turned by 180 degrees."""
    return 1 - images[:, ::-1, ::-1], labels


def generated_classes(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ten Gaussian classes that are no images, with values from 0 to 1 like pixels."""
    del labels
    values, classes = make_classification(
        n_samples=len(images),
        n_features=images[0].size,
        n_informative=20,
        n_redundant=20,
        n_classes=10,
        n_clusters_per_class=1,
        class_sep=2.0,
        random_state=0,
    )
    low, high = values.min(axis=0), values.max(axis=0)
    return ((values - low) / (high - low)).reshape(images.shape), classes


FAR: Mapping[str, Transform] = {
    "pixels permuted": permuted_pixels,
    "labels permuted": permuted_labels,
    "inverted and upside down": inverted_upside_down,
    "generated classes": generated_classes,
}
