"""What a step holds and sends: on paper, and read off a compiled program."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.scale import hlo, programs, transformer

FLOAT = 4


class Case(NamedTuple):
    """A row of the page.

    Attributes:
      name: what is measured.
      arm: the optimizer and its program.
      gradients: how many a step takes.
      copies: of the parameters, kept between steps: themselves, AdamW's moments, and what the form keeps.
      numbers: of each leaf, summed over devices in a step.
    """

    name: str
    arm: programs.Arm
    gradients: int
    copies: int
    numbers: int


CASES = (
    Case("AdamW after a global norm", programs.baseline(), gradients=1, copies=3, numbers=1),
    Case("two such steps in one program", programs.baseline(updates=2), gradients=2, copies=3, numbers=2),
    Case("closure, n_ref 1", programs.closure(1), gradients=2, copies=3, numbers=3),
    Case("closure, n_ref 3", programs.closure(3), gradients=4, copies=3, numbers=3),
    Case("closure, n_ref 1, subtract", programs.closure(1, displacement="subtract"), 2, copies=3, numbers=3),
    Case("closure, n_ref 3, subtract", programs.closure(3, displacement="subtract"), 4, copies=3, numbers=3),
    Case("transparent, n_ref 1", programs.transparent(1), gradients=2, copies=5, numbers=3),
    Case("transparent, n_ref 3", programs.transparent(3), gradients=4, copies=5, numbers=3),
    Case("one line", programs.one_line(), gradients=1, copies=4, numbers=2),
)


class Cost(NamedTuple):
    """What a step costs each device.

    Attributes:
      held: bytes of parameters and state between steps.
      gathered: bytes that all-gathers assemble.
      reduced: bytes that all-reduces sum, without single numbers.
      other: bytes of other collectives.
      numbers: bytes of single numbers that are summed. On paper the most there can be: XLA sums those of a leaf that
        it happens to have whole by itself.
    """

    held: float
    gathered: float
    reduced: float
    other: float
    numbers: float


def parameters(config: transformer.Config) -> int:
    """How many a model has."""
    return sum(map(math.prod, config.shapes().values()))


def on_paper(case: Case, config: transformer.Config, devices: int) -> Cost:
    """The cost by counting.

    A gradient gathers the weights of each block in the forward pass and again in the backward pass, where the block is
    computed anew, and all other weights once. It sums an array for each parameter, and a tied embedding's twice.
    """
    shapes = config.shapes()
    blocks = sum(math.prod(shape) for name, shape in shapes.items() if name not in transformer.ENDS)
    tied = math.prod(shapes["embedding"]) if config.tied else 0
    return Cost(
        held=FLOAT * case.copies * parameters(config) / devices,
        gathered=FLOAT * case.gradients * (parameters(config) + blocks),
        reduced=FLOAT * case.gradients * (parameters(config) + tied),
        other=0,
        numbers=FLOAT * case.numbers * len(shapes),
    )


class Compiled(NamedTuple):
    """What the program of a case says.

    Attributes:
      cost: what a step costs each device.
      temporaries: bytes that one call of the program needs on each device besides what is held.
      unusual: bytes of single numbers that are also summed where sums of squares have underflowed or overflowed.
      operations: how many collectives a step runs, those of that rare branch apart.
      scalar_operations: how many of these carry nothing but single numbers.
    """

    cost: Cost
    temporaries: int
    unusual: int
    operations: int
    scalar_operations: int


def compile_case(case: Case, config: transformer.Config, devices: int, length: int) -> Compiled:
    """The program of a case for many devices, each with one sequence of `length` tokens and 1 / devices of the rest."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    params = transformer.abstract_params(config, mesh)
    tokens = jax.ShapeDtypeStruct((devices, length), jnp.int32, sharding=NamedSharding(mesh, P("data")))
    loss_fn = functools.partial(transformer.loss_fn, config, mesh)
    arm = case.arm
    program = programs.compile_program(arm, loss_fn, params, tokens)
    found = hlo.collectives(program.as_text(), devices)
    memory = program.memory_analysis()

    def arrays(*kinds: str) -> int:
        return arm.calls * sum(c.times * s.bytes for c in found if c.kind in kinds for s in c.arrays)

    # The transparent form projects in the branch that one call in a step takes. All forms rescale in a branch.
    projection = 0 if arm.calls == 1 else 1
    scalar_operations = sum(c.times for c in found if not c.arrays and c.depth <= projection)
    numbers = [(c.depth > projection, c.times * s.bytes) for c in found for s in c.numbers]
    return Compiled(
        Cost(
            held=memory.argument_size_in_bytes - arm.updates * arm.batches * length * tokens.dtype.itemsize,
            gathered=arrays("all-gather"),
            reduced=arrays("all-reduce"),
            other=arrays("all-to-all", "collective-permute", "reduce-scatter"),
            numbers=sum(size for unusual, size in numbers if not unusual),
        ),
        temporaries=memory.temp_size_in_bytes,
        unusual=sum(size for unusual, size in numbers if unusual),
        operations=scalar_operations + arm.calls * sum(c.times for c in found if c.arrays),
        scalar_operations=scalar_operations,
    )


def differences(found: Cost, expected: Cost, tolerance: float = 0.01) -> list[str]:
    """In what a program is not what paper says, in words; nothing if it is."""
    wrong = [
        f"{name} is {value:,.0f} bytes in the program and {on_paper:,.0f} on paper"
        for name, value, on_paper in zip(Cost._fields, found, expected, strict=True)
        if name != "numbers" and abs(value - on_paper) > tolerance * on_paper
    ]
    if found.numbers > expected.numbers:
        wrong.append(
            f"numbers are {found.numbers:,.0f} bytes in the program and at most {expected.numbers:,.0f} on paper"
        )
    return wrong
