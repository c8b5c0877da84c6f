"""What the reader is shown."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread

from profit_optax.compare import report
from profit_optax.compare.formats import plus_minus, scale_of, score, short_rate
from profit_optax.compare.statistics import Interval
from profit_optax.compare.summary import curves_of, level_rows
from tests.compare.test_summary import RUNS, row

LEVELS = (0.5, 0.9)


def everything():
    curves = curves_of(RUNS)
    return curves, [row for level in LEVELS for row in level_rows(curves, level, "base")]


def test_the_table_has_each_method_at_its_best_rate_level_by_level():
    _, rows = everything()
    lines = [" ".join(line.split()) for line in report.as_text(report.table(rows, LEVELS, "base")).splitlines()]
    assert "(%)" in lines[0]
    # Half width of two seeds: t(0.975, 1) = 12.7062 times half of their difference, 5 points at most.
    assert "90.0 base 1e-3 67.5 ± 31.8 15 1.5 <0.01" in lines
    assert "ours 1e-2 82.5 ± 31.8 +15.0 ± 0.0 30 1.5 <0.01" in lines
    assert "late 1e-3 not reached: 1/2 <0.01" in lines
    assert sum("base" in line for line in lines[1:]) == 3


def test_the_table_fits_a_terminal():
    _, rows = everything()
    assert max(map(len, report.as_text(report.table(rows, LEVELS, "AdamW")).splitlines())) <= 80


def test_scores_that_are_no_fractions_are_shown_as_they_are():
    losses = [row("a", -3.25, None, 0)]
    assert scale_of(losses) == 1
    assert scale_of([row("a", 0.5, None, 0)]) == 100
    assert score(-0.31234567, 1) == "-0.3123"
    assert plus_minus(Interval(-0.25, -0.5, 0.0), 1, "+") == "-0.25 ± 0.25"
    assert plus_minus(Interval(-0.25678, -0.30678, -0.20678), 1) == "-0.257 ± 0.050"
    assert plus_minus(Interval(0.5, -np.inf, np.inf), 100) == "50.0"
    assert short_rate(2.5e-3) == "2.5e-3"


def test_the_picture_has_a_line_for_each_method_its_levels_and_the_start(monkeypatch, tmp_path):
    curves, rows = everything()
    figures = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: figures.append(figure) or real(figure, *a, **k))
    report.plot(tmp_path / "a.png", curves, rows, LEVELS, "new digits")
    assert imread(tmp_path / "a.png").ndim == 3
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert {"base, 1e-3", "ours, 1e-2", "late, 1e-3", "compared at", "start: the old model"} <= lines.keys()
    np.testing.assert_allclose(lines["ours, 1e-2"].get_xdata(), [0, 80, 100])
    np.testing.assert_allclose(lines["ours, 1e-2"].get_ydata(), [100, 85, 80])
    assert axes.get_title().splitlines()[0].endswith("learning new digits")
    assert (
        axes.get_title().splitlines()[1].startswith("each at its best rate for the highest level; means over 2 seeds")
    )


def test_methods_beyond_those_at_hand_are_drawn_otherwise():
    styles = [report._style(i) for i in range(22)]
    assert len(set(styles)) == len(styles)
    assert styles[11][0] == styles[0][0]


def test_there_is_a_picture_where_nothing_stood_higher_than_the_start(tmp_path):
    curves, _ = everything()
    for by in (0.0, 0.1):
        sunk = [curve._replace(new=curve.new[:, :1] - by * np.arange(curve.new.shape[1])) for curve in curves]
        # A level of the user's own, which was reached before anything was learnt.
        rows = level_rows(sunk, -1.0, "base")
        report.plot(tmp_path / "a.png", sunk, rows, (-1.0,), "new digits")
        assert imread(tmp_path / "a.png").ndim == 3
