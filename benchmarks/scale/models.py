"""What is trained in the programs that are compiled for other devices: losses and shapes, and nothing allocated."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.cost.cases import Case, one_batch
from benchmarks.cost.cases.resnet import resnet
from benchmarks.cost.cases.transformer import join, lora
from benchmarks.scale import transformer
from benchmarks.scale.transformer import Config

BILLION = Config(layers=16, width=2048, heads=32, kv_heads=8, hidden=8192, vocabulary=32768, tied=True)
EIGHT = Config(layers=36, width=4096, heads=32, kv_heads=8, hidden=14336, vocabulary=32768, tied=False)


class Problem(NamedTuple):
    """A model as shapes that lie on devices.

    Attributes:
      loss: `loss(params, batch)`.
      params: abstract parameters.
      batch: one abstract batch, of all devices together.
      mask: which leaves are trained; None for all.
    """

    loss: Callable[[Any, Any], jax.Array]
    params: Any
    batch: Any
    mask: Any = None

    @property
    def size(self) -> int:
        """Bytes of all parameters, wherever they lie: the unit P."""
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(self.params))

    @property
    def leaves(self) -> int:
        """How many leaves are trained."""
        return len(jax.tree.leaves(self.params)) if self.mask is None else sum(jax.tree.leaves(self.mask))


class Model(NamedTuple):
    """A line of tables.

    Attributes:
      name: what options call it.
      title: what it is, for readers.
      on: `on(mesh)` is the problem on a mesh of one axis.
      config: the sizes of a transformer in pieces; None for what is whole on every device.
    """

    name: str
    title: str
    on: Callable[[Mesh], Problem]
    config: Config | None = None


def _scanned(config: Config, length: int, mesh: Mesh) -> Problem:
    """A transformer with every leaf in as many pieces as there are devices, and a sequence on each."""
    tokens = jax.ShapeDtypeStruct((mesh.size, length), jnp.int32, sharding=NamedSharding(mesh, P(mesh.axis_names)))
    loss = functools.partial(transformer.loss_fn, config, mesh)
    return Problem(loss, transformer.abstract_params(config, mesh), tokens)


def _replicated(make: Callable[[bool], Case], mesh: Mesh, quick: bool = False) -> Problem:
    """A case of the cost benchmark, whole on each device and with a batch on each; what it freezes, a mask freezes."""
    case = make(quick)

    def whole(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P()))

    def split(x: Any) -> jax.ShapeDtypeStruct:
        shape = (mesh.size * x.shape[0], *x.shape[1:])
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, P(mesh.axis_names)))

    batch = jax.tree.map(split, jax.eval_shape(lambda: one_batch(case)))
    if not jax.tree.leaves(case.frozen):
        return Problem(lambda params, b: case.loss(params, {}, b), jax.tree.map(whole, case.params), batch)
    params = jax.tree.map(whole, join(case.params, case.frozen))
    trained, frozen = (jax.tree.map(lambda _, is_in=is_in: is_in, tree) for tree, is_in in _parts(case))
    return Problem(lambda p, b: case.loss(p, {}, b), params, batch, join(trained, frozen))


def _parts(case: Case) -> tuple[tuple[Any, bool], tuple[Any, bool]]:
    return (case.params, True), (case.frozen, False)


def _pieces(name: str, title: str, config: Config, length: int) -> Model:
    return Model(name, title, functools.partial(_scanned, config, length), config)


def _half(config: Config) -> Config:
    return config._replace(dtype="bfloat16", compute="bfloat16")


MODELS = {
    model.name: model
    for model in (
        _pieces("1b", "1 B, float32", BILLION, 32),
        _pieces("1b-2048", "1 B, float32, 2048 tokens", BILLION, 2048),
        _pieces("1b-mixed", "1 B, computing in bfloat16", BILLION._replace(compute="bfloat16"), 32),
        _pieces("1b-bf16", "1 B, all in bfloat16", _half(BILLION), 32),
        _pieces("8b", "8 B, float32", EIGHT, 32),
        _pieces("8b-mixed", "8 B, computing in bfloat16", EIGHT._replace(compute="bfloat16"), 32),
        _pieces("8b-bf16", "8 B, all in bfloat16", _half(EIGHT), 32),
        Model("resnet", "ResNet-18, 8 images a device", functools.partial(_replicated, resnet)),
        Model("lora", "LoRA of rank 8 under `mask`", functools.partial(_replicated, lora)),
    )
}
# Of a few units, for tests: with scanned layers, and without loops and with a mask.
_TINY = Config(layers=4, width=256, heads=4, kv_heads=2, hidden=512, vocabulary=512, tied=True)
TINY = {
    "tiny": _pieces("tiny", "tiny transformer", _TINY, 32),
    "tiny-lora": Model("tiny-lora", "tiny LoRA", functools.partial(_replicated, lora, quick=True)),
}
