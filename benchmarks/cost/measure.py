"""Times, sizes and counts of every arm in a case, in interleaved rounds."""

import math
import resource
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cost import eager
from benchmarks.cost.arms import Arm
from benchmarks.cost.cases import Case
from benchmarks.cost.catalogue import EAGER
from benchmarks.cost.stepper import Stepper, compile_step, prepare

# For quick runs, half of which would otherwise go into optimizing programs that run once or twice.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


class Program(NamedTuple):
    """What XLA says about a program. A loop's body counts once in the last two, however often it runs.

    Attributes:
      temporary_bytes: memory that a call takes and gives back.
      argument_bytes: memory of what it is given: parameters, state, frozen parameters and batches.
      flops: floating-point operations.
      bytes_accessed: bytes read and written by its operations.
    """

    temporary_bytes: int
    argument_bytes: int
    flops: float
    bytes_accessed: float


class Times(NamedTuple):
    """What was seen of an arm in each round.

    Attributes:
      seconds: of a step, [rounds].
      fresh_bytes: memory that the system had to hand out anew in a step, as pages faulted in, [rounds].
    """

    seconds: np.ndarray
    fresh_bytes: np.ndarray


class Measured(NamedTuple):
    """One arm in one case.

    Attributes:
      arm: its name.
      gradients: how many gradients a step takes.
      times: None if the arm could not be run.
      compile_seconds: from the function to the program, once for each compilation; empty in PyTorch.
      program: what XLA says; None in PyTorch.
      absent: why the arm could not be run, or None.
    """

    arm: str
    gradients: int
    times: Times | None
    compile_seconds: Sequence[float] = ()
    program: Program | None = None
    absent: str | None = None


# Is told what is going on, and how many of `units` are done since last time.
OnProgress = Callable[[str, int], None]


class Plan(NamedTuple):
    """What to measure in every case.

    Attributes:
      arms: the JAX arms.
      eager_n_refs: for which n_ref Algorithm 1 runs in PyTorch.
      rounds: how often each arm is timed.
      compilations: how often the programs of `recompiled` are compiled; the others once.
      recompiled: names of arms.
      compiler_options: for XLA.
    """

    arms: Sequence[Arm]
    eager_n_refs: Sequence[int]
    rounds: int
    compilations: int
    recompiled: Container[str]
    compiler_options: Mapping[str, Any]


def units(plan: Plan) -> int:
    """How many units of progress a case has."""
    n_arms = len(plan.arms) + len(plan.eager_n_refs)
    return n_arms * plan.rounds + sum(len(names) for names in _compile_rounds(plan))


def measure(case: Case, plan: Plan, on_progress: OnProgress = lambda *_: None) -> list[Measured]:
    """Compile every arm, then time them all."""
    executables: dict[str, Any] = {}
    compile_seconds: dict[str, list[float]] = {}
    # Untimed: an arm's first compilation does what is done but once, and the next one profits.
    for arm in _recompiled(plan):
        compile_step(case, arm, plan.compiler_options)
    for arms in _compile_rounds(plan):
        for arm in arms:
            on_progress(f"{case.name}: compiling {arm.name}", 0)
            done = compile_step(case, arm, plan.compiler_options)
            executables[arm.name] = done.executable
            compile_seconds.setdefault(arm.name, []).append(done.seconds)
            on_progress(f"{case.name}: compiling {arm.name}", 1)

    absent = eager.missing(case)
    steppers = {arm.name: prepare(case, arm, executables[arm.name]) for arm in plan.arms}
    if not absent:
        steppers |= {f"{EAGER}-{n_ref}": eager.prepare(case, n_ref) for n_ref in plan.eager_n_refs}
    times = time_steps(steppers, plan.rounds, lambda name: on_progress(f"{case.name}: timing {name}", 1))
    if absent:
        on_progress(f"{case.name}: {absent}", len(plan.eager_n_refs) * plan.rounds)

    return [
        Measured(arm.name, arm.gradients, times[arm.name], compile_seconds[arm.name], program(executables[arm.name]))
        for arm in plan.arms
    ] + [
        Measured(f"{EAGER}-{n_ref}", n_ref + 1, times.get(f"{EAGER}-{n_ref}"), absent=absent)
        for n_ref in plan.eager_n_refs
    ]


def time_steps(
    steppers: Mapping[str, Stepper], rounds: int, on_timed: Callable[[str], None] = lambda _: None
) -> dict[str, Times]:
    """Time a step of each in every round, in another order each time."""
    names = list(steppers)
    seconds, fresh = np.zeros((len(names), rounds)), np.zeros((len(names), rounds))
    random = np.random.default_rng(0)
    for i in range(rounds):
        for j in random.permutation(len(names)):
            step = steppers[names[j]].step
            # Untimed: it brings this arm's parameters back to where its own last step would have left them.
            step()
            faults, start = _page_faults(), time.perf_counter()
            step()
            seconds[j, i] = time.perf_counter() - start
            fresh[j, i] = (_page_faults() - faults) * resource.getpagesize()
            on_timed(names[j])
    return {name: Times(*of_arm) for name, *of_arm in zip(names, seconds, fresh, strict=True)}


def program(executable: Any) -> Program:
    """What XLA says about a compiled program."""
    memory, cost = executable.memory_analysis(), executable.cost_analysis()
    return Program(
        temporary_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        flops=cost.get("flops", math.nan),
        bytes_accessed=cost.get("bytes accessed", math.nan),
    )


def _compile_rounds(plan: Plan) -> list[list[Arm]]:
    """The arms to compile, round by round, in another order each time."""
    rounds = [list(plan.arms), *[_recompiled(plan)] * (plan.compilations - 1)]
    random = np.random.default_rng(0)
    return [[arms[i] for i in random.permutation(len(arms))] for arms in rounds]


def _recompiled(plan: Plan) -> list[Arm]:
    return [arm for arm in plan.arms if arm.name in plan.recompiled]


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
