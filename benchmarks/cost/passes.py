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
from benchmarks.scale.hlo import Operation, operations

# Leaves with less than this share of all trained parameters, such as biases, are no parameter-sized buffers.
_SHARE = 0.01

# A dtype and its dimensions, as in f32[8,1024].
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")

# What moves no data, or is counted by what it runs.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier",
         "while", "conditional", "call", "async-start")  # fmt: skip


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
    return list(_walk(hlo, {x.size for x in leaves if x.size >= least}))


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


def _walk(hlo: str, sizes: set[int]) -> Iterator[Pass]:
    """The passes of all that a run of the program executes."""
    everything, sources = [each for each in operations(hlo) if not each.fused], _Sources(hlo)
    shapes = {(each.computation, _name(each.line)): each.result for each in everything}
    for each in everything:
        if each.name in _FREE:
            continue
        read = sum(_bytes(shapes.get((each.computation, operand), ""), sizes) for operand in _operands(each))
        written = _bytes(each.result, sizes)
        if read or written:
            times = 1 if each.times is None else each.times
            yield Pass(each.name, _op_name(each.line), sources.of(each.line), each.depth > 0, times, read, written)


def _name(line: str) -> str:
    return line.split(" = ")[0].split()[-1].lstrip("%")


def _operands(operation: Operation) -> set[str]:
    """Names of what an instruction reads."""
    inside = re.search(rf" {operation.name}\((.*?)\)(?:, \w+=|$)", operation.line)
    return set(re.findall(r"%([\w.-]+)", inside[1])) if inside else set()


class _Sources:
    """The tables of files, functions and stack frames at the top of the text, those that it has."""

    def __init__(self, hlo: str) -> None:
        names = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
        blocks = {name: re.search(rf"^{name}\n((?:\d+ .*\n)*)", hlo, re.MULTILINE) for name in names}
        self._tables = {
            name: dict(line.split(" ", 1) for line in block[1].splitlines()) if block else {}
            for name, block in blocks.items()
        }

    def of(self, line: str) -> str:
        """The innermost of the lines of Python that led to an instruction."""
        frame = self._tables["StackFrames"].get(_field(line, "stack_frame_id"))
        if frame is None:
            return ""
        location = self._tables["FileLocations"][_field(frame, "file_location_id")]
        file = self._tables["FileNames"][_field(location, "file_name_id")].strip('"')
        function = self._tables["FunctionNames"][_field(location, "function_name_id")].strip('"')
        return f"{Path(file).name}: {function.split('.<locals>')[0]}"


def _field(text: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\d+)", text)
    return found[1] if found else ""


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
