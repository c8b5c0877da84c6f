"""A network that trains in a second, and images that it can learn."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.tasks.cifar import networks
from benchmarks.forgetting.tasks.cifar.archives import Archive, Images
from benchmarks.forgetting.tasks.cifar.few_examples import Sizes


class Backbone(nn.Module):
    """A layer on the colours of the quarters of an image."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.relu(nn.Dense(8, dtype=self.dtype)(quarters(x)))


def quarters(images: jax.Array) -> jax.Array:
    """Mean colours of the quarters of images of 32 x 32, [n, 12]."""
    return images.reshape(-1, 2, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(len(images), -1)


def linear(params: Any, images: jax.Array) -> jax.Array:
    """A linear network on those, which compiles in no time: the outputs of its head."""
    scaled = quarters(images) / 25 * params["backbone"]["scale"][None]
    return scaled @ params["head"]["kernel"] + params["head"]["bias"][None]


def linear_params(classes: int) -> dict[str, Any]:
    """Parameters of it."""
    head = {"kernel": jnp.zeros((12, classes)), "bias": jnp.zeros(classes)}
    return {"backbone": {"scale": jnp.ones(12)}, "head": head}


def add_toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "toy" the name of a network."""
    monkeypatch.setattr(networks, "NETWORKS", {**networks.NETWORKS, "toy": Backbone})


def colours(count: int, classes: int, seed: int) -> Images:
    """Noisy images, of a colour for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % classes
    of_class = np.random.default_rng(classes).integers(40, 216, (classes, 1, 1, 3))
    pixels = of_class[labels] + rng.integers(-40, 40, (count, 32, 32, 3))
    return Images(pixels.astype(np.uint8), labels)


def archive(train: int, test: int, classes: int) -> Archive:
    return Archive(colours(train, classes, seed=0), colours(test, classes, seed=1))


# CIFAR-10 and CIFAR-100, and how much of them is used.
TEN, HUNDRED = archive(100, 50, 10), archive(400, 200, 100)
SIZES = Sizes(examples=40, held_out=20, test=30, batch=8)
