"""Crops and flips on the device, from the images' own bytes."""

import jax
import jax.numpy as jnp

PAD = 4


def random_crop_and_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Each image shifted by up to four pixels, with black where nothing was, and mirrored half of the time.

    Args:
      key: what chance comes from.
      images: [..., height, width, channels] of any dtype, which stays as it is.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    corner_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(corner_key, (len(flat), 2), 0, 2 * PAD + 1)
    flips = jax.random.bernoulli(flip_key, shape=(len(flat),))
    return jax.vmap(_crop_and_flip)(flat, corners, flips).reshape(images.shape)


def _crop_and_flip(image: jax.Array, corner: jax.Array, flip: jax.Array) -> jax.Array:
    padded = jnp.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)))
    image = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)
    return jnp.where(flip, image[:, ::-1], image)
