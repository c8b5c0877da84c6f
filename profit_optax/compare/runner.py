"""One method at one rate and seed: from the converged model, on the seed's batches, with scores along the way."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from profit_optax.compare import fingerprint
from profit_optax.compare.batches import stream
from profit_optax.compare.errors import KEPT, SCORED, CompareError, NotFiniteError, said
from profit_optax.compare.methods import Method, Setting
from profit_optax.compare.store import Store
from profit_optax.compare.task import Task

# How far apart in seconds, at least, the states are that a killed run can go on from.
SAVE_EVERY = 60.0

Scores = dict[str, float]


class Run(NamedTuple):
    """What one method did at one rate on one seed.

    Attributes:
      method: the method's name.
      rate: its learning rate.
      seed: the seed of its batches.
      along: what its positions are: "steps", or "alpha" where it follows another run.
      positions: where it was scored, the start first, [evaluations].
      gradients: how many gradients that took, [evaluations].
      scores: what the task's scorer said, each [evaluations].
      loss: mean training loss since the evaluation before, [evaluations - 1].
      seconds: of training until there, without compilation and scoring, [evaluations].
      memory: bytes that the compiled step holds at once, parameters and optimizer state included.
    """

    method: str
    rate: float
    seed: int
    along: str
    positions: list[float]
    gradients: list[int]
    scores: dict[str, list[float]]
    loss: list[float]
    seconds: list[float]
    memory: int


class _Carry(NamedTuple):
    params: chex.ArrayTree
    opt_state: optax.OptState
    loss_sum: jax.Array


class Program:
    """The compiled step of a method at a rate, which serves all seeds.

    Attributes:
      identity: a hash of what it computes.
      memory: bytes that it holds at once.
    """

    def __init__(self, task: Task, method: Method, rate: float, steps: int, kept: Any, batch: Any):
        self._task, self._kept = task, kept
        self._tx = optax.with_extra_args_support(method.optimizer(Setting(rate, steps, task)))
        # No method of this object: the cycle would keep what is compiled, with the arrays that a loss closes over.
        self._step = jax.jit(functools.partial(_one_step, task, method, self._tx), donate_argnums=0)
        self._batches = (batch,) * method.gradients
        # Not kept until it is compiled: JAX 0.7 holds the arguments in it, of every method that waits.
        self.identity = fingerprint.of_program(self._step.trace(self.start(), kept, self._batches).jaxpr)
        self.memory = 0

    def compile(self) -> None:
        """Compile ahead of the first step, so that no run's seconds hold it."""
        used = self._step.lower(self.start(), self._kept, self._batches).compile().memory_analysis()
        if used is not None:
            self.memory = (
                used.argument_size_in_bytes
                + used.output_size_in_bytes
                + used.temp_size_in_bytes
                - used.alias_size_in_bytes
            )

    def start(self) -> _Carry:
        """Where a run begins: copies, because every step takes the arrays that it is given."""
        params = jax.tree.map(lambda p: jnp.array(p, copy=True), self._task.params)
        return _Carry(params, self._tx.init(params), jnp.zeros((), jnp.float32))

    def step(self, carry: _Carry, batches: tuple[Any, ...]) -> _Carry:
        """A step, which nobody waits for."""
        return self._step(carry, self._kept, batches)


def _one_step(
    task: Task,
    method: Method,
    tx: optax.GradientTransformationExtraArgs,
    carry: _Carry,
    kept: Any,
    batches: tuple[Any, ...],
) -> _Carry:
    loss = method.loss(task, kept) if method.loss else task.scalar_loss

    def value_and_grad_fn(params: chex.ArrayTree, batch: Any) -> tuple[jax.Array, chex.ArrayTree]:
        value, grads = jax.value_and_grad(loss)(params, batch)
        # Optax descends along the conjugate of what JAX calls the gradient of a complex leaf.
        return value, jax.tree.map(jnp.conj, grads)

    value, grads = value_and_grad_fn(carry.params, batches[0])
    extra: dict[str, Any] = {}
    if method.closure:
        others = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches[1:])
        extra = {"value_and_grad_fn": value_and_grad_fn, "batches": others}
    elif len(batches) > 1:
        every = [grads, *(value_and_grad_fn(carry.params, batch)[1] for batch in batches[1:])]
        grads = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *every)
    updates, opt_state = tx.update(grads, carry.opt_state, carry.params, **extra)
    params = optax.apply_updates(carry.params, updates)
    return _Carry(params, opt_state, carry.loss_sum + value.astype(jnp.float32))


def evaluation_steps(steps: int, evaluations: int) -> np.ndarray:
    """When a run is scored: half of the times evenly, half at growing distances, for runs that are slow and fast."""
    evaluations = min(evaluations, 2 * steps)
    evenly = np.round(np.linspace(0, steps, min(evaluations // 2, steps) + 1))
    growing = np.round(np.geomspace(1, steps, max(evaluations - evaluations // 2, 1)))
    return np.unique([*evenly, *growing, steps] if evaluations > 1 else [0, steps]).astype(int)


def scored(task: Task, params: chex.ArrayTree, where: str, run: tuple[str, float] | None = None) -> Scores:
    """The task's scores of the parameters, or an error that says where they were asked for.

    Args:
      task: what is learnt.
      params: what is scored.
      where: for errors.
      run: the method's name and its rate, where a run led to the parameters.
    """
    try:
        found = task.evaluate(params)
    except Exception as error:
        remedy = KEPT if run is None else SCORED
        raise CompareError(f"evaluate raised {said(error)}, {where}. {remedy}") from error
    if not isinstance(found, Mapping) or not {"old", "new"} <= found.keys():
        keys = sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise CompareError(f'evaluate must return a dictionary with "old" and "new", got {keys}, {where}.')
    scores = {str(name): float(np.asarray(value)) for name, value in found.items()}
    for name in ("old", "new"):
        if not math.isfinite(scores[name]):
            text = f"evaluate gave {scores[name]} for {name!r}, {where}: a score must be finite."
            raise NotFiniteError(text, *run) if run else CompareError(text)
    return scores


def train(
    task: Task,
    method: Method,
    program: Program,
    rate: float,
    seed: int,
    steps: np.ndarray,
    start: Scores,
    store: Store | None = None,
    on_evaluated: Callable[[int], None] = lambda gradients: None,
) -> tuple[Run, chex.ArrayTree]:
    """A run to its end.

    Args:
      task: what is learnt.
      method: how.
      program: its step at that rate.
      rate: the learning rate.
      seed: of the batches.
      steps: when it is scored, 0 first, [evaluations].
      start: the scores of the converged model.
      store: keeps where it is at times, and knows where it was.
      on_evaluated: is told how many gradients were taken since last time.

    Returns:
      The run, and the parameters at its end.

    Raises:
      NotFiniteError: if a loss, the parameters or a score are not finite.
      CompareError: if the scorer raises.
    """
    name = f"runs/{method.name} {rate!r} {seed}"
    carry = program.start()
    record: dict[str, Any] = {"done": 0, "scores": [start], "loss": [], "seconds": [0.0]}
    if store:
        carry, record = store.load_state(name, carry, record)
    done, seconds, saved_at = record["done"], record["seconds"][-1], time.perf_counter()
    on_evaluated(int(steps[done]) * method.gradients)
    batches = stream("batches", task.batches, task.batch_size, seed)
    batches = itertools.islice(batches, int(steps[done]) * method.gradients, None)
    for i in range(done + 1, len(steps)):
        distance = int(steps[i] - steps[i - 1])
        begin = time.perf_counter()
        where = f"with {method.name} at rate {rate:g}, seed {seed}, after {steps[i] * method.gradients} gradients"
        try:
            for _ in range(distance):
                carry = program.step(carry, tuple(itertools.islice(batches, method.gradients)))
            jax.block_until_ready(carry)
        except jax.errors.JaxRuntimeError as error:  # Memory that is not there, above all.
            raise CompareError(f"the device failed {where}: {str(error).strip()}\n{KEPT}") from error
        seconds += time.perf_counter() - begin
        loss = float(carry.loss_sum) / distance
        if not (math.isfinite(loss) and bool(_all_finite(carry.params))):
            raise NotFiniteError(
                f"the loss or the parameters are not finite {where}: lower its rate{_of_factor(method)}, leave the "
                "method out, or, if it is so from the first gradient on, look at the loss and the batches. What was "
                "finished is kept where there is an output folder.",
                method.name,
                rate,
            )
        scores = scored(task, method.eval_params(carry.opt_state, carry.params), where, (method.name, rate))
        carry = carry._replace(loss_sum=jnp.zeros((), jnp.float32))
        record = {
            "done": i,
            "scores": [*record["scores"], scores],
            "loss": [*record["loss"], loss],
            "seconds": [*record["seconds"], seconds],
        }
        on_evaluated(distance * method.gradients)
        if store and i + 1 < len(steps) and time.perf_counter() - saved_at >= SAVE_EVERY:
            store.save_state(name, carry, record)
            saved_at = time.perf_counter()
    run = Run(
        method=method.name,
        rate=rate,
        seed=seed,
        along="steps",
        positions=[float(step) for step in steps],
        gradients=[int(step) * method.gradients for step in steps],
        scores=_columns(record["scores"]),
        loss=record["loss"],
        seconds=record["seconds"],
        memory=program.memory,
    )
    return run, method.eval_params(carry.opt_state, carry.params)


def follow(task: Task, method: Method, run: Run, end: chex.ArrayTree, start: Scores) -> Run:
    """A method that trains nothing, between where a run began and where it ended."""
    assert method.points is not None
    positions, scores = [0.0], [start]
    for position, params in method.points(task.params, end):
        where = f"with {method.name} at {position:g} of {run.method} at rate {run.rate:g}, seed {run.seed}"
        scores.append(scored(task, params, where, (method.name, run.rate)))
        positions.append(float(position))
    return run._replace(
        method=method.name,
        along="alpha",
        positions=positions,
        gradients=[run.gradients[-1]] * len(positions),
        scores=_columns(scores),
        loss=[],
        seconds=[run.seconds[-1]] * len(positions),
    )


def _of_factor(method: Method) -> str:
    return f", which is {method.rate_factor:g} times one that was asked for" if method.rate_factor != 1 else ""


@jax.jit
def _all_finite(params: chex.ArrayTree) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


def _columns(scores: Sequence[Scores]) -> dict[str, list[float]]:
    names = [name for name in scores[0] if all(name in each for each in scores)]
    return {name: [each[name] for each in scores] for name in names}
