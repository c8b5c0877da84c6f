"""Crops and flips against the same done by hand."""

import itertools

import jax
import numpy as np

from benchmarks.forgetting.tasks.cifar.augment import PAD, random_crop_and_flip


def images(*shape):
    # No pixel is black, and none of a column or row is like another.
    return np.random.default_rng(0).integers(1, 256, (*shape, 6, 6, 3), dtype=np.uint8)


def every_version(image):
    """Every crop of the padded image, as it is and mirrored, by its position."""
    padded = np.zeros((6 + 2 * PAD, 6 + 2 * PAD, 3), np.uint8)
    padded[PAD:-PAD, PAD:-PAD] = image
    for y, x in itertools.product(range(2 * PAD + 1), repeat=2):
        crop = padded[y : y + 6, x : x + 6]
        yield (y, x, False), crop
        yield (y, x, True), crop[:, ::-1]


def position(image, augmented):
    (found,) = [where for where, version in every_version(image) if np.array_equal(version, augmented)]
    return found


def test_each_image_is_a_crop_of_its_own_at_every_place_and_both_ways_round():
    originals = images(2000)
    augmented = np.asarray(jax.jit(random_crop_and_flip)(jax.random.key(0), originals))
    assert augmented.dtype == np.uint8
    ys, xs, flips = zip(*map(position, originals[:300], augmented[:300]), strict=True)
    assert set(ys) == set(xs) == set(range(2 * PAD + 1))
    # 300 throws of a coin: three standard deviations are 26.
    assert abs(sum(flips) - 150) < 26
    # Chance is the image's own: rows, columns and flips do not go together.
    assert len(set(zip(ys, xs, flips, strict=True))) > 100


def test_leading_axes_and_reproducibility():
    stacked = images(2, 3)
    first = random_crop_and_flip(jax.random.key(1), stacked)
    assert first.shape == stacked.shape
    flat = random_crop_and_flip(jax.random.key(1), stacked.reshape(6, 6, 6, 3))
    np.testing.assert_array_equal(first.reshape(flat.shape), flat)
    other = random_crop_and_flip(jax.random.key(2), stacked)
    assert not np.array_equal(first, other)
