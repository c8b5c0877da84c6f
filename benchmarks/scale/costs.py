"""What a step holds and sends, counted on paper, and in what compiled programs differ from it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.scale import transformer
from benchmarks.scale.figures import WAYS, Figures, Way
from benchmarks.scale.models import MODELS

FLOAT = 4
# Compilers for other devices change what is sent; that for CPUs leaves it as it is partitioned.
CHECKED_TARGET = "cpu"


class Cost(NamedTuple):
    """What a step costs each device.

    Attributes:
      held: bytes of parameters and state between steps.
      gathered: bytes that all-gathers assemble.
      summed: bytes that all-reduces sum, without single numbers.
      other: bytes of other collectives.
      numbers: bytes of single numbers that are summed. On paper the most there can be: XLA sums those of a leaf that
        it happens to have whole by itself.
    """

    held: float
    gathered: float
    summed: float
    other: float
    numbers: float


def on_paper(way: Way, config: transformer.Config, devices: int) -> Cost:
    """The cost by counting, of a model in float32.

    A gradient gathers the weights of each block in the forward pass and again in the backward pass, where the block is
    computed anew, and all other weights once. It sums an array for each parameter, and a tied embedding's twice.
    """
    sizes = {name: math.prod(shape) for name, shape in config.shapes().items()}
    parameters = sum(sizes.values())
    blocks = sum(size for name, size in sizes.items() if name not in transformer.ENDS)
    tied = sizes["embedding"] if config.tied else 0
    return Cost(
        held=FLOAT * way.copies * parameters / devices,
        gathered=FLOAT * way.gradients * (parameters + blocks),
        summed=FLOAT * way.gradients * (parameters + tied),
        other=0,
        numbers=FLOAT * way.numbers * len(sizes),
    )


def differences(found: Figures, expected: Cost, tolerance: float = 0.01) -> list[str]:
    """In what a program is not what paper says, in words; nothing if it is.

    It may gather less, since XLA may gather weights once for two passes, and sum fewer single numbers.
    """
    sent = {kind: each.bytes for kind, each in found.collectives.items()}
    gathered, summed = sent.pop("all-gather", 0), sent.pop("all-reduce", 0)
    # The batch, a few tokens, is among the arguments.
    cost = Cost(found.arguments, gathered, summed - found.numbers, sum(sent.values()), found.numbers)
    return [
        f"{name} is {value:,.0f} bytes in the program and {paper:,.0f} on paper"
        for name, value, paper in zip(Cost._fields, cost, expected, strict=True)
        if value > paper * (1 + tolerance) or (name in ("held", "summed") and value < paper * (1 - tolerance))
    ]


def not_as_on_paper(found: Mapping[Any, Any]) -> list[str]:
    """What programs of float32 transformers on several CPUs hold and send that is not as on paper, in words."""
    wrong = []
    for program, figures in found.items():
        config = MODELS[program.model].config
        if program.target == CHECKED_TARGET and program.devices > 1 and config and config.compute == "float32":
            expected = on_paper(WAYS[program.way], config, program.devices)
            wrong += [f"{program.model}, {program.way}: {each}" for each in differences(figures, expected)]
    return wrong
