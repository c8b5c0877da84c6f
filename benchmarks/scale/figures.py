"""What a program compiled for other devices says about itself."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from benchmarks.scale import hlo, models, programs, targets

# What XLA says where arguments and temporaries are more than a device has.
_TOO_MUCH = re.compile(r"memory required [\w ]*\(([\d.]+)([KMGT])\) exceeds available HBM")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Way(NamedTuple):
    """A way to take a step; a row of the tables.

    Attributes:
      title: what it is, for readers.
      gradients: how many a step takes.
      copies: of the parameters, kept between steps: themselves, AdamW's moments, and what the form keeps.
      numbers: of each leaf, that a step sums over devices.
      make: `make(mask)` is the program.
    """

    title: str
    gradients: int
    copies: float
    numbers: int
    make: Callable[[Any], programs.Arm]


def _closure(n_ref: int, **options: Any) -> Callable[[Any], programs.Arm]:
    return lambda mask: programs.closure(n_ref, mask=mask, **options)


WAYS = {
    "gradient": Way("SGD: a gradient, and next to nothing else", 1, 1, 0, lambda mask: programs.gradient()),
    "adamw": Way("AdamW", 1, 3, 0, programs.adamw),
    "norm": Way("AdamW after a global norm", 1, 3, 1, lambda mask: programs.baseline(mask=mask)),
    "norm-2": Way("two such steps in one program", 2, 3, 2, lambda mask: programs.baseline(2, mask)),
    "norm-4": Way("four such steps in one program", 4, 3, 4, lambda mask: programs.baseline(4, mask)),
    "profit-1": Way("profit, n_ref 1", 2, 3, 3, _closure(1)),
    "compact-1": Way("profit, n_ref 1, Δ in bfloat16", 2, 3, 3, _closure(1, displacement_dtype="bfloat16")),
    "subtract-1": Way("profit, n_ref 1, subtract", 2, 3, 3, _closure(1, displacement="subtract")),
    "profit-3": Way("profit, n_ref 3", 4, 3, 3, _closure(3)),
    "unrolled-3": Way("profit, n_ref 3, unroll", 4, 3, 3, _closure(3, unroll=True)),
    "subtract-3": Way("profit, n_ref 3, subtract", 4, 3, 3, _closure(3, displacement="subtract")),
    "transparent-1": Way("profit_transparent, n_ref 1", 2, 5, 3, lambda mask: programs.transparent(1, mask=mask)),
    "previous": Way("orthogonalize_to_previous", 1, 4, 2, lambda mask: programs.one_line(mask=mask)),
    # What is kept is rounded, and so its norm is summed again.
    "previous-compact": Way(
        "orthogonalize_to_previous, bfloat16", 1, 3.5, 3, lambda mask: programs.one_line(mask=mask, dtype="bfloat16")
    ),
}


class Sent(NamedTuple):
    """The collectives of one kind in a step.

    Attributes:
      times: how many are executed.
      bytes: of their results on each device.
    """

    times: int
    bytes: int


class Figures(NamedTuple):
    """What a step needs on each device. All that is counted is of a step, all bytes of memory are of one call.

    Attributes:
      parameters: bytes of all parameters, wherever they lie: P.
      leaves: how many leaves are trained.
      arguments: bytes of parameters, state and batches.
      temporaries: bytes needed besides.
      peak: the most bytes in use at one time. XLA for CPUs gives no such figure that means something.
      fusions: fused kernels executed, those in branches apart.
      kernels: kernels of any kind.
      branch_fusions: fused kernels in branches.
      loops: loops begun.
      passes: how often bodies of loops run.
      conditionals: branches chosen between. A GPU's host waits for each.
      unknown_loops: loops of unknown length. A GPU's host waits in each of their passes.
      collectives: what is sent, by kind.
      numbers: bytes of the single numbers in it, which XLA may put into one collective with arrays.
      operations: floating-point operations as XLA estimates them; None where it does not.
      accessed: bytes read and written as XLA estimates them; None where it does not.
      seconds: to trace, lower and compile.
    """

    parameters: int
    leaves: int
    arguments: int
    temporaries: int
    peak: int
    fusions: int
    kernels: int
    branch_fusions: int
    loops: int
    passes: int
    conditionals: int
    unknown_loops: int
    collectives: Mapping[str, Sent]
    numbers: int
    operations: float | None
    accessed: float | None
    seconds: float


class TooLarge(NamedTuple):
    """A program that the compiler refuses, since a device has less memory than it needs.

    Attributes:
      parameters: bytes of all parameters: P.
      leaves: how many leaves are trained.
      peak: bytes that it would need.
    """

    parameters: int
    leaves: int
    peak: int


def measure(target: targets.Target, count: int, model: models.Model, way: Way) -> Figures | TooLarge:
    """Compile a way to take a step of a model for so many devices of a kind."""
    mesh = Mesh(np.array(targets.devices(target, count)), ("data",))
    problem = model.on(mesh)
    arm = way.make(problem.mask)
    jax.clear_caches()
    start = time.perf_counter()
    try:
        compiled = programs.compile_program(arm, problem.loss, problem.params, problem.batch)
    except jax.errors.JaxRuntimeError as error:
        if not (needed := _TOO_MUCH.search(str(error))):
            raise
        return TooLarge(problem.size, problem.leaves, int(float(needed[1]) * _UNITS[needed[2]]))
    seconds = time.perf_counter() - start
    text, memory = compiled.as_text(), compiled.memory_analysis()
    counted = {name: arm.calls * n for name, n in hlo.kernels(text)._asdict().items()}
    del counted["branch_kernels"]
    sent = hlo.collectives(text, count)
    # XLA's own estimates: for GPUs compiled ahead of time there are none.
    estimated = compiled.cost_analysis() or {}
    return Figures(
        parameters=problem.size,
        leaves=problem.leaves,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        **counted,
        collectives=_sent(sent, arm.calls),
        numbers=sum(_times(each, arm.calls) * shape.bytes for each in sent for shape in each.numbers),
        operations=estimated.get("flops"),
        accessed=estimated.get("bytes accessed"),
        seconds=seconds,
    )


def _sent(found: list[hlo.Collective], calls: int) -> dict[str, Sent]:
    by_kind: dict[str, Sent] = {}
    for each in found:
        before = by_kind.get(each.kind, Sent(0, 0))
        times = _times(each, calls)
        by_kind[each.kind] = Sent(before.times + times, before.bytes + times * each.bytes)
    return by_kind


def _times(each: hlo.Collective, calls: int) -> int:
    """How often a step sends it: what stands in a branch is of one of the calls that a step takes."""
    return each.times * (1 if each.depth else calls)
