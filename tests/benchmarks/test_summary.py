"""Crossings and intervals against values worked out by hand."""

import numpy as np
import pytest

from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.summary import as_curve, crossing, difference, summarize
from profit_optax.compare.advice import advice
from profit_optax.compare.summary import level_rows


def run_of(old, new, steps=(0, 10, 20), method="ours", rate=1e-3, gradients=1, metrics=None):
    return Run(method, {"rate": rate}, gradients, np.array(steps), np.array(old), np.array(new), metrics or {}, 1.0)


def flat_run(method, old, rate=1e-3, **kwargs):
    """A run whose seeds go from 0.5 to 1.0 new accuracy at these old accuracies, and so reach 0.75 half way."""
    return run_of([[x, x] for x in old], [[0.5, 1.0]] * len(old), steps=(0, 10), method=method, rate=rate, **kwargs)


def test_a_crossing_is_interpolated_between_the_evaluations_around_it():
    # A quarter of the way from 0.5 to 0.9, so of that from 0.9 to 0.7 and from 10 to 20. The second seed gets nowhere.
    found = crossing(run_of([[1.0, 0.9, 0.7], [1.0, 0.9, 0.8]], [[0.0, 0.5, 0.9], [0.0, 0.5, 0.59]]), level=0.6)
    np.testing.assert_allclose(found.old, [0.85, np.nan])
    np.testing.assert_allclose(found.steps, [12.5, np.nan])


def test_differences_are_paired_by_seed():
    ours, other = flat_run("ours", [0.5, 0.7, 0.9]), flat_run("theirs", [0.4, 0.6, 0.8])
    np.testing.assert_allclose(difference(ours, other, 0.75), (0.1, 0.1, 0.1))
    shuffled = flat_run("theirs", [0.8, 0.4, 0.6])
    gap = difference(ours, shuffled, 0.75)
    assert gap.mean == pytest.approx(0.1)
    assert gap.high - gap.low > 0.5


def test_a_row_counts_steps_and_gradients_until_the_crossing():
    run = run_of([[1.0, 0.9, 0.7], [1.0, 0.9, 0.7]], [[0.0, 0.5, 0.9], [0.0, 0.6, 0.9]], gradients=3)
    (row,) = summarize([run], 0.6, baseline="ours")
    assert (row.seeds, row.reached, row.difference) == (2, 2, None)
    assert row.old.mean == pytest.approx((0.85 + 0.9) / 2)
    assert (row.steps, row.gradients) == (pytest.approx(11.25), pytest.approx(33.75))


def test_a_row_with_a_seed_that_did_not_reach_the_level_has_no_means():
    missing = run_of([[1.0, 0.9, 0.7], [1.0, 0.9, 0.8]], [[0.0, 0.5, 0.9], [0.0, 0.5, 0.59]])
    base = run_of([[1.0, 0.9, 0.7]] * 2, [[0.0, 0.5, 0.9]] * 2, method="base")
    row = summarize([base, missing], 0.6, baseline="base")[1]
    assert (row.seeds, row.reached) == (2, 1)
    assert row.old is row.difference is row.steps is row.gradients is None
    assert row.final_new == pytest.approx((0.9 + 0.59) / 2)


def test_differences_are_to_the_baseline_at_the_same_rate():
    runs = [flat_run(method, [old, old + 0.1], rate=rate) for method, rate, old in
            (("base", 1e-3, 0.5), ("base", 1e-4, 0.6), ("ours", 1e-3, 0.8), ("ours", 1e-4, 0.7))]  # fmt: skip
    means = [row.difference and row.difference.mean for row in summarize(runs, 0.75, baseline="base")]
    assert means == [None, None, pytest.approx(0.3), pytest.approx(0.1)]


def test_a_baseline_with_one_run_is_compared_with_every_rate():
    runs = [flat_run("base", [0.5, 0.6], 1e-4), flat_run("ours", [0.7, 0.8], 1e-3)]
    base, ours = summarize(runs, 0.75, baseline="base")
    assert base.difference is None
    assert ours.difference.mean == pytest.approx(0.2)


def test_seconds_are_those_until_the_crossing():
    (row,) = summarize([run_of([[1.0, 0.9, 0.7]] * 2, [[0.0, 0.5, 0.9]] * 2)], 0.6, baseline="ours")
    # The run took 1 s for its 20 steps, and crossed at step 12.5.
    assert row.seconds == pytest.approx(12.5 / 20)


def test_metrics_are_weighted_by_the_steps_they_were_taken_over():
    run = run_of([[1, 1, 1]] * 2, [[0, 0, 1]] * 2, (0, 1, 4), metrics={"cosine": np.array([[-1.0, 0.0], [-0.5, 0.5]])})
    (row,) = summarize([run], 0.5, baseline="ours")
    # A seed's mean over its four steps: -1/4, and (-0.5 + 3 * 0.5) / 4 = 1/4.
    assert row.metrics == {"cosine": pytest.approx(0.0)}


def test_a_run_is_a_curve_of_compares():
    runs = [flat_run("base", [0.8, 0.6, 0.7]), flat_run("ours", [0.81, 0.62, 0.72], gradients=2)]
    base, ours = level_rows([as_curve(run) for run in runs], 0.75, "base")
    assert (base.method, base.rate, base.reached, base.seeds) == ("base", 1e-3, 3, 3)
    row = summarize(runs, 0.75, "base")[1]
    assert (ours.old, ours.difference, ours.gradients) == (row.old, row.difference, pytest.approx(row.gradients))
    assert ours.seconds == pytest.approx(row.seconds)
    assert "Use ours at rate 1e-3" in advice([base, ours], [0.75], "base")
