"""Methods x rates x seeds on one task."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.tasks import Scores, Task


class Budget(NamedTuple):
    """How long every method may train, the same for all.

    Attributes:
      rates: the main optimizer's learning rates.
      steps: steps at the lowest rate. A higher rate takes fewer in proportion, so that every rate can go as far.
      batch: examples for one gradient.
      evaluations: how often a run is evaluated after its start; fewer times where it has fewer steps.
    """

    rates: tuple[float, ...]
    steps: int
    batch: int
    evaluations: int


class Run(NamedTuple):
    """One method at one rate, over all seeds.

    Attributes:
      method: the method's name.
      rate: the main optimizer's learning rate.
      gradients: gradients that one step takes.
      steps: steps taken at each evaluation, the first before any step, [evaluations].
      old: accuracy on the old task, [seeds, evaluations].
      new: accuracy on the new task, [seeds, evaluations].
      metrics: what the method says about itself, as means over the steps since the evaluation before,
        [seeds, evaluations - 1].
      seconds: training and evaluation of all seeds together, without compilation.
    """

    method: str
    rate: float
    gradients: int
    steps: np.ndarray
    old: np.ndarray
    new: np.ndarray
    metrics: dict[str, np.ndarray]
    seconds: float


class _State(NamedTuple):
    """Where all seeds are: every leaf but the count of steps has a leading axis over seeds."""

    params: chex.ArrayTree
    optimizer_state: optax.OptState
    step: jax.Array


class _Inputs(NamedTuple):
    """What a run reads: arguments of the compiled program, so that no data are compiled into it."""

    data: Any
    train: jax.Array
    held_out: Any
    order: jax.Array


_Metrics = dict[str, jax.Array]
_AdvanceFn = Callable[[_State, jax.Array, jax.Array, _Inputs], tuple[_State, Scores, _Metrics]]


def evaluation_steps(budget: Budget, rate: float) -> np.ndarray:
    """After how many steps a run at this rate is evaluated: at the start, and at equal distances to the end."""
    steps = max(1, round(budget.steps * min(budget.rates) / rate))
    return np.round(np.linspace(0, steps, min(budget.evaluations, steps) + 1)).astype(int)


def batch_order(key: jax.Array, n_batches: int, batch: int, n_train: int) -> jax.Array:
    """Positions of the examples of each batch: epoch after epoch in a new order, without the incomplete last batch.

    A longer order starts with the shorter one, so methods that take different numbers of batches see the same ones.
    """
    per_epoch = n_train // batch
    epochs = jnp.arange(-(-n_batches // per_epoch))
    orders = jax.vmap(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), n_train))(epochs)
    return orders[:, : per_epoch * batch].reshape(-1, batch)[:n_batches]


def run_all(
    task: Task, methods: Sequence[Method], budget: Budget, on_progress: Callable[[str, int], None] = lambda *_: None
) -> list[Run]:
    """Run every method at every rate, all seeds at once and on the same batches.

    Args:
      task: what is learnt, from which models.
      methods: the arms to compare.
      budget: rates, steps, batch size and evaluations, the same for every method.
      on_progress: is told the name of the method and how many gradients of one seed were taken since last time.
    """
    n_seeds, n_train = task.train.shape
    n_batches = int(evaluation_steps(budget, min(budget.rates))[-1]) * max(method.gradients for method in methods)
    # Not 0 or 1: splitting the seed's key, as tasks do, is folding those in.
    seed_keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 2))(jnp.arange(n_seeds))
    order_of = functools.partial(batch_order, n_batches=n_batches, batch=budget.batch, n_train=n_train)
    inputs = _Inputs(task.data, task.train, task.held_out, jax.jit(jax.vmap(order_of))(seed_keys))
    return [run for method in methods for run in _run_method(task, method, budget, inputs, on_progress)]


def _run_method(
    task: Task, method: Method, budget: Budget, inputs: _Inputs, on_progress: Callable[[str, int], None]
) -> list[Run]:
    on_progress(method.name, 0)
    init = jax.jit(lambda params, rate: _State(params, jax.vmap(method.optimizer(rate).init)(params), jnp.int32(0)))
    advance = jax.jit(_advance_fn(task, method))
    first = init(task.params, jnp.float32(budget.rates[0]))
    compiled: Any = advance.lower(first, jnp.float32(0), jnp.int32(0), inputs).compile()
    runs = []
    for rate in budget.rates:
        start = time.perf_counter()
        state, steps = init(task.params, jnp.float32(rate)), evaluation_steps(budget, rate)
        records = []
        # The first distance is 0, which evaluates the start.
        for distance in np.diff(steps, prepend=0):
            state, *record = compiled(state, jnp.float32(rate), jnp.int32(distance), inputs)
            records.append(jax.device_get(record))
            on_progress(method.name, int(distance) * method.gradients)
        scores, metrics = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1, dtype=float), *records)
        metrics = {name: values[:, 1:] for name, values in metrics.items()}
        seconds = time.perf_counter() - start
        runs.append(Run(method.name, rate, method.gradients, steps, scores.old, scores.new, metrics, seconds))
    return runs


def _advance_fn(task: Task, method: Method) -> _AdvanceFn:
    value_and_grad_fn = jax.value_and_grad(task.loss)

    def seed_step(
        rate: jax.Array,
        data: Any,
        step: jax.Array,
        params: chex.ArrayTree,
        state: optax.OptState,
        train: jax.Array,
        order: jax.Array,
    ) -> tuple[chex.ArrayTree, optax.OptState, _Metrics]:
        positions = jax.lax.dynamic_slice_in_dim(order, step * method.gradients, method.gradients)
        batches = task.batch(data, train[positions])
        params, state = method.step(method.optimizer(rate), value_and_grad_fn, params, state, batches)
        return params, state, method.metrics(state)

    def advance(state: _State, rate: jax.Array, n_steps: jax.Array, inputs: _Inputs) -> tuple[_State, Scores, _Metrics]:
        """All seeds by `n_steps` steps, their scores there, and the means of the metrics over these steps."""
        all_seeds = jax.vmap(seed_step, in_axes=(None, None, None, 0, 0, 0, 0))

        def one_step(_: jax.Array, carry: tuple[_State, _Metrics]) -> tuple[_State, _Metrics]:
            (params, optimizer_state, step), sums = carry
            params, optimizer_state, metrics = all_seeds(
                rate, inputs.data, step, params, optimizer_state, inputs.train, inputs.order
            )
            return _State(params, optimizer_state, step + 1), optax.tree.add(sums, metrics)

        zeros = optax.tree.zeros_like(jax.vmap(method.metrics)(state.optimizer_state))
        state, sums = jax.lax.fori_loop(0, n_steps, one_step, (state, zeros))
        params = jax.vmap(method.eval_params)(state.optimizer_state, state.params)
        scores = jax.vmap(task.evaluate, in_axes=(0, None, 0))(params, inputs.data, inputs.held_out)
        return state, scores, jax.tree.map(lambda total: total / jnp.maximum(n_steps, 1), sums)

    return advance
