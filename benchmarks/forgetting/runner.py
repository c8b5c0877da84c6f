"""Methods at settings, over all seeds of a task, on the same batches."""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.tasks import Task
from profit_optax.compare.errors import CompareError
from profit_optax.compare.store import Store


class Trial(NamedTuple):
    """A method at a setting, and how far it goes.

    Attributes:
      method: the method.
      setting: its "rate", and the other numbers that it can be set to.
      steps: after how many steps it is evaluated, the first time before any step, [evaluations].
      until: quality on the new task at which the trial ends once every seed has stood there; None for its whole length,
        as it must be where seeds are not trained together.
    """

    method: Method
    setting: dict[str, float]
    steps: np.ndarray
    until: float | None = None


class Run(NamedTuple):
    """What a trial was, over all seeds.

    Attributes:
      method: the method's name.
      setting: its "rate", and the other numbers that it was set to.
      gradients: gradients that one step takes.
      steps: steps taken at each evaluation, the first before any step, [evaluations].
      old: quality on the old task, [seeds, evaluations].
      new: quality on the new task, [seeds, evaluations].
      metrics: what the method says about itself, as means over the steps since the evaluation before,
        [seeds, evaluations - 1].
      seconds: training and evaluation of all seeds, without compilation.
    """

    method: str
    setting: dict[str, float]
    gradients: int
    steps: np.ndarray
    old: np.ndarray
    new: np.ndarray
    metrics: dict[str, np.ndarray]
    seconds: float

    @property
    def rate(self) -> float:
        """The main optimizer's learning rate."""
        return self.setting["rate"]


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
    keys: jax.Array
    kept: Any


# All seeds have the same data, and their own of everything else.
_BY_SEED: Any = (None, 0, 0, 0, 0, 0)

_Setting = dict[str, jax.Array]
# Scores and metrics of all seeds by their names.
_Record = dict[str, jax.Array]
_Program = tuple[
    Callable[[chex.ArrayTree, _Setting], _State],
    Callable[[_State, _Setting, jax.Array, _Inputs], tuple[_State, _Record]],
]
_OnProgress = Callable[[str, int], None]

# Folded into a seed's key for its batches' own keys: no epoch has this number, whose order the key also makes.
_BATCH_KEYS = 2**31
# How far apart in seconds, at least, the states are that a killed run can go on from.
SAVE_EVERY = 60.0


def evenly(steps: int, evaluations: int) -> np.ndarray:
    """Evaluations at the start and at equal distances to the end; fewer where there are fewer steps."""
    return np.round(np.linspace(0, steps, min(evaluations, steps) + 1)).astype(int)


def geometrically(steps: int, evaluations: int) -> np.ndarray:
    """Evaluations at the start, after the first step, and at growing distances: for runs that are fast and slow."""
    return np.unique([0, *np.round(np.geomspace(1, steps, evaluations)).astype(int)])


def at_rates(
    methods: Sequence[Method], rates: Sequence[float], steps: int, evaluations: int, **others: float
) -> list[Trial]:
    """Every method at every rate: `steps` steps at the lowest, and in proportion fewer at a higher one.

    `others` is what else they are set to, as far as each of them can be.
    """
    return [
        Trial(
            method, method.setting(rate=rate, **others), evenly(max(1, round(steps * min(rates) / rate)), evaluations)
        )
        for method in methods
        for rate in rates
    ]


def batch_order(key: jax.Array, n_batches: int, batch: int, n_train: int) -> jax.Array:
    """Positions of the examples of each batch: epoch after epoch in a new order, without the incomplete last batch.

    A longer order starts with the shorter one, so methods that take different numbers of batches see the same ones.
    """
    per_epoch = n_train // batch
    epochs = jnp.arange(-(-n_batches // per_epoch))
    orders = jax.vmap(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), n_train))(epochs)
    return orders[:, : per_epoch * batch].reshape(-1, batch)[:n_batches]


def total(trials: Sequence[Trial], seeds: int) -> int:
    """How many gradients all of it takes at most, over that many seeds: what `run_all` reports."""
    return seeds * sum(int(trial.steps[-1]) * trial.method.gradients for trial in trials)


def run_all(
    task: Task,
    trials: Sequence[Trial],
    batch: int,
    on_progress: _OnProgress = lambda *_: None,
    store: Path | None = None,
) -> list[Run]:
    """Run every trial over all seeds of the task, on the same batches.

    Args:
      task: what is learnt, from which models.
      trials: methods at settings.
      batch: examples for one gradient.
      on_progress: is told the name of the method and how many gradients, over seeds, were taken since last time.
      store: a folder that keeps finished runs, and the state of the one that is running, after an evaluation and at
        most every minute. A command that was killed goes on from there. Runs are told apart by the names of task and
        method, seeds, settings and lengths: empty the folder when anything else has changed, such as the code. None
        to keep nothing.
    """
    # Runs are told apart by their methods' names, in tables and in the store.
    by_name = {trial.method.name: trial.method for trial in trials}
    doubled = {trial.method.name for trial in trials if by_name[trial.method.name] is not trial.method}
    if doubled:
        raise CompareError(f"different methods have the same name, {sorted(doubled)}: rename one of them.")
    if batch > task.train.shape[1]:
        raise CompareError(f"batch is {batch}, and a seed trains on {task.train.shape[1]} examples: take at most that.")
    n_batches = max(int(trial.steps[-1]) * _batches(trial.method) for trial in trials)
    parts = [task] if task.together else [_only(task, i) for i in range(len(task.seeds))]
    programs: dict[Method, _Program] = {}
    by_part = [_run_part(part, trials, batch, n_batches, programs, on_progress, store) for part in parts]
    return [_joined(runs) for runs in zip(*by_part, strict=True)]


def _run_part(
    task: Task,
    trials: Sequence[Trial],
    batch: int,
    n_batches: int,
    programs: dict[Method, _Program],
    on_progress: _OnProgress,
    folder: Path | None,
) -> list[Run]:
    # Not 0 or 1: splitting the seed's key, as tasks do, is folding those in.
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 2))(task.seeds)
    order_of = functools.partial(batch_order, n_batches=n_batches, batch=batch, n_train=task.train.shape[1])
    inputs = _Inputs(task.data, task.train, task.held_out, jax.jit(jax.vmap(order_of))(keys), keys, None)
    kept: dict[Method, Any] = {}
    runs: list[Run] = []
    for trial in trials:
        method, store, identity = trial.method, Store(folder) if folder else None, _identity(task, trial, batch)
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        run = store.read(name, lambda content: _restored(**content["run"])) if store else None
        if run:
            on_progress(method.name, int(trial.steps[-1]) * method.gradients * len(task.seeds))
        else:
            if method not in kept:
                kept[method] = _kept(task, method)
            run = _run_trial(task, trial, inputs._replace(kept=kept[method]), programs, on_progress, store, name)
            if store:
                store.write(name, {"identity": identity, "run": run})
                store.forget_state(name)
        runs.append(run)
    return runs


def _run_trial(
    task: Task,
    trial: Trial,
    inputs: _Inputs,
    programs: dict[Method, _Program],
    on_progress: _OnProgress,
    store: Store | None,
    name: str,
) -> Run:
    method, setting = trial.method, {name: jnp.float32(value) for name, value in trial.setting.items()}
    on_progress(method.name, 0)
    if method not in programs:
        programs[method] = _program(task, method, setting, inputs)
    init, advance = programs[method]
    state, records, seconds = init(task.params, setting), [], 0.0
    if store:
        state, (lists, seconds) = store.load_state(name, state, [[], 0.0])
        records = [{key: np.asarray(values, np.float32) for key, values in record.items()} for record in lists]
    saved = time.perf_counter()
    # The first distance is 0, which evaluates the start.
    for i, distance in enumerate(np.diff(trial.steps, prepend=0)):
        if i >= len(records):
            begin = time.perf_counter()
            state, record = advance(state, setting, jnp.int32(distance), inputs)
            records.append(jax.device_get(record))
            seconds += time.perf_counter() - begin
            if store and time.perf_counter() - saved > SAVE_EVERY:
                store.save_state(name, state, [jax.tree.map(np.ndarray.tolist, records), seconds])
                saved = time.perf_counter()
        on_progress(method.name, int(distance) * method.gradients * len(task.seeds))
        there = np.max([record["new"] for record in records[: i + 1]], axis=0)
        if trial.until is not None and np.all(there >= trial.until):
            break
    on_progress(method.name, int(trial.steps[-1] - trial.steps[len(records) - 1]) * method.gradients * len(task.seeds))
    columns = {key: np.stack([record[key] for record in records], axis=1, dtype=float) for key in records[0]}
    return Run(
        method=method.name,
        setting=dict(trial.setting),
        gradients=method.gradients,
        steps=trial.steps[: len(records)],
        old=columns.pop("old"),
        new=columns.pop("new"),
        metrics={key: values[:, 1:] for key, values in columns.items()},
        seconds=seconds,
    )


def _program(task: Task, method: Method, setting: _Setting, inputs: _Inputs) -> _Program:
    """A method's compiled programs, which serve all of its settings and all parts of the task.

    Returns:
      The state that all seeds start from, and what takes them some steps on, to their scores there and the means of
      their metrics over these steps.
    """
    n_batches = _batches(method)

    def optimizer(setting: _Setting) -> optax.GradientTransformation:
        return method.optimizer({**setting, "task": task})

    def seed_step(
        setting: _Setting, step: jax.Array, params: chex.ArrayTree, state: optax.OptState, own: _Inputs
    ) -> tuple[chex.ArrayTree, optax.OptState, _Record]:
        numbers = step * n_batches + jnp.arange(n_batches)
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.fold_in(own.keys, _BATCH_KEYS)))(numbers)
        batches = jax.vmap(task.batch, in_axes=(None, 0, 0))(own.data, own.train[own.order[numbers]], keys)
        value_and_grad_fn = jax.value_and_grad(method.loss(task, own.kept, setting) if method.loss else task.loss)
        params, state = method.step(optimizer(setting), value_and_grad_fn, params, state, batches)
        return params, state, method.metrics(state)

    all_seeds = jax.vmap(seed_step, in_axes=(None, None, 0, 0, _Inputs(*_BY_SEED)))

    @jax.jit
    def init(params: chex.ArrayTree, setting: _Setting) -> _State:
        return _State(params, jax.vmap(optimizer(setting).init)(params), jnp.int32(0))

    @jax.jit
    def advance(state: _State, setting: _Setting, n_steps: jax.Array, inputs: _Inputs) -> tuple[_State, _Record]:
        def one_step(_: Any, carry: tuple[_State, _Record]) -> tuple[_State, _Record]:
            (params, optimizer_state, step), sums = carry
            params, optimizer_state, metrics = all_seeds(setting, step, params, optimizer_state, inputs)
            return _State(params, optimizer_state, step + 1), optax.tree.add(sums, metrics)

        # An optimizer's state may hold nothing that has a leading axis; parameters do.
        metrics_of = jax.vmap(lambda _, optimizer_state: method.metrics(optimizer_state))
        zeros = optax.tree.zeros_like(metrics_of(state.params, state.optimizer_state))
        state, sums = jax.lax.fori_loop(0, n_steps, one_step, (state, zeros))
        params = jax.vmap(method.eval_params)(state.optimizer_state, state.params)
        scores = jax.vmap(task.evaluate, in_axes=(0, None, 0))(params, inputs.data, inputs.held_out)
        means = jax.tree.map(lambda total: total / jnp.maximum(n_steps, 1), sums)
        return state, {**scores._asdict(), **means}

    state = init(task.params, setting)
    return init, advance.lower(state, setting, jnp.int32(0), inputs).compile()


def _kept(task: Task, method: Method) -> Any:
    """What the method keeps of the old task."""
    if method.keep is None:
        return None
    keep = jax.vmap(functools.partial(method.keep, task), in_axes=(0, None, 0))
    return jax.jit(keep)(task.params, task.data, task.train)


def _batches(method: Method) -> int:
    return method.gradients if method.batches is None else method.batches


def _only(task: Task, i: int) -> Task:
    """The task with one of its seeds."""
    per_seed = (task.seeds, task.train, task.held_out, task.params)
    seeds, train, held_out, params = jax.tree.map(lambda x: x[i : i + 1], per_seed)
    return task._replace(seeds=seeds, train=train, held_out=held_out, params=params)


def _joined(runs: Sequence[Run]) -> Run:
    """One run of runs with a seed each."""
    first = runs[0]
    join = functools.partial(np.concatenate, axis=0)
    return first._replace(
        old=join([run.old for run in runs]),
        new=join([run.new for run in runs]),
        metrics={name: join([run.metrics[name] for run in runs]) for name in first.metrics},
        seconds=sum(run.seconds for run in runs),
    )


def _identity(task: Task, trial: Trial, batch: int) -> dict[str, Any]:
    """What makes one run different from another."""
    return {
        "task": task.name,
        "seeds": np.asarray(task.seeds).tolist(),
        "method": trial.method.name,
        "setting": dict(trial.setting),
        "batch": batch,
        "steps": trial.steps.tolist(),
        "until": trial.until,
    }


def _restored(old: Any, new: Any, steps: Any, metrics: dict[str, Any], **others: Any) -> Run:
    """A run from what JSON holds of it."""
    arrays = {name: np.array(values, float) for name, values in metrics.items()}
    return Run(old=np.array(old, float), new=np.array(new, float), steps=np.array(steps), metrics=arrays, **others)
