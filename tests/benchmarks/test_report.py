"""What the reader is shown."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.report import by_rate, page, plot, table
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.summary import summarize

STEPS = np.array([0, 10, 20])


def runs():
    """A base that gets to 0.9 new accuracy, and a method of which one seed of three does."""
    new = np.array([[0.3, 0.7, 1.0]] * 3)
    old = np.array([[1.0, 0.9, 0.8], [1.0, 0.9, 0.7], [1.0, 0.9, 0.6]])
    late = np.array([[0.3, 0.7, 1.0], [0.3, 0.6, 0.7], [0.3, 0.6, 0.8]])
    cosine = {"cosine": np.full((3, 2), -0.25)}
    return [
        Run("base", {"rate": 1e-3}, 1, STEPS, old, new, {}, 1.0),
        Run("ours", {"rate": 1e-3}, 2, STEPS, old + 0.01, late, cosine, 1.0),
        Run("base", {"rate": 1e-4}, 1, STEPS, old, new, {}, 1.0),
        Run("ours", {"rate": 1e-4}, 2, STEPS, old + 0.01, new, cosine, 1.0),
    ]


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_table_holds_the_means_their_intervals_and_the_costs_and_says_what_was_not_reached():
    # Half way from 0.7 to 1.0: old 0.85, 0.8, 0.75 at step 15. t(0.975, 2) = 4.3027, standard error 0.05 / sqrt(3).
    first = runs()[2:]
    late = runs()[1]._replace(method="late", setting={"rate": 1e-4, "ratio": 10.0})
    reached = {"base": "3 of 9", "ours": "4 of 9", "late": "0 of 9"}
    rows = summarize([late, *first], 0.85, "base")
    title, _, head, _, *lines = table(rows, 0.85, "base", reached=reached).splitlines()
    assert "85 %" in title
    assert cells(head)[3:5] == ["old (%)", "minus base"]
    assert cells(lines[0])[:4] == ["late", "1e-4", "ratio 10", "not reached: 2 of 3 seeds"]
    assert cells(lines[1]) == ["base", "1e-4", "", "80.0 ± 12.4", "", "15", "15", "0.8", "", "3 of 9"]
    assert cells(lines[2]) == ["ours", "1e-4", "", "81.0 ± 12.4", "+1.0 ± 0.0", "15", "30", "0.8", "-0.25", "4 of 9"]


def test_a_page_says_how_it_was_made_and_when_it_measures_nothing():
    about = {"command": "c", "machine": "m", "versions": {"jax": "0"}, "quick": False, "wall_seconds": 61.4}
    made = "`c`; 61 s, without what it found done already; jax 0; m."
    assert page("A title", about, "one", "two") == f"# A title\n\n{made}\n\none\n\ntwo\n"
    assert "Its numbers mean nothing" in page("A title", {**about, "quick": True})


def test_panels_with_different_methods_have_legends_of_their_own_and_a_common_one_looks_the_same(monkeypatch, tmp_path):
    base, ours = runs()[2:]
    other = ours._replace(method="other")
    axes = drawn(monkeypatch, tmp_path, {"a": [ours, base], "b": [other, base]}).axes
    colours = [{line.get_label(): line.get_color() for line in axis.lines} for axis in axes]
    assert colours[0]["base"] == colours[1]["base"] != colours[0]["ours"]
    labels = [{text.get_text() for text in axis.get_legend().get_texts()} for axis in axes]
    both = {"base", "compared at 85 %", "start: the old model"}
    assert labels == [both | {"ours"}, both | {"other"}]


def test_the_json_file_holds_the_curves_and_no_nan(tmp_path):
    found = runs()
    found[1].metrics["cosine"][0, 0] = np.nan
    rows, slow = summarize(found, 0.85, "base"), found[0]._replace(setting={"rate": 1e-7})
    job = Job("x", tmp_path, quick=True, tasks={"near": None, "far": None}, methods={}, seeds=3)
    job.write("text", {**job.about(level=0.85), "summary": rows, "runs": [*found, slow]})
    content = json.loads((tmp_path / "x.json").read_text())
    assert (content["level"], content["quick"], content["task"], content["seeds"]) == (0.85, True, "near, far", 3)
    assert content["command"].startswith("python -m benchmarks.forgetting")
    assert content["runs"][4]["setting"] == {"rate": 1e-7}
    np.testing.assert_allclose(content["runs"][3]["old"], found[3].old)
    np.testing.assert_allclose(content["runs"][3]["steps"], STEPS)
    assert content["runs"][1]["metrics"]["cosine"][0] == [None, -0.25]
    assert content["summary"][1]["old"] is None
    assert content["summary"][3]["difference"]["mean"] == pytest.approx(0.01)


def drawn(monkeypatch, tmp_path, found):
    """The figure that `plot` saves."""
    figures, save = [], Figure.savefig

    def savefig(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    plot(tmp_path / "x.png", found if isinstance(found, dict) else by_rate(found), 0.85, "a task")
    return figures[0]


def test_the_picture_has_a_panel_for_each_rate_and_a_line_for_each_method(monkeypatch, tmp_path):
    figure = drawn(monkeypatch, tmp_path, runs())
    assert [axes.get_title() for axes in figure.axes] == ["rate 1e-3", "rate 1e-4"]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"base", "ours", "compared at 85 %", "start: the old model"}
    assert imread(tmp_path / "x.png").std() > 0.05


def test_a_line_is_the_mean_old_accuracy_at_equal_new_accuracy(monkeypatch, tmp_path):
    axes = drawn(monkeypatch, tmp_path, runs()).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    x, y = lines["base"].get_data()
    # From 0.3 to 0.7 the old accuracy falls from 1.0 to 0.9 on every seed, from there to 1.0 to a mean of 0.7.
    np.testing.assert_allclose(y, np.where(x < 70, 100 - (x - 30) / 4, 90 - (x - 70) * 2 / 3), rtol=1e-6)
    # Only as far as all seeds get.
    assert lines["ours"].get_xdata().max() == pytest.approx(70, abs=1)
    assert lines["start: the old model"].get_data() == ([30], [100])


@pytest.mark.parametrize("ends", [(0.3, 0.3), (0.3, 1.0), (1.0, 1.0), (0.9, 0.2)])
def test_any_course_can_be_drawn(monkeypatch, tmp_path, ends):
    new = np.array([ends, ends])
    run = Run("base", {"rate": 1e-3}, 1, np.array([0, 1]), np.full((2, 2), 0.9), new, {}, 1.0)
    drawn(monkeypatch, tmp_path, [run])
