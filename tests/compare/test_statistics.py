"""Crossings and intervals by hand."""

import numpy as np
import pytest

from profit_optax.compare.statistics import at_crossing, crossing, interval


def test_a_crossing_is_the_first_and_lies_on_the_line_from_the_evaluation_before():
    assert crossing(np.array([0.0, 0.4, 0.8, 0.2, 0.9]), 0.6) == pytest.approx(1.5)
    assert crossing(np.array([0.7, 0.1, 0.9]), 0.6) == 0
    assert crossing(np.array([0.0, 0.6]), 0.6) == 1
    assert np.isnan(crossing(np.array([0.0, 0.5]), 0.6))


def test_what_is_told_of_a_crossing_is_interpolated_and_nan_where_there_is_none():
    new = np.array([[0.0, 1.0, 1.0], [0.0, 0.1, 0.2]])
    found = at_crossing(np.array([[10.0, 6.0, 0.0], [10.0, 9.0, 8.0]]), new, 0.75)
    assert found[0] == pytest.approx(7.0)
    assert np.isnan(found[1])


def test_the_interval_is_students():
    # Mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653.
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert 2 - found.low == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_one_seed_says_nothing_of_others_and_nan_is_not_averaged_away():
    assert interval(np.array([1.0])) == (1.0, -np.inf, np.inf)
    assert interval(np.array([1.0, np.nan])) is None
