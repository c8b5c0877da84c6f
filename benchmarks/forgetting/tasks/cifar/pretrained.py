"""Converged networks of CIFAR-10 with public weights: the residual networks for small images of He et al. (2016).

Weights are those of the public repository akamaster/pytorch_resnet_cifar10 (BSD licence), as NumPy's archive of the
arrays of their state dictionary, convolutions [out, in, h, w]. In PyTorch:

    state = torch.load("resnet20-12fca82f.th", map_location="cpu")["state_dict"]
    numpy.savez("resnet20.npz", **{name: array.numpy() for name, array in state.items()})

Normalisations keep the running statistics that the weights come with; their scales and biases are trained. On a CPU
the gradients must be outside of loops and branches of a program, in which XLA's convolutions are many times slower.
"""

from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from benchmarks.forgetting.tasks.arrays import ArraysError, load_arrays
from benchmarks.forgetting.tasks.cifar.networks import convolution

_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EPSILON = 1e-5
_STAGES = (1, 2, 3)


class Pretrained(NamedTuple):
    """A converged network.

    Attributes:
      params: {"backbone": ..., "head": {"kernel", "bias"}}, float32.
      statistics: running means and variances, which stay.
    """

    params: chex.ArrayTree
    statistics: chex.ArrayTree


def load(path: Path) -> Pretrained:
    """A network of any depth from a file of weights.

    Raises:
      ArraysError: if there is no such file, or something is missing in it.
    """
    # They were saved on several GPUs, which puts that before each name.
    arrays = {name.removeprefix("module."): jnp.asarray(array) for name, array in load_arrays(path).items()}
    try:
        return _named(arrays)
    except KeyError as error:
        raise ArraysError(f"{path} has no {error}, which weights of akamaster/pytorch_resnet_cifar10 have.") from None


def logits(params: chex.ArrayTree, statistics: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """The head's outputs, [n, classes], for uint8 images [n, 32, 32, 3]."""
    head = params["head"]
    return features(params["backbone"], statistics, images) @ head["kernel"] + head["bias"][None]


def with_adapters(backbone: chex.ArrayTree) -> Any:
    """The backbone with a convolution of 1 x 1, which begins at zero, beside each of its own (Rebuffi et al., 2018)."""

    def adapted(layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return layer | {"adapter": jnp.zeros((1, 1, *layer["kernel"].shape[2:]))}

    return jax.tree.map(adapted, backbone, is_leaf=lambda part: "kernel" in part)


def features(backbone: chex.ArrayTree, statistics: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """What the head sees, [n, features]."""
    x = (images.astype(jnp.float32) / 255 - _by_channel(jnp.array(_MEAN))) / _by_channel(jnp.array(_SPREAD))
    x = jax.nn.relu(_normed(x, backbone["stem"], statistics["stem"], 1))
    for stage in _STAGES:
        blocks = zip(backbone[f"stage{stage}"], statistics[f"stage{stage}"], strict=True)
        for i, (block, kept) in enumerate(blocks):
            x = _block(x, block, kept, 2 if stage > 1 and i == 0 else 1)
    return jnp.mean(x, axis=(1, 2))


def _block(x: jax.Array, block: chex.ArrayTree, kept: chex.ArrayTree, stride: int) -> jax.Array:
    y = jax.nn.relu(_normed(x, block["first"], kept["first"], stride))
    y = _normed(y, block["second"], kept["second"], 1)
    if x.shape != y.shape:
        # A shortcut without weights: every second pixel, and zeros for half of the new channels at each side.
        more = (y.shape[-1] - x.shape[-1]) // 2
        x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (more, more)))
    return jax.nn.relu(x + y)


def _normed(x: jax.Array, layer: chex.ArrayTree, kept: chex.ArrayTree, stride: int) -> jax.Array:
    y = convolution(x, layer["kernel"], stride)
    if "adapter" in layer:
        y += convolution(x, layer["adapter"], stride)
    mean, variance, scale, bias = map(_by_channel, (kept["mean"], kept["variance"], layer["scale"], layer["bias"]))
    return (y - mean) * jax.lax.rsqrt(variance + _EPSILON) * scale + bias


def _by_channel(x: jax.Array) -> jax.Array:
    return x[None, None, None]


def _named(arrays: dict[str, jax.Array]) -> Pretrained:
    def layer(convolution: str, norm: str) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        kernel = arrays[f"{convolution}.weight"].transpose(2, 3, 1, 0)
        trained = {"kernel": kernel, "scale": arrays[f"{norm}.weight"], "bias": arrays[f"{norm}.bias"]}
        return trained, {"mean": arrays[f"{norm}.running_mean"], "variance": arrays[f"{norm}.running_var"]}

    trained, kept = layer("conv1", "bn1")
    backbone: dict[str, chex.ArrayTree] = {"stem": trained}
    statistics: dict[str, chex.ArrayTree] = {"stem": kept}
    for stage in _STAGES:
        blocks = sorted({int(name.split(".")[1]) for name in arrays if name.startswith(f"layer{stage}.")})
        pairs = [
            [layer(f"layer{stage}.{i}.conv{place}", f"layer{stage}.{i}.bn{place}") for place in (1, 2)] for i in blocks
        ]
        backbone[f"stage{stage}"] = [{"first": first[0], "second": second[0]} for first, second in pairs]
        statistics[f"stage{stage}"] = [{"first": first[1], "second": second[1]} for first, second in pairs]
    head = {"kernel": arrays["linear.weight"].T, "bias": arrays["linear.bias"]}
    return Pretrained({"backbone": backbone, "head": head}, statistics)
