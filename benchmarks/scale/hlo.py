"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(r"(?:to_apply|calls|body|condition|branch_computations|\w+_computation)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_SHAPE = re.compile(r"\b(pred|bf16|c64|c128|[fsu]\d+)\w*\[([\d,]*)\]")
_BITS = {"pred": 8, "c64": 64, "c128": 128, "bf16": 16}


class Shape(NamedTuple):
    """An array on one device.

    Attributes:
      dtype: as HLO names it.
      dimensions: its shape.
    """

    dtype: str
    dimensions: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        bits = _BITS.get(self.dtype) or int(self.dtype[1:])
        return math.prod(self.dimensions) * bits // 8


class Collective(NamedTuple):
    """One collective operation of a program.

    Attributes:
      kind: one of KINDS.
      shapes: its results on one device; XLA merges small operations into one with many.
      devices: how many devices take part in each group.
      times: how often one run of the program executes it.
      depth: in how many nested branches it stands; what stands in none is executed in every run.
    """

    kind: str
    shapes: tuple[Shape, ...]
    devices: int
    times: int
    depth: int

    @property
    def bytes(self) -> int:
        """The size of its results."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def numbers(self) -> tuple[Shape, ...]:
        """Its results that are single numbers: XLA may merge those with arrays."""
        return tuple(shape for shape in self.shapes if not shape.dimensions)

    @property
    def arrays(self) -> tuple[Shape, ...]:
        """Its other results."""
        return tuple(shape for shape in self.shapes if shape.dimensions)


def collectives(text: str, devices: int) -> list[Collective]:
    """Every collective of a compiled program, the ones in loops with their trip counts.

    Args:
      text: `compiled.as_text()`.
      devices: how many devices the program runs on.

    Raises:
      ValueError: for what this reader does not know: loops of unknown length around a collective, and asynchronous
        collectives, which CPU programs have not.
    """
    computations, entry = _parse(text)
    return list(_walk(computations, entry, devices, times=1, depth=0))


class _Call(NamedTuple):
    names: tuple[str, ...]
    times: int | None
    conditional: bool


class _Raw(NamedTuple):
    kind: str
    shapes: tuple[Shape, ...]
    devices: int | None


def _parse(text: str) -> tuple[dict[str, list[_Call | _Raw]], str]:
    """What each computation calls and sends, and the name of the one that is the program."""
    computations: dict[str, list[_Call | _Raw]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = start[2]
            computations[current] = []
            entry = current if start[1] else entry
        elif operation := _OPERATION.match(line):
            computations[current] += _read(line, operation[1], operation[2])
    return computations, entry


def _read(line: str, result: str, name: str) -> Iterator[_Call | _Raw]:
    if name in KINDS:
        shapes = tuple(Shape(dtype, _dimensions(sizes)) for dtype, sizes in _SHAPE.findall(result))
        yield _Raw(name, shapes, _group_size(line))
    elif name.removesuffix("-start") in KINDS:
        raise ValueError(f"{name} is asynchronous, and only programs compiled for CPUs can be read: {line.strip()}")
    else:
        times: int | None = 1
        if name == "while":
            count = _TRIP_COUNT.search(line)
            times = int(count[1]) if count else None
        for called in _CALLED.findall(line):
            names = tuple(part.strip().lstrip("%") for part in called.strip("{}").split(","))
            yield _Call(names, times, conditional=name == "conditional")


def _dimensions(sizes: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, sizes.split(","))))


def _group_size(line: str) -> int | None:
    """How many devices a collective's groups have, in any of the ways to write them; None for all."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return listed[1].count(",") + 1
    if "collective-permute" in line or "replica_groups={}" in line:
        return None
    raise ValueError(f"no replica_groups that this reader knows in: {line.strip()}")


def _walk(
    computations: dict[str, list[_Call | _Raw]], name: str, devices: int, times: int | None, depth: int
) -> Iterator[Collective]:
    for item in computations.get(name, ()):
        if isinstance(item, _Raw):
            if times is None:
                raise ValueError(f"{item.kind} stands in a loop of unknown length, in {name}")
            yield Collective(item.kind, item.shapes, item.devices or devices, times, depth)
        else:
            inner = None if times is None or item.times is None else times * item.times
            for called in item.names:
                yield from _walk(computations, called, devices, inner, depth + item.conditional)
