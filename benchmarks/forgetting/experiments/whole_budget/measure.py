"""Every method at a rate tuned for it, over a whole budget and over as many steps as PROFIT takes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from profit_optax import compare
from profit_optax.compare import Comparison, Curve, Method

# No run that is reported has it.
TUNING_SEED = 100


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
