"""Medians with intervals, ratios to the floor, and which goals were met.

The floor of a step is a step of AdamW after a global norm and as many gradients more as the step takes, each timed as
a program of its own. Ratios are taken round by round, between what was timed in the same round, and then summarised.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from benchmarks.cost.measure import Measured

# How much the compile time may grow from the smallest n_ref and still be called flat.
FLAT = 1.10


class Interval(NamedTuple):
    """A median and its 95 % confidence interval: None on both sides where there are too few values for one."""

    median: float
    low: float | None
    high: float | None


class Row(NamedTuple):
    """What one arm cost in one case. What was not measured, or has no meaning for it, is None.

    Attributes:
      arm: its name.
      gradients: how many gradients a step takes.
      milliseconds: of a step.
      over_floor: time of a step over that of its floor.
      over_line: time of a step over that of Algorithm 1 written line by line in JAX, at the same n_ref.
      compile_seconds: for tracing, lowering and compiling.
      compile_over_adamw: that over AdamW's.
      compile_over_least: that over the compile time of the same family at the smallest n_ref.
      temporaries: bytes of temporary memory over P.
      extra_temporaries: those beyond AdamW after a global norm.
      arguments: bytes of parameters, state and batches over P.
      fresh: bytes of memory faulted in during a step over P.
      flops: floating-point operations that XLA counts, loop bodies once.
      bytes_accessed: bytes read and written that XLA counts, loop bodies once.
      absent: why the arm could not be run, or None.
    """

    arm: str
    gradients: int
    milliseconds: Interval | None
    over_floor: Interval | None
    over_line: Interval | None
    compile_seconds: Interval | None
    compile_over_adamw: Interval | None
    compile_over_least: Interval | None
    temporaries: float | None
    extra_temporaries: float | None
    arguments: float | None
    fresh: float | None
    flops: float | None
    bytes_accessed: float | None
    absent: str | None


class Goal(NamedTuple):
    """A goal of one arm in one case, and whether it was met.

    Attributes:
      goal: what is asked for.
      case: the case's name.
      arm: the arm's name.
      bound: what the value must not exceed.
      value: what was measured.
      verdict: "met" where the whole interval keeps to the bound, "not met" where none of it does, else "undecided".
    """

    goal: str
    case: str
    arm: str
    bound: float
    value: Interval
    verdict: str


# The most that a step may take, over its floor; and that the one line may take, over AdamW's after a global norm.
TIME_BOUNDS = {"mlp": 1.10, "transformer-1": 1.10, "transformer-8": 1.05, "resnet": 1.05, "lora": 1.05}
ONE_LINE_BOUND = 1.05


def interval(values: Sequence[float] | np.ndarray) -> Interval:
    """The median, and between which order statistics the true one lies with at least 95 % confidence."""
    found = scipy.stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    low, high = (None if math.isnan(x) else float(x) for x in found)
    # One side alone is no interval.
    both = low is not None and high is not None
    return Interval(float(np.median(values)), low if both else None, high if both else None)


def exact(value: float) -> Interval:
    """The interval of what has no spread, such as a count of bytes."""
    return Interval(value, value, value)


def summarize(measured: Sequence[Measured], param_bytes: int) -> list[Row]:
    """A row for each arm, with P = `param_bytes`."""
    by_arm = {each.arm: each for each in measured}
    return [_row(each, by_arm, param_bytes) for each in measured]


def verdict(value: Interval, bound: float) -> str:
    """Whether the whole interval keeps to the bound, none of it, or neither can be said."""
    if value.low is None or value.high is None:
        return "undecided"
    if value.high <= bound:
        return "met"
    return "not met" if value.low > bound else "undecided"


def goals(case: str, rows: Sequence[Row]) -> list[Goal]:
    """What issue 5 asks of this package, as far as its arms were measured."""
    found = [_goal(*each) for each in _asked(case, rows)]
    return [goal for goal in found if goal]


def goal_compilations(n_refs: Sequence[int]) -> set[str]:
    """The arms whose compile time a goal is about."""
    return {"adamw", *(f"profit-{n_ref}" for n_ref in n_refs)}


def _row(each: Measured, by_arm: Mapping[str, Measured], param_bytes: int) -> Row:
    norm, gradient, adamw = (by_arm[name] for name in ("adamw-norm", "gradient", "adamw"))
    line = by_arm.get(f"line-{each.gradients - 1}")
    members = [other for other in by_arm.values() if _family(other) == _family(each)]
    least = min(members, key=lambda other: other.gradients)
    program, base = each.program, norm.program
    return Row(
        arm=each.arm,
        gradients=each.gradients,
        milliseconds=each.times and interval(1e3 * each.times.seconds),
        over_floor=None if each is gradient else _ratio(_seconds(each), _floor(norm, gradient, each.gradients)),
        over_line=_ratio(_seconds(each), _seconds(line)) if line and _family(each) else None,
        compile_seconds=_interval(each.compile_seconds),
        compile_over_adamw=_ratio(each.compile_seconds, adamw.compile_seconds),
        compile_over_least=None if each is least else _ratio(each.compile_seconds, least.compile_seconds),
        temporaries=program and program.temporary_bytes / param_bytes,
        extra_temporaries=program and base and (program.temporary_bytes - base.temporary_bytes) / param_bytes,
        arguments=program and program.argument_bytes / param_bytes,
        fresh=each.times and float(np.median(each.times.fresh_bytes)) / param_bytes,
        flops=program and program.flops,
        bytes_accessed=program and program.bytes_accessed,
        absent=each.absent,
    )


def _family(measured: Measured) -> str:
    """The part of the name before n_ref, empty for arms that have none."""
    family, _, n_ref = measured.arm.rpartition("-")
    return family if n_ref.isdigit() else ""


def _seconds(measured: Measured) -> Sequence[float]:
    return () if measured.times is None else list(measured.times.seconds)


def _floor(norm: Measured, gradient: Measured, gradients: int) -> Sequence[float]:
    return [x + (gradients - 1) * y for x, y in zip(_seconds(norm), _seconds(gradient), strict=True)]


def _ratio(values: Sequence[float], others: Sequence[float]) -> Interval | None:
    """The ratio of what was measured in the same round; of medians for programs that were compiled in fewer rounds."""
    if values and others and len(values) != len(others):
        return Interval(float(np.median(values) / np.median(others)), None, None)
    return _interval([x / y for x, y in zip(values, others, strict=False)])


def _interval(values: Sequence[float]) -> Interval | None:
    return interval(values) if values else None


_Asked = tuple[str, str, str, float | None, Interval | float | None]


def _asked(case: str, rows: Sequence[Row]) -> list[_Asked]:
    """Goal, case, arm, bound and value of everything that is asked for; without a bound or a value, nothing is."""
    closures = [row for row in rows if row.arm.startswith("profit-")]
    subtracting = [row for row in rows if row.arm.startswith("subtract-")]
    one_line = [row for row in rows if row.arm == "one-line"]
    return [
        *(("time / floor", case, row.arm, TIME_BOUNDS.get(case), row.over_floor) for row in closures),
        *(("time / line by line", case, row.arm, 1.0, row.over_line) for row in closures),
        *(("time / AdamW after a norm", case, row.arm, ONE_LINE_BOUND, row.over_floor) for row in one_line),
        *(("temporaries beyond AdamW after a norm, in P", case, row.arm, 0.0, row.extra_temporaries)
          for row in one_line),
        *(("compile time / AdamW's", case, row.arm, 1.5, row.compile_over_adamw) for row in one_line),
        *(("temporaries beyond AdamW after a norm, in P", case, row.arm, 1.0, row.extra_temporaries)
          for row in closures),
        *(("temporaries beyond AdamW after a norm, in P", case, row.arm, 0.1, row.extra_temporaries)
          for row in subtracting),
        *(("compile time / AdamW's", case, row.arm, 2.2, row.compile_over_adamw) for row in closures),
        *(("compile time / that at the smallest n_ref", case, row.arm, FLAT, row.compile_over_least)
          for row in closures),
    ]  # fmt: skip


def _goal(goal: str, case: str, arm: str, bound: float | None, value: Interval | float | None) -> Goal | None:
    if bound is None or value is None:
        return None
    value = value if isinstance(value, Interval) else exact(value)
    return Goal(goal, case, arm, bound, value, verdict(value, bound))
