"""All methods at all rates on all seeds, and what came of it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from profit_optax.compare import advice, fingerprint, report, store
from profit_optax.compare.batches import one_pass, stream
from profit_optax.compare.environment import environment, versions
from profit_optax.compare.errors import KEPT, CompareError, said
from profit_optax.compare.methods import Method
from profit_optax.compare.methods.catalogue import chosen, left_out
from profit_optax.compare.progress import Progress, watched
from profit_optax.compare.runner import Program, Run, Scores, evaluation_steps, follow, scored, train
from profit_optax.compare.store import Store, opened
from profit_optax.compare.summary import Curve, Row, curves_of, level_rows
from profit_optax.compare.task import Task

# Of the way from the start to the best that the baseline reached on the new task.
SHARES = (0.8, 0.9, 0.95)
# An interval over more says nothing that matters, and a slip of the finger would run for weeks.
MOST_SEEDS = 1000
MOST_GRADIENTS = 10**9


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Args:
      rows: one for each method at each rate and level.
      curves: one for each method at each rate: every seed's scores along the run.
      levels: the levels of the new task at which methods are compared, in increasing order.
      baseline: the name of the method that the others are compared with.
      about: settings, methods that were left out for what they need, scores at the start, fingerprint, versions and
        machine.
    """

    rows: list[Row]
    curves: list[Curve]
    levels: tuple[float, ...]
    baseline: str
    about: dict[str, Any]

    def table(self) -> str:
        """Each method at the best of its rates, level by level, as text."""
        return report.as_text(report.table(self.rows, self.levels, self.baseline))

    def advice(self) -> str:
        """What to use here, and how sure that is, in a few sentences."""
        return advice.advice(self.rows, self.levels, self.baseline)

    def plot(self, path: str | Path) -> None:
        """Draw old against new scores along training, with the levels, as a PNG."""
        report.plot(Path(path), self.curves, self.rows, self.levels, self.about["task"])

    def to_json(self, path: str | Path) -> None:
        """Write all that was measured: settings, rows, every seed's curves, the advice."""
        content = {
            **self.about,
            "baseline": self.baseline,
            "levels": self.levels,
            "advice": self.advice(),
            "rows": self.rows,
            "curves": self.curves,
        }
        store.write_json(Path(path), content)


def compare(
    task: Task,
    methods: Sequence[str | Method] | None = None,
    *,
    rates: Sequence[float],
    gradients: int,
    seeds: int | Sequence[int] = 3,
    levels: Sequence[float] | None = None,
    output: str | Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    evaluations: int = 24,
) -> Comparison:
    """Fine-tune with every method on the same batches, and tell what each keeps of the old task at equal new quality.

    Every run starts from the task's parameters and takes the same number of gradients. Seeds differ in the order of
    the batches, and are paired: the same seed gives every method the same batches.

    Args:
      task: the model, the new task's batches, and what scores parameters.
      methods: names of `METHODS`, and `Method` tuples; the first one is the baseline. None for all that the task has
        what they need for, with AdamW as the baseline.
      rates: learning rates, at each of which every method runs. SGD has them times its own factor.
      gradients: how many gradients a run takes; PROFIT with n_ref 1 takes two a step.
      seeds: how many seeds, or which. Intervals need at least two, and are wide for fewer than five.
      levels: scores of the new task at which methods are compared. None for 80, 90 and 95 % of the way from the start
        to the best that the baseline reached, fixed before other methods run.
      output: a folder for compare.json, compare.png and what a killed comparison goes on from: start it again with the
        same arguments. Methods, rates and seeds may be added to; whatever else has changed is an error. None to keep
        nothing.
      on_progress: is told, at every evaluation, how far the comparison is. None for a table and a bar on a terminal.
      evaluations: how often a run is scored, about.

    Returns:
      The `Comparison`.

    Raises:
      CompareError: where it cannot go on: a scorer that raises, a loss that is not finite, a baseline that does not
        learn, changed settings, a folder in use or that cannot be written.
      TypeError: if `task` is none, or `gradients` no whole number.
      ValueError: for arguments that make no comparison.

    Examples:
      >>> import jax.numpy as jnp, numpy as np
      >>> from profit_optax.compare import Task, compare
      >>> x = np.linspace(-1, 1, 32)[:, None]
      >>> loss = lambda params, batch: jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
      >>> old, new = ({"x": x, "y": slope * x[:, 0]} for slope in (1.0, 1.5))
      >>> evaluate = lambda params: {"old": -float(loss(params, old)), "new": -float(loss(params, new))}
      >>> task = Task({"w": jnp.ones(1)}, loss, new, evaluate, batch_size=8)
      >>> result = compare(task, ["adamw", "sgd"], rates=[0.02], gradients=40, seeds=2)
      >>> len(result.rows), result.baseline  # two methods at three levels
      (6, 'AdamW')

    References:
      This project's own.

    .. note::
      Rates and interpolations are picked on the seeds that are reported, for every method alike: a method with more of
      them has more chances. Confirm what you will rely on with `seeds` that were not among these.
    """
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task, got {type(task).__name__}.")
    found = chosen(task, methods)
    rates = _checked_rates(rates)
    seeds = _checked_seeds(seeds)
    most = max(method.gradients for method in found)
    if not isinstance(gradients, int | np.integer):
        raise TypeError(f"gradients must be a whole number, got {gradients!r}.")
    if not most <= gradients <= MOST_GRADIENTS:
        raise ValueError(
            f"gradients must be at least {most}, which one step of a method takes, and at most {MOST_GRADIENTS:,}, got "
            f"{gradients}."
        )
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, got {evaluations}.")
    levels = None if levels is None else _checked_levels(levels)
    folder = None if output is None else Path(output)
    with opened(folder) as kept, watched(on_progress) as tell:
        job = _Job(task, found, rates, gradients, seeds, evaluations, kept, tell, asked=methods is not None)
        result = job.run(levels)
    if folder is not None:
        result.to_json(folder / "compare.json")
        result.plot(folder / "compare.png")
    return result


class _Trained(NamedTuple):
    """A method that trains, and those that follow its runs."""

    method: Method
    shown: bool
    followers: list[Method]


class _Job:
    """What every run of a comparison has in common."""

    def __init__(
        self,
        task: Task,
        methods: list[Method],
        rates: list[float],
        gradients: int,
        seeds: list[int],
        evaluations: int,
        kept: Store | None,
        tell: Callable[[Progress], None],
        asked: bool,
    ):
        self._task, self._methods, self._rates, self._gradients = task, methods, rates, gradients
        self._seeds, self._evaluations, self._store, self._tell = seeds, evaluations, kept, tell
        self._asked = asked
        self._groups = _grouped(methods)
        self._total = sum(
            self._steps(group.method) * group.method.gradients * len(rates) * len(seeds) for group in self._groups
        )
        self._taken = 0
        self._traced: dict[str, Program] = {}
        self._rows: list[Row] = []

    def run(self, levels: tuple[float, ...] | None) -> Comparison:
        identity, batch = self._identity()
        if self._store:
            # What raised before anything was scored may have been mended.
            self._store.check(identity, unused=not self._store.has("start"))
        baseline = self._methods[0].name
        self._try(batch)
        start = self._start()
        runs: list[Run] = []
        for group in self._groups:
            for run in self._runs(group, start, batch):
                runs.append(run)
            if levels is None:
                # The first group is the baseline's: its levels stand before any other method runs.
                levels = self._fixed(lambda: _levels(curves_of([run for run in runs if run.method == baseline]), start))
            curves = curves_of(runs)
            self._rows = [row for level in levels for row in level_rows(curves, level, baseline)]
        assert levels is not None
        order = {method.name: i for i, method in enumerate(self._methods)}
        curves.sort(key=lambda curve: order[curve.method])
        about = {
            "task": self._task.name,
            "methods": [method.name for method in self._methods],
            "rates": self._rates,
            "gradients": self._gradients,
            "seeds": self._seeds,
            "left_out": {} if self._asked else left_out(self._task),
            "start": start,
            "fingerprint": identity,
            **environment(),
        }
        rows = [row for level in levels for row in level_rows(curves, level, baseline)]
        return Comparison(rows, curves, levels, baseline, about)

    def _identity(self) -> tuple[dict[str, Any], Any]:
        """What all runs depend on, as hashes, and a batch to trace with."""
        task = self._task
        read = fingerprint.of_what_is_read(task.evaluate)
        identity = {
            "gradients": self._gradients,
            "evaluations": self._evaluations,
            "batch_size": task.batch_size,
            "params": fingerprint.of_arrays(task.params),
            "evaluate": fingerprint.of_source(task.evaluate),
            **{f"{kind} that evaluate reads": each for kind, each in read.items()},
            **{f"version of {name}": version for name, version in versions().items()},
        }
        first = [next(stream("batches", task.batches, task.batch_size, seed)) for seed in self._seeds]
        hashes = [fingerprint.of_arrays(batch) for batch in first]
        if len(first) > 1 and len(set(hashes)) == 1:
            raise CompareError(
                f"batches gives seeds {self._seeds} the same first batch: let their order depend on the seed. "
                "Intervals over seeds that do not differ would be of width 0 and mean nothing."
            )
        again = next(stream("batches", task.batches, task.batch_size, self._seeds[0]))
        if fingerprint.of_arrays(again) != hashes[0]:
            raise CompareError(
                f"batches({self._seeds[0]}) begins with another batch the second time, so that no two methods would "
                "get the same: shuffle and augment with a generator that is made of the seed, such as "
                "DataLoader(..., shuffle=True, generator=torch.Generator().manual_seed(seed))."
            )
        identity |= {f"first batch of seed {seed}": each for seed, each in zip(self._seeds, hashes, strict=True)}
        if not callable(task.batches):
            identity["batches"] = fingerprint.of_arrays(task.batches)
        if task.old_batches is not None and not callable(task.old_batches):
            identity["old_batches"] = fingerprint.of_arrays(task.old_batches)
        return identity, first[0]

    def _try(self, batch: Any) -> None:
        """Trace every method before the first one trains: what one of them cannot take would end hours of training."""
        task, needed = self._task, {name for method in self._methods for name in method.needs}
        value = _tried("loss cannot take a batch", task.scalar_loss, task.params, batch)
        if value.shape:
            raise CompareError(f"loss must return a scalar, got shape {value.shape}: take the mean over the batch.")
        if "outputs" in needed:
            _tried("outputs cannot take a batch", task.outputs, task.params, batch)
        if "old_batches" in needed:
            old = list(one_pass("old_batches", task.old_batches, task.batch_size, 0, 1))
            if old:
                _tried("loss cannot take one of old_batches", task.scalar_loss, task.params, old[0])
                if self._store:
                    self._store.check({"first of old_batches": fingerprint.of_arrays(old[0])})
        for group in self._groups:
            # What a method keeps of the old task may take long to compute, and memory.
            if not group.method.keep:
                program = self._program(group.method, self._rates_of(group.method)[0], None, batch, group.followers)
                self._traced[group.method.name] = program

    def _start(self) -> Scores:
        start = self._store.read("start", dict) if self._store else None
        if start is None:
            params = jax.tree.map(jnp.asarray, self._task.params)
            start = scored(self._task, params, "at the start")
            if self._store:
                self._store.write("start", start)
        return start

    def _fixed(self, levels: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        """Those that stand in the folder already: rates that are added to the baseline do not move them."""
        by_baseline = (self._store.read("levels", dict) if self._store else None) or {}
        baseline = self._methods[0].name
        if baseline not in by_baseline:
            by_baseline[baseline] = levels()
            if self._store:
                self._store.write("levels", by_baseline)
        return tuple(by_baseline[baseline])

    def _runs(self, group: _Trained, start: Scores, batch: Any) -> Iterator[Run]:
        method = group.method
        kept = _once(lambda: _kept(method, self._task))
        for rate in self._rates_of(method):
            program = self._traced.pop(method.name, None)
            program = program or self._program(method, rate, kept(), batch, group.followers)
            compile_once = _once(functools.partial(_compile, method, program))
            for seed in self._seeds:
                self._report(method, rate, seed, 0)
                for run in self._seed_runs(group, program, compile_once, rate, seed, start):
                    if run.method != method.name or group.shown:
                        yield run

    def _program(self, method: Method, rate: float, kept: Any, batch: Any, followers: list[Method]) -> Program:
        try:
            program = Program(self._task, method, rate, self._steps(method), kept, batch)
        except Exception as error:
            if isinstance(error, CompareError):
                raise
            remedy = ""
            if method.closure:
                remedy = f" Its gradients, {method.gradients}, must be n_ref + 1."
            elif "value_and_grad_fn" in str(error):
                remedy = " Give its Method closure=True, and gradients = n_ref + 1."
            raise CompareError(f"{method.name} cannot take a step: {said(error)}{remedy}") from error
        if self._store:
            points = {f"points of {each.name}": _positions(each, self._task.params) for each in followers}
            read = fingerprint.of_what_is_read(method.eval_params)
            own = {f"{kind} that {method.name} is evaluated with": each for kind, each in read.items()}
            self._store.check({f"program of {method.name} at rate {rate!r}": program.identity, **points, **own})
        return program

    def _seed_runs(
        self,
        group: _Trained,
        program: Program,
        compile_once: Callable[[], None],
        rate: float,
        seed: int,
        start: Scores,
    ) -> Iterator[Run]:
        method, steps = group.method, evaluation_steps(self._steps(group.method), self._evaluations)
        names = {each.name: f"runs/{each.name} of {method.name} {rate!r} {seed}" for each in group.followers}
        names[method.name] = f"runs/{method.name} {rate!r} {seed} finished"
        runs = {name: self._finished(stored) for name, stored in names.items()}
        if all(runs.values()):
            self._report(method, rate, seed, int(steps[-1]) * method.gradients)
        else:
            # A follower that was added later has the run again, to the bit, for its end.
            compile_once()
            report_taken = functools.partial(self._report, method, rate, seed)
            run, end = train(
                self._task, method, program, rate, seed, steps, start, self._store, on_evaluated=report_taken
            )
            runs[method.name] = runs[method.name] or run
            for follower in group.followers:
                runs[follower.name] = runs[follower.name] or follow(self._task, follower, run, end, start)
            if self._store:
                for name, stored in names.items():
                    self._store.write(stored, runs[name])
                self._store.forget_state(f"runs/{method.name} {rate!r} {seed}")
        for each in (method, *group.followers):
            run_of = runs[each.name]
            assert run_of is not None
            yield run_of

    def _finished(self, name: str) -> Run | None:
        return self._store.read(name, lambda fields: Run(**fields)) if self._store else None

    def _report(self, method: Method, rate: float, seed: int, gradients: int) -> None:
        self._taken += gradients
        self._tell(Progress(method.name, rate, seed, self._taken, self._total, tuple(self._rows)))

    def _rates_of(self, method: Method) -> list[float]:
        return [rate * method.rate_factor for rate in self._rates]

    def _steps(self, method: Method) -> int:
        return self._gradients // method.gradients


def _grouped(methods: list[Method]) -> list[_Trained]:
    """Methods that train, each with those that follow it, the baseline first."""
    groups = {method.name: _Trained(method, True, []) for method in methods if not method.points}
    for method in methods:
        if method.points:
            source = method.of or methods[0]
            group = groups.setdefault(source.name, _Trained(source, False, []))
            group.followers.append(method)
    return list(groups.values())


def _tried(what: str, function: Any, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise CompareError(f"{what}: {said(error)}") from error


def _levels(curves: list[Curve], start: Scores) -> tuple[float, ...]:
    """Shares of the way from the start to the best mean over seeds that the baseline had anywhere."""
    best = max(float(np.mean(curve.new, axis=0).max()) for curve in curves)
    if best <= start["new"]:
        raise CompareError(
            f"{curves[0].method}, the baseline, did not learn the new task: it started at {start['new']:.4g} and never "
            "stood higher, at any rate. Give it more gradients or other rates, or check that `evaluate` says more where"
            " it is better."
        )
    return tuple(start["new"] + share * (best - start["new"]) for share in SHARES)


def _compile(method: Method, program: Program) -> None:
    try:
        program.compile()
    except jax.errors.JaxRuntimeError as error:  # Memory that is not there, above all.
        raise CompareError(f"{method.name} cannot be compiled: {str(error).strip()}\n{KEPT}") from error


def _kept(method: Method, task: Task) -> Any:
    """What the method keeps of the old task."""
    if not method.keep:
        return None
    try:
        return jax.tree.map(jnp.asarray, method.keep(task))
    except CompareError:
        raise
    except Exception as error:
        raise CompareError(f"{method.name} cannot read the old task: {said(error)}. {KEPT}") from error


def _positions(method: Method, params: chex.ArrayTree) -> list[float]:
    found: list[float] = []

    def collect(params: chex.ArrayTree) -> None:
        assert method.points is not None
        found.extend(position for position, _ in method.points(params, params))

    jax.eval_shape(collect, params)
    return found


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    return functools.cache(make)


def _checked_rates(rates: Sequence[float]) -> list[float]:
    try:
        found = [float(rate) for rate in np.atleast_1d(np.asarray(rates, float))]
    except (TypeError, ValueError):
        found = []
    if not found or not all(0 < rate < math.inf for rate in found) or len(set(found)) < len(found):
        raise ValueError(
            f"rates must be different, positive and finite numbers, at least one, such as [1e-4, 3e-4], got {rates!r}."
        )
    return found


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    try:
        found = tuple(sorted(float(level) for level in np.atleast_1d(np.asarray(levels, float))))
    except (TypeError, ValueError):
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"levels must be finite scores, at least one, such as [0.8, 0.9], got {levels!r}.")
    return found


def _checked_seeds(seeds: int | Sequence[int]) -> list[int]:
    many = len(seeds) if isinstance(seeds, Sequence) else seeds
    if isinstance(many, int | np.integer) and many > MOST_SEEDS:
        raise ValueError(f"seeds must be at most {MOST_SEEDS}, each of which is a run of every method, got {many}.")
    found = list(range(seeds)) if isinstance(seeds, int | np.integer) else [int(seed) for seed in seeds]
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise ValueError(f"seeds must be a number of at least 1, or different numbers of at least 0, got {seeds}.")
    return found
