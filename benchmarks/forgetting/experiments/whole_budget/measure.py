"""Every method at a rate tuned for it, over a whole budget and over as many steps as PROFIT takes."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer

from benchmarks.commands import parse_rates
from benchmarks.forgetting.command import Experiment, Job, count_option
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.arms import Ablation
from profit_optax import compare
from profit_optax.compare import Comparison, Method
from profit_optax.compare.errors import CompareError, NotFiniteError
from profit_optax.compare.files import load
from profit_optax.compare.store import write_json

try:
    import resource
except ImportError:  # Windows.
    resource = None  # type: ignore[assignment]

# No run that is reported has it.
TUNING_SEED = 100
# Parts of the lowest rate, tried one after the other where a method is not finite at any that is asked for.
LOWER = (0.1, 0.01)
_NOT_FINITE_FILE = "not_finite.json"


class Size(NamedTuple):
    """What makes a run long.

    Attributes:
      task: sizes of the task's own.
      rates: what each method is tuned over.
      gradients: the budget.
      evaluations: how often a reported run is scored, about.
    """

    task: Any
    rates: tuple[float, ...]
    gradients: int
    evaluations: int

    def of(self, gradients: int | None, rates: tuple[float, ...] | None) -> "Size":
        """The same, with another budget and other rates if there are any."""
        return self._replace(gradients=gradients or self.gradients, rates=rates or self.rates)


class Plan(NamedTuple):
    """What is run.

    Attributes:
      methods: those that take the whole budget, the baseline first.
      fewer: those of them that also run for as many steps as `steps_of`.
      steps_of: the method of several gradients a step whose steps these are.
      size: rates that each is tuned over, times its own factor; the budget; how often a run is scored.
      seeds: those that are reported.
      ablations: methods that take the whole budget at another one's rate.
    """

    methods: Sequence[Method]
    fewer: Sequence[Method]
    steps_of: Method
    size: Size
    seeds: tuple[int, ...]
    ablations: Sequence[Ablation] = ()

    @classmethod
    def of(
        cls,
        job: Job,
        size: Size,
        methods: Sequence[Method],
        fewer: Sequence[str],
        ablations: Sequence[Ablation],
    ) -> "Plan":
        """Those of a task's methods and ablations that were asked for; `fewer` also run for as many steps as PROFIT."""
        by_name = {method.name: method for method in methods}
        chosen = list(job.chosen(by_name).values())
        also = [method for method in chosen if method.name in fewer]
        changed = [ablation for ablation in ablations if ablation.method.name in job.methods]
        return cls(chosen, also, by_name["PROFIT"], size, tuple(range(job.seeds)), changed)

    @property
    def fewer_gradients(self) -> int:
        """The budget of `fewer`: one gradient for each step of `steps_of`."""
        return self.size.gradients // self.steps_of.gradients


class Final(NamedTuple):
    """Scores at the end of a run in tuning; -inf where it was not finite.

    Attributes:
      new: on what is held out of the new task.
      old: on the old one.
    """

    new: float
    old: float


_NOT_FINITE = Final(-np.inf, -np.inf)
# A method's name and the rate at which a run of it was not finite.
Failed = tuple[str, float]
# By rate, in increasing order.
Finals = dict[float, Final]


class Outcome(NamedTuple):
    """What became of a plan.

    Attributes:
      whole: all methods at the whole budget, each at its rate.
      fewer: some of them at as many steps as PROFIT takes; None for none.
      tried: what stood at the end in tuning, by method.
      tried_fewer: the same for `fewer`.
      failed: which methods are not in `whole`, since a run that was to be reported was not finite.
      failed_fewer: the same for `fewer`.
    """

    whole: Comparison
    fewer: Comparison | None
    tried: dict[str, Finals]
    tried_fewer: dict[str, Finals]
    failed: Sequence[Failed] = ()
    failed_fewer: Sequence[Failed] = ()


def method_of(name: str) -> Method:
    """The method of `profit_optax.compare` in a file, as FILE.py:NAME.

    Raises:
      CompareError: if there is none.
    """
    _, found = load(name)
    if not isinstance(found, Method):
        raise CompareError(f"{name} must be a Method of profit_optax.compare, got {type(found).__name__}.")
    return found


def experiment(
    name: str,
    run: Callable[..., None],
    tasks: Mapping[str, Any],
    methods: Iterable[Method],
    ablations: Iterable[Ablation],
    seeds: tuple[int, int],
) -> Experiment:
    """An experiment of this kind, whose baseline is AdamW."""
    named = {method.name: method for method in (*methods, *(each.method for each in ablations))}
    most, baseline = TUNING_SEED, arms.adamw().name
    return Experiment(name, run, tasks, named, baseline, seeds, together=True, method_of=method_of, most_seeds=most)


def budget(full: int | str, quick: int, least: int) -> Any:
    """The option for the gradients of a run."""
    return count_option("Gradients of a run: the budget.", full, quick, least)


def rates_option() -> Any:
    """The option for the rates that methods are tuned over."""
    what = "Rates that every method is tuned over, times its own factor."
    return typer.Option(parser=parse_rates, metavar="RATE,...", help=what, show_default="the task's")


def run_tasks(
    job: Job,
    made: Callable[[str], tuple[compare.Task, compare.Task, Plan]],
    page: Callable[[Mapping[str, tuple[Outcome, Plan]], Mapping[str, Any]], str],
) -> None:
    """Measure one task after the other, and write the report after each.

    Args:
      job: with the tasks' names.
      made: a task to tune on, the task to report on, and what is run there, by name.
      page: the report, of what came of the tasks so far and what that was made with.
    """
    outcomes: dict[str, tuple[Outcome, Plan]] = {}
    for name in job.tasks:
        tuning_task, task, plan = made(name)
        outcomes[name] = measure(tuning_task, task, plan, job.output / name), plan
        text = page(outcomes, job.about(peak_gib=_peak_gib()))
        job.write(text)
    job.show(text)


def _peak_gib() -> float | None:
    """The most memory that this process had until now, in GiB; None where the system does not say."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def measure(tuning_task: compare.Task, task: compare.Task, plan: Plan, output: Path) -> Outcome:
    """Tune and run all of it. What is done already in the output folder is not done again.

    A method's rate is the one with the best new score at the end of a run on `tuning_task`, on one seed that is not
    reported. What is left of the old task has no say in it.
    """
    budget = plan.size.gradients
    whole, tried, failed = _at_best(tuning_task, task, plan.methods, budget, plan, output / "whole", plan.ablations)
    if not plan.fewer:
        return Outcome(whole, None, tried, {}, failed)
    # Of these the end alone is shown.
    at_end = plan._replace(size=plan.size._replace(evaluations=1))
    fewer, tried_fewer, failed_fewer = _at_best(
        tuning_task, task, plan.fewer, plan.fewer_gradients, at_end, output / "fewer"
    )
    return Outcome(whole, fewer, tried, tried_fewer, failed, failed_fewer)


def _at_best(
    tuning_task: compare.Task,
    task: compare.Task,
    methods: Sequence[Method],
    gradients: int,
    plan: Plan,
    output: Path,
    ablations: Sequence[Ablation] = (),
) -> tuple[Comparison, dict[str, Finals], list[Failed]]:
    tuned = {method.name: method for method in methods if not method.points}
    for each in ablations:
        tuned.setdefault(each.of.name, each.of)
    tried = _tuned(tuning_task, list(tuned.values()), plan.size.rates, gradients, output / "tuning")
    # A comparison has its rates for all methods: here it has the rate 1, and each method its own as a factor.
    at_best = [
        method if method.points else dataclasses.replace(method, rate_factor=best(tried[method.name]))
        for method in methods
    ] + [dataclasses.replace(each.method, rate_factor=each.share * best(tried[each.of.name])) for each in ablations]
    compared, failed = _reported(task, at_best, gradients, plan, output / "reported")
    return compared, tried, failed


def _reported(
    task: compare.Task, methods: Sequence[Method], gradients: int, plan: Plan, output: Path
) -> tuple[Comparison, list[Failed]]:
    """The methods at their rates, less those with a run that is not finite: one seed's tuning may pick too high."""
    baseline, failed = methods[0], _failed(output)
    # What trains nothing has the rate of the baseline, whose end it starts from.
    rates = {method.name: (baseline if method.points else method).rate_factor for method in methods}
    while True:
        left = [method for method in methods if (method.name, rates[method.name]) not in failed]
        try:
            compared = _compared(task, left, [1.0], gradients, plan.seeds, plan.size.evaluations, output)
            # The folder may know more: of other methods, and of other rates.
            return compared, [run for run in rates.items() if run in failed]
        except NotFiniteError as error:
            # Without the baseline there are no differences.
            if error.method == baseline.name:
                raise
            _add_failed(output, failed, error)


def _failed(output: Path) -> list[Failed]:
    """What is known to be not finite in an output folder."""
    kept = output / _NOT_FINITE_FILE
    return [(name, rate) for name, rate in json.loads(kept.read_text())] if kept.exists() else []


def _add_failed(output: Path, failed: list[Failed], error: NotFiniteError) -> None:
    failed.append((error.method, error.rate))
    write_json(output / _NOT_FINITE_FILE, failed)


def _tuned(
    task: compare.Task, methods: Sequence[Method], rates: Sequence[float], gradients: int, output: Path
) -> dict[str, Finals]:
    """What stands at the end, by method.

    A run that is not finite is below all others, and is not tried again. Where a method has no finite run, lower rates
    are tried.
    """
    failed = _failed(output)
    found: dict[str, Finals] = {method.name: {} for method in methods}

    def finite(methods: Sequence[Method], rates: Sequence[float]) -> bool:
        try:
            result = _compared(task, methods, rates, gradients, [TUNING_SEED], 1, output)
        except NotFiniteError as error:
            _add_failed(output, failed, error)
            return False
        for curve in result.curves:
            found[curve.method][curve.rate] = Final(float(curve.new[0, -1]), float(curve.old[0, -1]))
        return True

    def some_finite(method: Method, rates: Sequence[float]) -> bool:
        while left := [rate for rate in rates if (method.name, rate * method.rate_factor) not in failed]:
            if finite([method], left):
                return True
        return False

    # All at once where that is possible: then all are traced before the first one trains.
    if failed or not finite(methods, rates):
        grids = [rates, *([min(rates) * part] for part in LOWER)]
        for method in methods:
            if not any(some_finite(method, grid) for grid in grids):
                raise CompareError(
                    f"{method.name} is finite at no rate from {min(rates) * min(LOWER) * method.rate_factor:g} to"
                    f" {max(rates) * method.rate_factor:g}: leave it out with --methods."
                )
        for name, rate in failed:
            if name in found:
                found[name][rate] = _NOT_FINITE
    return {name: dict(sorted(finals.items())) for name, finals in found.items()}


def _compared(
    task: compare.Task,
    methods: Sequence[Method],
    rates: Sequence[float],
    gradients: int,
    seeds: Sequence[int],
    evaluations: int,
    output: Path,
) -> Comparison:
    on_the_way = evaluations > 1
    result = compare.compare(
        task,
        methods,
        rates=rates,
        gradients=gradients,
        seeds=seeds,
        # Any will do where there is nothing between the start and the end, also where the baseline learns nothing.
        levels=None if on_the_way else [0.0],
        output=output,
        evaluations=evaluations,
    )
    if not on_the_way:
        # They say what to use at that level.
        for name in ("compare.json", "compare.png"):
            (output / name).unlink()
    return result


def best(finals: Finals) -> float:
    """The rate with the best new score, of equals the lowest."""
    return max(finals, key=lambda rate: finals[rate].new)
