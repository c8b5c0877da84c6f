"""Rows from curves by hand, and the advice that follows from them and from nothing else."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from profit_optax.compare.advice import advice
from profit_optax.compare.runner import Run
from profit_optax.compare.statistics import Interval
from profit_optax.compare.summary import Row, best, curves_of, level_rows


def run(method, seed, old, new, rate=1e-3, gradients=1):
    positions = [0.0, 10.0, 20.0]
    taken = [int(position) * gradients for position in positions]
    return Run(method, rate, seed, "steps", positions, taken, {"old": old, "new": new}, [1.0, 0.5], [0.0, 1.0, 2.0], 8)


RUNS = [
    run("base", 0, [1.0, 0.8, 0.6], [0.0, 0.8, 1.0]),
    run("base", 1, [1.0, 0.7, 0.6], [0.0, 0.8, 1.0]),
    run("base", 0, [1.0, 0.2, 0.1], [0.0, 0.8, 1.0], rate=1e-2),
    run("base", 1, [1.0, 0.2, 0.1], [0.0, 0.8, 1.0], rate=1e-2),
    run("ours", 0, [1.0, 0.9, 0.8], [0.0, 0.8, 1.0], rate=1e-2, gradients=2),
    run("ours", 1, [1.0, 0.8, 0.8], [0.0, 0.8, 1.0], rate=1e-2, gradients=2),
    run("late", 0, [1.0, 1.0, 1.0], [0.0, 0.4, 0.6]),
    run("late", 1, [1.0, 1.0, 1.0], [0.0, 0.4, 0.9]),
]


def rows(level=0.9):
    return {(row.method, row.rate): row for row in level_rows(curves_of(RUNS), level, "base")}


def test_a_row_is_the_crossing_of_every_seed():
    row = rows()["base", 1e-3]
    assert row.old.mean == pytest.approx(0.675)  # (0.8 + 0.6) / 2 and (0.7 + 0.6) / 2
    assert (row.reached, row.seeds, row.difference) == (2, 2, None)
    assert (row.gradients, row.seconds, row.memory) == (pytest.approx(15), pytest.approx(1.5), 8)
    assert (row.along, row.position) == ("steps", pytest.approx(15))


def test_differences_are_paired_and_to_the_baseline_at_the_best_of_its_rates():
    row = rows()["ours", 1e-2]
    assert row.difference.mean == pytest.approx(0.15)  # 0.85 - 0.7 and 0.8 - 0.65
    assert row.difference.high == pytest.approx(0.15)
    assert row.gradients == pytest.approx(30)


def test_a_level_that_a_seed_does_not_reach_has_no_mean():
    row = rows()["late", 1e-3]
    assert (row.reached, row.old, row.difference, row.gradients) == (1, None, None, None)
    assert row.best_new == pytest.approx(0.75)


def test_the_best_rate_is_one_that_every_seed_reaches_the_level_with():
    own = [row for (method, _), row in rows().items() if method == "base"]
    assert best(own).rate == 1e-3


def row(method, mean, gap, half, reached=3, rate=1e-3):
    old = Interval(mean, mean - 0.01, mean + 0.01) if reached == 3 else None
    difference = None if gap is None or old is None else Interval(gap, gap - half, gap + half)
    return Row(method, rate, 0.9, 3, reached, old, difference, 100.0, 1.0, "steps", 10.0, 8, 0.95)


def said(*others, base=None):
    return advice([base or row("AdamW", 0.9, None, 0), *others], (0.9,), "AdamW")


def test_a_gain_that_is_clear_of_0_is_advised_with_its_price():
    text = said(row("PROFIT", 0.93, 0.03, 0.01), row("SGD", 0.91, 0.01, 0.005), row("EMA", 0.85, -0.05, 0.01))
    assert text.startswith("Use PROFIT at rate 1e-3: where the new task first stands at 90.0 %")
    assert "+3.0 ± 1.0 compared with AdamW" in text
    assert "100 gradients in place of 100" in text
    assert "Keeps more: PROFIT (+3.0 ± 1.0), SGD (+1.0 ± 0.5); keeps less: EMA (-5.0 ± 1.0)." in text
    assert "3 paired seeds" in text


def test_a_gain_that_is_not_clear_is_undecided_and_the_baseline_stays():
    text = said(row("PROFIT", 0.93, 0.03, 0.04), row("SGD", 0.0, None, 0, reached=1))
    assert text.startswith("Stay with AdamW")
    assert "Undecided: PROFIT (+3.0 ± 4.0)" in text
    assert "not reached with these gradients: SGD (1 of 3 seeds reached it, best mean 95.0 %)" in text


def test_an_interpolation_is_advised_with_its_place():
    text = said(row("WiSE-FT", 0.93, 0.03, 0.01)._replace(along="alpha", position=0.65))
    assert text.startswith("Use WiSE-FT at rate 1e-3, 0.65 of the way from the start: where")


def test_what_gains_most_at_lower_levels_is_told_too():
    rows = [row("AdamW", 0.9, None, 0), row("EWC", 0.0, None, 0, reached=1), row("PROFIT", 0.93, 0.03, 0.04)]
    lower = [
        row("AdamW", 0.9, None, 0),
        row("EWC", 0.95, 0.05, 0.01),
        row("PROFIT", 0.96, 0.06, 0.07),
    ]
    text = advice([*(each._replace(level=0.8) for each in lower), *rows], (0.8, 0.9), "AdamW")
    assert text.startswith("Stay with AdamW")
    assert "At lower levels most is kept at 80.0 % by EWC (+5.0 ± 1.0)." in text
    assert "At lower levels" not in advice(rows, (0.9,), "AdamW")


def test_where_the_baseline_does_not_get_there_is_no_advice():
    assert said(row("PROFIT", 0.93, 0.03, 0.01), base=row("AdamW", 0, None, 0, reached=2)).startswith("No advice")


@hypothesis.given(
    st.lists(st.tuples(st.floats(-0.2, 0.2), st.floats(0, 0.2), st.sampled_from([1, 3])), min_size=1, max_size=5)
)
def test_nothing_is_advised_whose_interval_does_not_say_so(gaps):
    others = [row(f"method {i}", 0.9 + gap, gap, half, reached) for i, (gap, half, reached) in enumerate(gaps)]
    first = said(*others).splitlines()[0]
    found = [other for other in others if other.difference and other.difference.low > 0]
    clear = [other for other in found if other.difference.high - other.difference.low > 1e-6 * other.difference.mean]
    if clear:
        winner = max(clear, key=lambda other: other.difference.mean)
        assert first.startswith(f"Use {winner.method} ")
    else:
        assert first.startswith("Stay with AdamW ")


@pytest.mark.parametrize("half", [0.0, 1e-17])
def test_the_same_difference_on_every_seed_says_nothing(half):
    text = said(row("PROFIT", 0.93, 0.03, half))
    assert text.startswith("Stay with AdamW")
    assert "Undecided: PROFIT" in text


def test_one_seed_advises_nothing():
    own, other = run("base", 0, [1.0, 0.8, 0.6], [0.0, 0.8, 1.0]), run("ours", 0, [1.0, 1.0, 1.0], [0.0, 0.8, 1.0])
    found = level_rows(curves_of([own, other]), 0.9, "base")
    assert found[1].difference.low == -np.inf
    text = advice(found, (0.9,), "base")
    assert text.startswith("Stay with base")
    assert "One seed says nothing of others" in text
