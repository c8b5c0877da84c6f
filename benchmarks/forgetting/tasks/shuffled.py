"""The order in which a seed meets its examples."""

import itertools
from collections.abc import Iterator

import numpy as np


def shuffled(examples: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    """Batches of so many of the examples' indices, endlessly: shuffled anew in every epoch, whose rest is left out."""
    for epoch in itertools.count():
        order = np.random.default_rng([seed, epoch]).permutation(examples)
        for end in range(size, len(order) + 1, size):
            yield order[end - size : end]
