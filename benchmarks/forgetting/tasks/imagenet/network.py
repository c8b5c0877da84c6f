"""EfficientNet-Lite0 (Tan and Le, 2019, without what small devices lack) as a Linen module.

On a CPU XLA takes many times as long for convolutions by channel and for their gradients as for sums of shifted images,
so nothing here is a convolution to XLA, and gradients are as fast in loops and branches.
"""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

# Of PyTorch's port; TensorFlow's original has the same.
_EPSILON = 1e-3


class Stage(NamedTuple):
    """Blocks that follow one another, the first of which may shrink the images.

    Attributes:
      blocks: how many there are.
      kernel: pixels of a side of the convolution by channel.
      stride: of the first block.
      expansion: channels inside a block for each that comes in.
      width: channels that come out.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


class EfficientNet(nn.Module):
    """From pixels around 0, [n, height, width, 3], to features, [n, features].

    Kernels, scales and biases are in the collection "params", running means and variances, which stay, in "statistics".
    """

    stem: int
    stages: tuple[Stage, ...]
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu6(Layer(self.stem, 3, 2, name="stem")(x))
        shapes = [(stage, stage.stride if i == 0 else 1) for stage in self.stages for i in range(stage.blocks)]
        for i, (stage, stride) in enumerate(shapes):
            x = Block(stage, stride, name=f"block{i}")(x)
        return jnp.mean(jax.nn.relu6(Layer(self.features, name="last")(x)), axis=(1, 2))


class Block(nn.Module):
    """More channels, a convolution of each by itself, and fewer channels again, beside the residual stream."""

    shape: Stage
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y, inside = x, self.shape.expansion * x.shape[-1]
        if self.shape.expansion > 1:
            y = jax.nn.relu6(Layer(inside, name="expand")(y))
        y = jax.nn.relu6(Layer(inside, self.shape.kernel, self.stride, by_channel=True, name="spread")(y))
        y = Layer(self.shape.width, name="project")(y)
        return x + y if x.shape == y.shape else y


class Layer(nn.Module):
    """A convolution without a bias, normalised by running statistics."""

    width: int
    kernel: int = 1
    stride: int = 1
    by_channel: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        before = 1 if self.by_channel else x.shape[-1]
        shape = (self.kernel, self.kernel, before, self.width)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        scale = self.param("scale", nn.initializers.ones, (self.width,))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        mean = self.variable("statistics", "mean", jnp.zeros, (self.width,))
        variance = self.variable("statistics", "variance", jnp.ones, (self.width,))
        # The normalisation goes into the kernel, which is smaller than what comes out.
        gain = scale * jax.lax.rsqrt(variance.value + _EPSILON)
        y = convolution(x, kernel * gain[None, None, None], self.stride)
        return y + (bias - mean.value * gain)[None, None, None]


LITE0 = EfficientNet(
    stem=32,
    stages=(
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    ),
    features=1280,
)


class Pretrained(NamedTuple):
    """A network with weights.

    Attributes:
      network: what it computes.
      params: {"backbone": ..., "head": {"kernel", "bias"}}, float32.
      statistics: running means and variances, which stay.
      side: pixels of a side that images are scaled to. The weights were trained on 224, but tell images of CIFAR-10
        apart as well at 96, for a fifth of the work.
    """

    network: EfficientNet
    params: chex.ArrayTree
    statistics: chex.ArrayTree
    side: int = 96


def logits(pretrained: Pretrained, params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """The head's outputs with these parameters, [n, classes], for uint8 images [n, height, width, 3]."""
    network, _, statistics, side = pretrained
    x = jax.image.resize(images.astype(jnp.float32), (len(images), side, side, 3), "bilinear")
    # What TensorFlow's original subtracts and divides by.
    features: Any = network.apply({"params": params["backbone"], "statistics": statistics}, (x - 127) / 128)
    return features @ params["head"]["kernel"] + params["head"]["bias"][None]


def convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """With zeros around the images as TensorFlow's "SAME" has them, more of them behind than before.

    Args:
      x: [n, height, width, in].
      kernel: [size, size, in, out], or [size, size, 1, in] for a convolution of each channel by itself.
      stride: in both directions.
    """
    size = kernel.shape[0]
    pads = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))
    rows, columns = x.shape[1] - size + 1, x.shape[2] - size + 1
    places = [(i, j) for i in range(size) for j in range(size)]
    shifted = [x[:, i : i + rows : stride, j : j + columns : stride] for i, j in places]
    if kernel.shape[2] == x.shape[-1]:
        return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
    # Not the built-in sum, which would begin with a 0 for each pixel.
    products = [image * kernel[i, j][None, None] for image, (i, j) in zip(shifted, places, strict=True)]
    return jax.tree.reduce(jnp.add, products)
