"""Where a step's memory traffic goes: the passes over parameter-sized buffers in its optimized HLO.

Every instruction that XLA runs by itself, a fusion, a dot or a copy, reads its operands and writes its results once.
Those with as many elements as one of the larger trained leaves are counted, so an activation that happens to be of
that size counts, too. Loops count as often as they run, where XLA knows it. What stands in a branch of a conditional
is listed, but is not in the total.
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import typer
from rich.console import Console

from benchmarks.commands import parse_names
from benchmarks.cost.cases import Case, tree_bytes
from benchmarks.cost.catalogue import BASES, CASES, FAMILIES, SINGLES, by_name
from benchmarks.cost.stepper import compile_step

# Leaves with less than this share of all trained parameters, such as biases, are no parameter-sized buffers.
_SHARE = 0.01

# A dtype and its dimensions, as in f32[8,1024].
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")

# What moves no data.
_FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"))


class Instruction(NamedTuple):
    """One line of HLO.

    Attributes:
      name: what others call it.
      shape: of its result, as HLO writes it.
      opcode: what it does.
      operands: names of what it reads.
      attributes: the rest of the line.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Pass(NamedTuple):
    """An instruction that reads or writes parameter-sized buffers.

    Attributes:
      opcode: what it does.
      op_name: what JAX traced it from, with the numbers of layers left out.
      source: file and function that it was written in, as far as HLO tells.
      in_branch: whether it stands in a branch of a conditional.
      times: how often it runs in a call.
      read: parameter-sized bytes read each time.
      written: parameter-sized bytes written each time.
    """

    opcode: str
    op_name: str
    source: str
    in_branch: bool
    times: int
    read: int
    written: int


class Group(NamedTuple):
    """All passes of one origin, as often as they run.

    Attributes:
      passes: how many there are.
      read: parameter-sized bytes read.
      written: parameter-sized bytes written.
    """

    passes: int
    read: int
    written: int


def passes(case: Case, hlo: str) -> list[Pass]:
    """The passes of a program over buffers of the sizes of the case's trained leaves."""
    leaves = jax.tree.leaves(case.params)
    least = _SHARE * sum(x.size for x in leaves)
    return list(_walk(_Module(hlo), {x.size for x in leaves if x.size >= least}))


def grouped(found: Iterable[Pass]) -> dict[tuple[str, str, str], Group]:
    """Passes by op_name, source and place, the most bytes first."""
    groups: dict[tuple[str, str, str], Group] = {}
    for each in found:
        key = each.op_name, each.source, "branch" if each.in_branch else ""
        before = groups.get(key, Group(0, 0, 0))
        groups[key] = Group(
            before.passes + each.times,
            before.read + each.times * each.read,
            before.written + each.times * each.written,
        )
    return dict(sorted(groups.items(), key=lambda item: -item[1].read - item[1].written))


def total(found: Iterable[Pass]) -> Group:
    """All passes outside of branches."""
    sums = [sum(column) for column in zip(*grouped(p for p in found if not p.in_branch).values(), strict=True)]
    return Group(*sums) if sums else Group(0, 0, 0)


class _Module:
    """HLO text, taken apart."""

    def __init__(self, hlo: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._tables = _tables(hlo)
        name = ""
        for line in hlo.splitlines():
            head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
            if head:
                name = head[2]
                self.entry = name if head[1] else self.entry
                self.computations[name] = []
            elif " = " in line and name:
                self.computations[name].append(_instruction(line))

    def source(self, attributes: str) -> str:
        """The innermost of the lines of Python that led to an instruction."""
        frame = re.search(r"stack_frame_id=(\d+)", attributes)
        if not frame or frame[1] not in self._tables["StackFrames"]:
            return ""
        location = self._tables["FileLocations"][_field(self._tables["StackFrames"][frame[1]], "file_location_id")]
        file = self._tables["FileNames"][_field(location, "file_name_id")].strip('"')
        function = self._tables["FunctionNames"][_field(location, "function_name_id")].strip('"')
        return f"{Path(file).name}: {function.split('.<locals>')[0]}"


def _walk(module: _Module, sizes: set[int]) -> Iterator[Pass]:
    """The passes of the entry computation and of all that it calls."""
    pending = [(module.entry, 1, False)]
    while pending:
        name, times, in_branch = pending.pop()
        instructions = module.computations[name]
        shapes = {each.name: each.shape for each in instructions}
        for each in instructions:
            if each.opcode in ("while", "conditional", "call"):
                runs = times * _trips(each.attributes)
                branch = in_branch or each.opcode == "conditional"
                pending += [(called, runs, branch) for called in _called(each.attributes)]
            elif each.opcode not in _FREE:
                read = sum(_bytes(shapes.get(operand, ""), sizes) for operand in set(each.operands))
                written = _bytes(each.shape, sizes)
                if read or written:
                    op_name, source = _op_name(each.attributes), module.source(each.attributes)
                    yield Pass(each.opcode, op_name, source, in_branch, times, read, written)


def _instruction(line: str) -> Instruction:
    name, rest = line.split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    operands = tuple(re.findall(r"%([\w.-]+)", rest[opening:closing]))
    return Instruction(name.split()[-1].lstrip("%"), shape, rest[:opening], operands, rest[closing:])


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` is closed."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"Unbalanced parentheses in {text!r}.")


def _tables(hlo: str) -> dict[str, dict[str, str]]:
    """The tables of files, functions and stack frames at the top of the text, those that it has."""
    names = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
    blocks = {name: re.search(rf"^{name}\n((?:\d+ .*\n)*)", hlo, re.MULTILINE) for name in names}
    return {
        name: dict(line.split(" ", 1) for line in block[1].splitlines()) if block else {}
        for name, block in blocks.items()
    }


def _field(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\d+)", text)
    return found[1] if found else ""


def _called(attributes: str) -> list[str]:
    """The computations that a loop, a conditional or a call runs; the condition of a loop is none of them."""
    lists = re.findall(r"branch_computations=\{([^}]*)\}", attributes)
    singles = re.findall(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.-]+)", attributes)
    return [name.strip().lstrip("%") for names in lists for name in names.split(",")] + singles


def _trips(attributes: str) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
    return int(known[1]) if known else 1


def _bytes(shape: str, sizes: set[int]) -> int:
    """Bytes of the arrays in a shape that have one of these numbers of elements."""
    arrays = [(kind, math.prod(map(int, filter(None, dims.split(","))))) for kind, dims in _ARRAY.findall(shape)]
    return sum(_width(kind) * size for kind, size in arrays if size in sizes)


def _width(kind: str) -> int:
    bits = re.search(r"\d+", kind)
    return max(int(bits[0]) // 8, 1) if bits else 1


def _op_name(attributes: str) -> str:
    found = re.search(r'op_name="([^"]*)"', attributes)
    return re.sub(r"_\d+(?=[/)]|$)", "_*", found[1]) if found else ""


def _parse_arm(text: str) -> str:
    try:
        by_name(text)
    except KeyError:
        members = (f"{family}-N" for family in FAMILIES)
        known = ", ".join((*BASES, *SINGLES, *members))
        raise typer.BadParameter(f"{text!r} is none of {known}.") from None
    return text


def main(
    case: Annotated[
        Any, typer.Option(parser=parse_names(CASES), metavar="CASE", help="What is trained.", show_default="mlp")
    ] = None,
    arm: Annotated[str, typer.Option(callback=_parse_arm, help="Which step, such as profit-3.")] = "profit-1",
    top: Annotated[int, typer.Option(min=1, help="How many lines to show.")] = 20,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model.")] = False,
) -> None:
    """List the passes over parameter-sized buffers in a step's optimized HLO, by where they come from."""
    chosen = CASES[(case or ("mlp",))[0]](quick)
    found = passes(chosen, compile_step(chosen, by_name(arm)).executable.as_text())
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print("\n".join(_table(chosen, arm, found, top)))


def _table(case: Case, arm: str, found: list[Pass], top: int) -> list[str]:
    size = tree_bytes(case.params)
    groups = grouped(found)

    def cells(group: Group) -> str:
        return f"{group.passes} | {group.read / size:.2f} | {group.written / size:.2f}"

    lines = [f"| {name} | {source} | {cells(group)} | {place} |" for (name, source, place), group in groups.items()]
    left = [f"({len(lines) - top} more)"] if len(lines) > top else []
    return [
        f"Passes of {arm} over parameter-sized buffers of {case.title}, in units of {size / 1e6:.3g} MB:",
        "",
        "| op_name | source | passes | read | written | in a |",
        "|---|---|---|---|---|---|",
        *lines[:top],
        *left,
        f"| total outside of branches | | {cells(total(found))} | |",
    ]


if __name__ == "__main__":
    typer.run(main)
