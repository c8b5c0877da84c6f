"""The paper's residual network for images of 32 x 32, and one that a CPU can train.

Parameters are float32 and apart: {"backbone": ..., "head": ...}. GroupNorm takes the place of BatchNorm, so that
parameters are all there is to a model.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_GROUP = 16
# Images of a forward pass when scoring.
CHUNK = 1000


class Classifier(nn.Module):
    """A backbone, and a linear head on its features."""

    backbone: nn.Module
    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(self.classes, name="head")(self.backbone(normalize(images)).astype(jnp.float32))


class ResNet(nn.Module):
    """Stages of residual blocks, each stage but the first at half the size of the one before."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    stem_stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(_normed(x.astype(self.dtype), self.widths[0], 3, self.stem_stride))
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for block in range(blocks):
                x = Block(width, 2 if stage and not block else 1)(x)
        return jnp.mean(x, axis=(1, 2))


class Block(nn.Module):
    """Two convolutions beside the residual stream, which is projected where its shape changes."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(_normed(x, self.width, 3, self.stride))
        y = _normed(y, self.width, 3, 1)
        if x.shape != y.shape:
            x = _normed(x, self.width, 1, self.stride)
        return nn.relu(x + y)


class Conv(nn.Module):
    """A convolution without a bias, in the dtype of its input.

    On a CPU it is a matrix product, since XLA takes up to 70 times as long there for the gradients of a convolution
    in a loop as outside (https://github.com/jax-ml/jax/issues/12868).
    """

    width: int
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape).astype(x.dtype)
        on_cpu = jax.default_backend() == "cpu"
        return (convolution_as_product if on_cpu else convolution)(x, kernel, self.stride)


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Half of the kernel's size in zeros is put around the images."""
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def convolution_as_product(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """`convolution` as one matrix product over shifted copies of the images."""
    height, width, _, features = kernel.shape
    padded = jnp.pad(x, ((0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)))
    rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
    copies = [padded[:, i : i + rows : stride, j : j + columns : stride] for i, j in np.ndindex(height, width)]
    return jnp.concatenate(copies, axis=-1) @ kernel.reshape(-1, features)


# From the dtype to compute in to a backbone.
NETWORKS: Mapping[str, Callable[[Any], nn.Module]] = {
    "small": lambda dtype: ResNet((48, 96, 192), (0, 1, 1), stem_stride=2, dtype=dtype),
    "resnet18": lambda dtype: ResNet((64, 128, 256, 512), (2, 2, 2, 2), stem_stride=1, dtype=dtype),
}


def compute_dtype() -> Any:
    """bfloat16 where there is a GPU, and float32 elsewhere."""
    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


def network(name: str) -> nn.Module:
    """The backbone of that name."""
    return NETWORKS[name](compute_dtype())


def init_params(backbone: nn.Module, classes: int, key: jax.Array) -> chex.ArrayTree:
    """Random parameters of the backbone and of a head with so many outputs."""
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    return Classifier(backbone, classes).init(key, images)["params"]


def logits(backbone: nn.Module, params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """The head's outputs, [n, classes], for uint8 images."""
    classes = params["head"]["bias"].size
    outputs: Any = Classifier(backbone, classes).apply({"params": params}, images)
    return outputs


def logits_in_chunks(backbone: nn.Module, params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """The logits of any number of images, [n, classes], in bounded memory."""
    return jax.lax.map(lambda image: logits(backbone, params, image[None])[0], images, batch_size=CHUNK)


def accuracy(backbone: nn.Module, params: chex.ArrayTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The fraction of images whose largest logit is that of their label."""
    return jnp.mean(jnp.argmax(logits_in_chunks(backbone, params, images), axis=-1) == labels)


def normalize(images: jax.Array) -> jax.Array:
    """Bytes as float32 from -2 to 2, about as spread as CIFAR's pixels are around grey."""
    return images.astype(jnp.float32) / 63.75 - 2


def _normed(x: jax.Array, width: int, kernel: int, stride: int) -> jax.Array:
    """A convolution and a group norm, called inside a module."""
    x = Conv(width, kernel, stride)(x)
    return nn.GroupNorm(num_groups=None, group_size=min(_GROUP, width), dtype=x.dtype)(x)
