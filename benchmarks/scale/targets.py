"""Devices that need not be there: JAX compiles for a description of them."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

_H100 = Path(__file__).with_name("h100_sxm.txtpb")
# How so many chips of a v5e are laid out.
_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_GPUS_OF_A_HOST = 8


class Target(NamedTuple):
    """A kind of device.

    Attributes:
      name: what options and tables call it.
      title: what it is, for readers.
      memory: bytes of a device; None where that is whatever the machine has.
      needs: the module that compiles for it, and the packages that bring it.
      describe: `describe(count)` are the descriptions of so many devices.
    """

    name: str
    title: str
    memory: int | None
    needs: tuple[str, str]
    describe: Callable[[int], Sequence[Any]]


def devices(target: Target, count: int) -> list[Any]:
    """Descriptions of devices that a `Mesh` may be made of.

    Raises:
      ModuleNotFoundError: if what compiles for them is not installed.
      ValueError: if there are not so many on this machine, or no such slice is made.
    """
    module, packages = target.needs
    if importlib.util.find_spec(module) is None:
        raise ModuleNotFoundError(f"Compiling for {target.title} takes {packages}: pip install '.[targets]'.")
    found = list(np.ravel(target.describe(count)))
    if len(found) < count:
        raise ValueError(f"{count} x {target.title} are wanted, and there are {len(found)}.")
    return found[:count]


def _h100(count: int) -> Sequence[Any]:
    hosts = -(-count // _GPUS_OF_A_HOST)
    topology = f"1x{hosts}x{min(count, _GPUS_OF_A_HOST)}"
    text = _H100.read_text(encoding="utf-8")
    return topologies.get_topology_desc(platform="cuda", target_config=text, topology=topology).devices


def _v5e(count: int) -> Sequence[Any]:
    if count not in _GRIDS:
        raise ValueError(f"{count} chips are no slice of a v5e, which has {', '.join(map(str, _GRIDS))}.")
    # Without it libtpu asks the network what machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    alone = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=f"v5e:{_GRIDS[count]}", **alone).devices


def _cpu(count: int) -> Sequence[Any]:
    return jax.devices("cpu")[:count]


_CUDA = "jax-cuda13-plugin with NVIDIA's compilers"
TARGETS = {
    target.name: target
    for target in (
        Target("h100", "H100 SXM, 80 GB", 80 * 10**9, ("jax_plugins.xla_cuda13", _CUDA), _h100),
        Target("v5e", "TPU v5e, 16 GB", 16 * 2**30, ("libtpu", "libtpu"), _v5e),
        Target("cpu", "CPU", None, ("jaxlib", "jaxlib"), _cpu),
    )
}
