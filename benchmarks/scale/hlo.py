"""What a compiled program runs and sends between devices, read from its HLO text."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\(")
_CALLED = re.compile(r"(to_apply|calls|body|condition|branch_computations|\w+_computation)=(\{[^}]*\}|%?[\w.\-]+)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
# What computations an instruction calls to be run one by one; all others are parts of the instruction's own kernel.
_CONTROL = ("while", "conditional", "call", "async-start")
# What launches nothing by itself.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id")
_FREE_TARGETS = ("AllocateBuffer", "ConcatBitcast")
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


class Operation(NamedTuple):
    """An instruction of a program, as often as a run executes it.

    Attributes:
      name: what it does, as HLO names it.
      result: its shape, as HLO writes it.
      line: all of it.
      times: how often one run of the program executes it; None where a loop of unknown length does.
      depth: in how many nested branches it stands.
      fused: whether it is a part of another instruction's kernel.
      computation: the one that it, or the instruction it is a part of, stands in.
    """

    name: str
    result: str
    line: str
    times: int | None
    depth: int
    fused: bool
    computation: str


class Kernels(NamedTuple):
    """What a run of a program launches and waits for.

    Attributes:
      fusions: how many fused kernels it executes, those in branches apart.
      kernels: how many kernels of any kind, copies and library calls among them.
      branch_fusions: fused kernels in branches, all branches together.
      branch_kernels: kernels of any kind there.
      loops: how often a loop is begun.
      passes: how often the bodies of loops run.
      conditionals: how many are run into. On a GPU the host waits for each, to know which branch it is to launch.
      unknown_loops: loops whose length is not known before they run. A GPU's host waits in each of their passes.
    """

    fusions: int
    kernels: int
    branch_fusions: int
    branch_kernels: int
    loops: int
    passes: int
    conditionals: int
    unknown_loops: int


def kernels(text: str) -> Kernels:
    """How much a compiled program launches; the bodies of loops of unknown length count once."""
    counted: Counter[str] = Counter()
    for operation in operations(text):
        times = 1 if operation.times is None else operation.times
        if operation.name == "while":
            length = _length(operation.line, text)
            counted["loops"] += times
            counted["passes"] += times * (length or 1)
            counted["unknown_loops"] += length is None
        elif operation.name == "conditional":
            counted["conditionals"] += times
        elif not operation.fused and _launches(operation):
            where = "branch_" if operation.depth else ""
            counted[f"{where}kernels"] += times
            counted[f"{where}fusions"] += times * (operation.name == "fusion")
    return Kernels(**{field: counted[field] for field in Kernels._fields})


def _launches(operation: Operation) -> bool:
    if operation.name in (*_FREE, *_CONTROL) or operation.name.endswith("-done"):
        return False
    return operation.name != "custom-call" or not any(f'"{name}"' in operation.line for name in _FREE_TARGETS)


def collectives(text: str, devices: int) -> list[Collective]:
    """Every collective of a compiled program, the ones in loops with their trip counts.

    XLA for TPUs splits a collective into parts of several kernels that run one after the other: it counts once.

    Args:
      text: `compiled.as_text()`.
      devices: how many devices the program runs on.

    Raises:
      ValueError: for what this reader does not know, such as a loop of unknown length around a collective.
    """
    found, begun = [], set()
    for operation in operations(text):
        kind = operation.name.removesuffix("-start")
        if kind not in KINDS:
            continue
        if operation.times is None:
            raise ValueError(f"{kind} stands in a loop of unknown length, in {operation.computation}")
        channel = _CHANNEL.search(operation.line)
        part = (operation.computation, channel[1]) if operation.fused and channel else None
        if part is None or part not in begun:
            size = _group_size(operation.line) or devices
            found.append(Collective(kind, _results(operation), size, operation.times, operation.depth))
        begun.add(part)
    return found


def _results(operation: Operation) -> tuple[Shape, ...]:
    """The shapes of a collective's results: what starts one returns its operands, too."""
    shapes = tuple(Shape(dtype, _dimensions(sizes)) for dtype, sizes in _SHAPE.findall(operation.result))
    if operation.name == "collective-permute-start":
        return shapes[1:2]
    return shapes[len(shapes) // 2 :] if operation.name in ("all-gather-start", "all-to-all-start") else shapes


def operations(text: str) -> Iterator[Operation]:
    """Every instruction that a run of a compiled program executes, from its `as_text()`."""
    computations, entry = _parse(text)

    def walk(computation: str, times: int | None, depth: int, fused_into: str) -> Iterator[Operation]:
        place = fused_into or computation
        for line, result, name in computations.get(computation, ()):
            yield Operation(name, result, line, times, depth, bool(fused_into), place)
            body = times
            if name == "while" and times is not None:
                length = _length(line, text)
                body = None if length is None else times * length
            for how, called in _CALLED.findall(line):
                # A loop's condition is no kernel of its own: where the length is known, it is not even run.
                part = place if fused_into or name not in _CONTROL or how == "condition" else ""
                for each in called.strip("{}").split(","):
                    yield from walk(each.strip().lstrip("%"), body, depth + (name == "conditional"), part)

    return walk(entry, 1, 0, "")


def _length(line: str, text: str) -> int | None:
    """How often the body of a loop runs, if that is written down: at the loop, or in a condition like i < 16."""
    if known := _TRIP_COUNT.search(line):
        return int(known[1])
    name = dict(_CALLED.findall(line))["condition"].lstrip("%")
    found = re.search(rf"^%?{re.escape(name)} .*?^}}", text, re.MULTILINE | re.DOTALL)
    condition = found[0] if found else ""
    compared = re.search(r"ROOT .* compare\(\S*, (?:\S+ )?%?([\w.\-]+)\), direction=LT", condition)
    bound = dict(_CONSTANT.findall(condition)).get(compared[1]) if compared else None
    return None if bound is None else int(bound)


def _parse(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
    """The instructions of each computation, as line, result and name, and which computation is the program."""
    computations: dict[str, list[tuple[str, str, str]]] = {}
    entry, current = "", ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = start[2]
            computations[current] = []
            entry = current if start[1] else entry
        elif operation := _OPERATION.match(line):
            computations[current].append((line, operation[1], operation[2]))
    return computations, entry


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
