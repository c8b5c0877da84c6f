"""Predictions on many images in bounded memory."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.forgetting.tasks.cifar.networks import logits

CHUNK = 1000


def logits_in_chunks(backbone: nn.Module, params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """The logits of all images, [n, classes], a thousand images at a time."""
    return jax.lax.map(lambda image: logits(backbone, params, image[None])[0], images, batch_size=CHUNK)


def accuracy(backbone: nn.Module, params: chex.ArrayTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The fraction of images whose largest logit is that of their label."""
    return jnp.mean(jnp.argmax(logits_in_chunks(backbone, params, images), axis=-1) == labels)
