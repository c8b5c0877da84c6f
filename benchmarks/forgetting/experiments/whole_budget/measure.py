"""Every method at a rate tuned for it, over a whole budget and over as many steps as PROFIT takes."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.forgetting.command import Job
from profit_optax import compare
from profit_optax.compare import Comparison, Curve, Method
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import load

# No run that is reported has it.
TUNING_SEED = 100
BUDGET = "Gradients of a run: the budget."


class Size(NamedTuple):
    """What makes a run long.

    Attributes:
      task: sizes of the task's own.
      rates: what each method is tuned over.
      gradients: the budget.
    """

    task: Any
    rates: tuple[float, ...]
    gradients: int

    def of(self, gradients: int | None) -> "Size":
        """The same, with another budget if there is one."""
        return self._replace(gradients=gradients or self.gradients)


class Plan(NamedTuple):
    """What is run.

    Attributes:
      methods: those that take the whole budget, the baseline first.
      fewer: those of them that also run for as many steps as `steps_of`.
      steps_of: the method of several gradients a step whose steps these are.
      rates: what each is tuned over; SGD has them times its own factor.
      gradients: the budget.
      seeds: those that are reported.
      evaluations: how often a reported run is scored, about.
    """

    methods: Sequence[Method]
    fewer: Sequence[Method]
    steps_of: Method
    rates: tuple[float, ...]
    gradients: int
    seeds: tuple[int, ...]
    evaluations: int

    @property
    def fewer_gradients(self) -> int:
        """The budget of `fewer`: one gradient for each step of `steps_of`."""
        return self.gradients // self.steps_of.gradients


class Outcome(NamedTuple):
    """What became of a plan.

    Attributes:
      whole: all methods at the whole budget, each at its rate.
      fewer: some of them at as many steps as PROFIT takes; None for none.
      tried: final new scores in tuning, by method, and by rate in increasing order.
      tried_fewer: the same for `fewer`.
    """

    whole: Comparison
    fewer: Comparison | None
    tried: dict[str, dict[float, float]]
    tried_fewer: dict[str, dict[float, float]]


def method_of(name: str) -> Method:
    """The method of `profit_optax.compare` in a file, as FILE.py:NAME.

    Raises:
      CompareError: if there is none.
    """
    _, found = load(name)
    if not isinstance(found, Method):
        raise CompareError(f"{name} must be a Method of profit_optax.compare, got {type(found).__name__}.")
    return found


def planned(job: Job, size: Size, methods: Sequence[Method], fewer: Sequence[str], evaluations: int) -> Plan:
    """Of the methods those that were asked for, at a size.

    Args:
      job: with what was asked for, and how many seeds.
      size: rates and gradients.
      methods: all that there are for the task, the baseline first, and PROFIT among them.
      fewer: the names of those that also run for as many steps as PROFIT.
      evaluations: how often a reported run is scored, about.
    """
    by_name = {method.name: method for method in methods}
    chosen = list(job.chosen(by_name).values())
    also = [method for method in chosen if method.name in fewer]
    seeds = tuple(range(job.seeds))
    return Plan(chosen, also, by_name["PROFIT"], size.rates, size.gradients, seeds, evaluations)


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
        text = page(outcomes, job.about())
        job.write(text)
    job.show(text)


def measure(tuning_task: compare.Task, task: compare.Task, plan: Plan, output: Path) -> Outcome:
    """Tune and run all of it. What is done already in the output folder is not done again.

    A method's rate is the one with the best new score at the end of a run on `tuning_task`, on one seed that is not
    reported. What is left of the old task has no say in it.
    """
    whole, tried = _at_best(tuning_task, task, plan.methods, plan.gradients, plan, output / "whole")
    if not plan.fewer:
        return Outcome(whole, None, tried, {})
    fewer, tried_fewer = _at_best(tuning_task, task, plan.fewer, plan.fewer_gradients, plan, output / "fewer")
    return Outcome(whole, fewer, tried, tried_fewer)


def _at_best(
    tuning_task: compare.Task,
    task: compare.Task,
    methods: Sequence[Method],
    gradients: int,
    plan: Plan,
    output: Path,
) -> tuple[Comparison, dict[str, dict[float, float]]]:
    tuned = [method for method in methods if not method.points]
    curves = compare.compare(
        tuning_task,
        tuned,
        rates=plan.rates,
        gradients=gradients,
        seeds=[TUNING_SEED],
        output=output / "tuning",
        evaluations=1,
    ).curves
    tried = {method.name: _finals(method.name, curves) for method in tuned}
    # A comparison has its rates for all methods: here it has the rate 1, and each method its own as a factor.
    at_best = [
        method if method.points else dataclasses.replace(method, rate_factor=_best(tried[method.name]))
        for method in methods
    ]
    result = compare.compare(
        task,
        at_best,
        rates=[1.0],
        gradients=gradients,
        seeds=plan.seeds,
        output=output / "reported",
        evaluations=plan.evaluations,
    )
    return result, tried


def _finals(name: str, curves: Sequence[Curve]) -> dict[float, float]:
    return {curve.rate: float(np.mean(curve.new[:, -1])) for curve in curves if curve.method == name}


def _best(finals: dict[float, float]) -> float:
    return max(finals, key=lambda rate: finals[rate])
