"""What is compared on CIFAR, in the order in which it is run: how each arm is tuned, and run at what tuning picked."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.forgetting.experiments.cifar.setups import Setup
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adam_spd import adam_spd
from benchmarks.forgetting.methods.head_only import lp_ft
from benchmarks.forgetting.methods.l2_sp import l2_sp
from benchmarks.forgetting.methods.lookahead import lookahead
from benchmarks.forgetting.methods.optimizers import adamw, adan, sgd
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.methods.wise_ft import wise_ft
from benchmarks.forgetting.runner import Run, Trial, evenly, run_all
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tuning import tune

BASELINE = "adamw"
RATIO = 10.0
# No run that is reported has it.
TUNING_SEED = 100
# SGD's rates are this many times those of the Adam family, whose steps do not shrink with the gradient.
SGD_RATES = 30.0


class Arm(NamedTuple):
    """One row of the tables.

    Attributes:
      key: what options call it.
      table: "optimizers", "regularized", "n_ref", "ratio" or "own".
      method: with the settings that tuning picks from as its grid.
      like: the arm whose rate it takes, instead of being tuned: ablations change one thing.
    """

    key: str
    table: str
    method: Method
    like: "Arm | None" = None


def arms(rates: Sequence[float], steps: int) -> dict[str, Arm]:
    """Every arm, each with as many settings to pick from as there are rates, which are those of the Adam family.

    LP-FT spends a fifth of the `steps` on the head alone.
    """

    def tuned(key: str, table: str, method: Method, name: str, times: float = 1.0, **others: float) -> Arm:
        grid = (("rate", tuple(times * rate for rate in rates)), *((other, (x,)) for other, x in others.items()))
        return Arm(key, table, method._replace(name=name, grid=grid))

    ours = tuned("profit", "optimizers", profit(), "PROFIT", ratio=RATIO)

    def ablation(key: str, table: str, method: Method, name: str, ratio: float) -> Arm:
        return Arm(key, table, method._replace(name=name, grid=(("ratio", (ratio,)),)), like=ours)

    every = [
        tuned("adamw", "optimizers", adamw(), "AdamW"),
        ours,
        tuned("adamw2", "optimizers", adamw(2), "AdamW x2"),
        tuned("one_line", "optimizers", one_line(), "PROFIT one line", decay=0.0),
        tuned("sgd", "optimizers", sgd(), "SGD", times=SGD_RATES),
        tuned("lookahead", "optimizers", lookahead(sync_period=1), "Lookahead", slow_step_size=0.5),
        tuned("adan", "optimizers", adan(), "Adan"),
        ablation("n_ref2", "n_ref", profit(2), "PROFIT, n_ref 2", RATIO),
        ablation("n_ref5", "n_ref", profit(5), "PROFIT, n_ref 5", RATIO),
        *(ablation(f"ratio{x}", "ratio", profit(), f"PROFIT, ratio {x}", float(x)) for x in (100, 1000, 10000)),
        tuned("l2_sp", "regularized", l2_sp(), "L2-SP", strength=1e-2),
        tuned("wise_ft", "regularized", wise_ft(), "WiSE-FT", alpha=0.7),
        tuned("adam_spd", "regularized", adam_spd(), "AdamSPD", strength=1.0),
        tuned("lp_ft", "regularized", lp_ft(), "LP-FT", head_steps=float(steps // 5)),
    ]
    return {arm.key: arm for arm in every}


def own(method: Method, rates: Sequence[float]) -> Arm:
    """A method of a user's file."""
    return Arm(method.name, "own", method._replace(grid=(("rate", tuple(rates)),)))


class Outcome(NamedTuple):
    """What became of an arm.

    Attributes:
      arm: the arm.
      tried: the tuning runs that its setting was picked from; none where there was nothing to pick.
      run: its run at that setting, over the seeds that are reported.
    """

    arm: Arm
    tried: Sequence[Run]
    run: Run


def measure(
    tuning_task: Task,
    task: Task,
    arms: Sequence[Arm],
    setup: Setup,
    on_run: Callable[[str], None] = lambda name: None,
    store: Path | None = None,
) -> Iterator[Outcome]:
    """The arms, one after the other. What an ablation takes its rate from is tuned even if it is none of them.

    `tuning_task` has a seed that is not reported; `on_run` is told whose runs begin; `store` is as for `run_all`.
    """

    @functools.cache
    def picked(arm: Arm) -> tuple[dict[str, float], Sequence[Run]]:
        first, *others = arm.method.settings()
        if arm.like:
            return picked(arm.like)[0] | first, []
        if not others:
            return first, []
        # As many gradients for every arm.
        steps = evenly(max(setup.tune_gradients // arm.method.gradients, 1), setup.evaluations)
        found = tune(tuning_task, arm.method, steps, setup.level, setup.batch, store=store)
        return found.setting, found.tried

    for arm in arms:
        on_run(arm.method.name)
        setting, runs = picked(arm)
        trial = Trial(arm.method, setting, evenly(setup.steps, setup.evaluations))
        (run,) = run_all(task, [trial], setup.batch, store=store)
        yield Outcome(arm, runs, run)
