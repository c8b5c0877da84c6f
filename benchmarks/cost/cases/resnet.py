"""ResNet-18 as it is used on images of 32 x 32: a stem of stride 1 without pooling."""

from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.cost.cases import Case

CLASSES = 100


class Block(nn.Module):
    """Two convolutions beside the residual stream, which is projected where its shape changes."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(normed(x, self.features, 3, self.stride))
        y = normed(y, self.features, 3, 1)
        if x.shape != y.shape:
            x = normed(x, self.features, 1, self.stride)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Stages, each of twice the features and half the size of the one before."""

    stages: int
    blocks: int
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(normed(x, self.features, 3, 1))
        for stage in range(self.stages):
            for block in range(self.blocks):
                x = Block(self.features * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(CLASSES)(jnp.mean(x, axis=(1, 2)))


def normed(x: jax.Array, features: int, kernel: int, stride: int) -> jax.Array:
    """A convolution and a batch norm over the batch at hand, called inside a module."""
    x = nn.Conv(features, (kernel, kernel), stride, padding=kernel // 2, use_bias=False)(x)
    return nn.BatchNorm(use_running_average=False)(x)


def resnet(quick: bool) -> Case:
    """ResNet-18 with 100 classes."""
    size, batch = (8, 2) if quick else (32, 8)
    model = ResNet(*((2, 1, 4) if quick else (4, 2, 64)))
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    statistics = {"batch_stats": variables.pop("batch_stats")}

    def loss(params: chex.ArrayTree, frozen: chex.ArrayTree, batch: Any) -> jax.Array:
        del frozen
        images, labels = batch
        # The running averages are dropped, in every arm: they are no part of an optimizer's cost.
        logits, _ = model.apply({**params, **statistics}, images, mutable=["batch_stats"])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def batches(n: int) -> Any:
        images = jax.random.normal(jax.random.key(1), (n, batch, size, size, 3))
        return images, jax.random.randint(jax.random.key(2), (n, batch), 0, CLASSES)

    return Case(
        name="resnet",
        title="a tiny ResNet" if quick else "ResNet-18",
        params=variables,
        frozen={},
        loss=loss,
        batches=batches,
        batch=f"{batch} images of {size} x {size}",
        eager=eager_loss,
    )


def eager_loss(torch: Any, params: Mapping[str, Any], batch: Any) -> Any:
    """The same loss in PyTorch, whose images and kernels have their channels first."""
    functional = torch.nn.functional

    def normed(x: Any, prefix: str, i: int, stride: int) -> Any:
        kernel = params[f"{prefix}Conv_{i}/kernel"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        scale, bias = params[f"{prefix}BatchNorm_{i}/scale"], params[f"{prefix}BatchNorm_{i}/bias"]
        return functional.batch_norm(x, None, None, scale, bias, training=True, eps=1e-5)

    images, labels = batch
    x = functional.relu(normed(images.permute(0, 3, 1, 2).contiguous(), "", 0, 1))
    for block in range(sum(name.endswith("Conv_1/kernel") for name in params)):
        prefix = f"Block_{block}/"
        projects = f"{prefix}Conv_2/kernel" in params
        stride = 2 if projects else 1
        y = functional.relu(normed(x, prefix, 0, stride))
        y = normed(y, prefix, 1, 1)
        x = functional.relu((normed(x, prefix, 2, stride) if projects else x) + y)
    logits = torch.addmm(params["Dense_0/bias"], x.mean(dim=(2, 3)), params["Dense_0/kernel"])
    return functional.cross_entropy(logits, labels)
