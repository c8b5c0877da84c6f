"""A small network of the same kind, and its weights in a file as PyTorch before 1.6 saved it."""

import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.forgetting.tasks.imagenet.network import EfficientNet, Stage

NETWORK = EfficientNet(stem=4, stages=(Stage(1, 3, 1, 1, 4), Stage(2, 5, 2, 2, 6)), features=8)
SIDE = 20


def random_weights(network: EfficientNet = NETWORK, seed: int = 0) -> dict[str, np.ndarray]:
    """Under the names and in the layout of the package; features keep their size from layer to layer."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def add(convolution: str, norm: str, shape: tuple[int, ...]) -> None:
        # In the memory as TensorFlow had it, which the package left so.
        kernel = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        weights[f"{convolution}.weight"] = np.asfortranarray(kernel)
        weights[f"{norm}.weight"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        weights[f"{norm}.bias"] = rng.normal(0.5, 0.2, shape[0]).astype(np.float32)
        weights[f"{norm}.running_mean"] = rng.normal(0, 0.1, shape[0]).astype(np.float32)
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        weights[f"{norm}.num_batches_tracked"] = np.array(7)

    add("_conv_stem", "_bn0", (network.stem, 3, 3, 3))
    before, block = network.stem, 0
    for stage in network.stages:
        for _ in range(stage.blocks):
            inside = before * stage.expansion
            if stage.expansion > 1:
                add(f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0", (inside, before, 1, 1))
            shape = (inside, 1, stage.kernel, stage.kernel)
            add(f"_blocks.{block}._depthwise_conv", f"_blocks.{block}._bn1", shape)
            add(f"_blocks.{block}._project_conv", f"_blocks.{block}._bn2", (stage.width, inside, 1, 1))
            before, block = stage.width, block + 1
    add("_conv_head", "_bn1", (network.features, before, 1, 1))
    weights["_fc.weight"] = rng.normal(0, 0.5, (1000, network.features)).astype(np.float32)
    weights["_fc.bias"] = rng.normal(0, 0.5, 1000).astype(np.float32)
    return weights


class FloatStorage:
    """Stands for PyTorch's."""


class LongStorage:
    """Stands for PyTorch's."""


class Storage:
    """The numbers of an array in the order of its memory."""

    def __init__(self, array: np.ndarray):
        self.numbers = array.ravel(order="K")
        self.key = str(id(self))


class Tensor:
    """An array as PyTorch pickles it, from a place on among its numbers."""

    def __init__(self, array: np.ndarray, offset: int = 0):
        self.array, self.offset, self.storage = array, offset, Storage(array)

    def __reduce__(self) -> Any:
        strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
        arguments = (self.storage, self.offset, self.array.shape, strides, False, collections.OrderedDict())
        return _rebuild_tensor_v2, arguments


def _rebuild_tensor_v2(*arguments: Any) -> None:
    raise AssertionError("what reads the file has its own")


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        kind = FloatStorage if value.numbers.dtype == np.float32 else LongStorage
        return "storage", kind, value.key, "cpu", len(value.numbers), None


def write(path: Path, arrays: dict[str, Any]) -> None:
    """A state dictionary of arrays; what is none is written as it is."""
    entries = {name: Tensor(array) if isinstance(array, np.ndarray) else array for name, array in arrays.items()}
    storages = {tensor.storage.key: tensor.storage for tensor in entries.values() if isinstance(tensor, Tensor)}
    content = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, collections.OrderedDict(entries), [*storages]):
        _Pickler(content, protocol=2).dump(part)
    here = __name__.encode()
    text = content.getvalue().replace(b"c" + here + b"\n_rebuild", b"ctorch._utils\n_rebuild")
    text = text.replace(b"c" + here + b"\n", b"ctorch\n")
    numbers = [len(each.numbers).to_bytes(8, "little") + each.numbers.tobytes() for each in storages.values()]
    path.write_bytes(text + b"".join(numbers))
