"""What is compared on CIFAR, in the order in which it is run."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adam_spd import adam_spd
from benchmarks.forgetting.methods.optimizers import adamw, adan, lookahead, sgd
from benchmarks.forgetting.methods.profit import one_line, profit
from benchmarks.forgetting.methods.regularised import l2_sp, lp_ft, wise_ft

BASELINE = "adamw"
RATIO = 10.0
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


def arms(rates: Sequence[float], steps: int) -> list[Arm]:
    """Every arm, each with as many settings to pick from as there are rates.

    Args:
      rates: for the Adam family.
      steps: main steps of a run, a fifth of which LP-FT spends on the head alone.
    """

    def tuned(key: str, table: str, method: Method, name: str, times: float = 1.0, **others: float) -> Arm:
        grid = (("rate", tuple(times * rate for rate in rates)), *((other, (x,)) for other, x in others.items()))
        return Arm(key, table, method._replace(name=name, grid=grid))

    ours = tuned("profit", "optimizers", profit(), "PROFIT", ratio=RATIO)

    def ablation(key: str, table: str, method: Method, name: str, ratio: float) -> Arm:
        return Arm(key, table, method._replace(name=name, grid=(("ratio", (ratio,)),)), like=ours)

    return [
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


KEYS = tuple(arm.key for arm in arms((1.0,), 1))


def own(method: Method, rates: Sequence[float]) -> Arm:
    """A method of a user's file."""
    return Arm(method.name, "own", method._replace(grid=(("rate", tuple(rates)),)))
