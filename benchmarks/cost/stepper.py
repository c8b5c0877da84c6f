"""A step as something that can be timed: compiled for a case, and holding its own parameters and state."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from benchmarks.cost.arms import Arm, Stepped
from benchmarks.cost.cases import Case


class Stepper(NamedTuple):
    """One way to take a step, ready to go.

    Attributes:
      step: takes a whole step, and returns when it is done.
      theta: the fine-tuned parameters as they are now.
    """

    step: Callable[[], None]
    theta: Callable[[], chex.ArrayTree]


class Lowering(NamedTuple):
    """A traced program and what it took to get it, from empty caches.

    Attributes:
      lowered: what JAX's ahead-of-time compilation lowers to.
      seconds: for tracing and lowering.
    """

    lowered: Any
    seconds: float


class Compilation(NamedTuple):
    """A compiled program and what it took to get it, from empty caches.

    Attributes:
      executable: what JAX's ahead-of-time compilation compiles to.
      seconds: for tracing, lowering and XLA.
    """

    executable: Any
    seconds: float


def lower_step(case: Case, arm: Arm) -> Lowering:
    """Trace an arm's program for a case, allocating nothing."""

    def program(params: chex.ArrayTree, state: Any, frozen: chex.ArrayTree, batches: Any) -> Stepped:
        value_and_grad_fn = jax.value_and_grad(lambda p, batch: case.loss(p, frozen, batch))
        return arm.call(value_and_grad_fn, params, state, batches)

    params, state = jax.eval_shape(arm.init, case.params)
    batches = jax.eval_shape(lambda: case.batches(arm.gradients // arm.calls))
    # Whatever an arm before has traced would be free for this one.
    jax.clear_caches()
    start = time.perf_counter()
    # An unused argument is kept, so that what is donated can be written to.
    lowered = jax.jit(program, donate_argnums=(0, 1), keep_unused=True).lower(params, state, case.frozen, batches)
    return Lowering(lowered, time.perf_counter() - start)


def compile_step(case: Case, arm: Arm, compiler_options: Mapping[str, Any] | None = None) -> Compilation:
    """Trace and compile an arm's program for a case."""
    lowering = lower_step(case, arm)
    start = time.perf_counter()
    executable = lowering.lowered.compile(dict(compiler_options or {}))
    return Compilation(executable, lowering.seconds + time.perf_counter() - start)


def prepare(case: Case, arm: Arm, executable: Any) -> Stepper:
    """A stepper that donates its parameters and state at every call."""
    # The case's own parameters must survive the donation.
    params, state = jax.jit(lambda p: jax.tree.map(jnp.copy, arm.init(p)))(case.params)
    per_call = arm.gradients // arm.calls
    batches = jax.jit(case.batches, static_argnums=0)(arm.gradients)
    parts = [jax.tree.map(lambda x, i=i: x[i * per_call : (i + 1) * per_call], batches) for i in range(arm.calls)]

    def step() -> None:
        nonlocal params, state
        for part in parts:
            params, state, _ = executable(params, state, case.frozen, part)
        jax.block_until_ready((params, state))

    return Stepper(step, lambda: arm.theta(params, state))
