"""The map: its places, its gains, and its test of the cosine."""

import json

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.forgetting.experiments.map import command
from benchmarks.forgetting.experiments.map.figure import plot
from benchmarks.forgetting.experiments.map.gain import Gain, early_cosine, gain, level, predictions
from benchmarks.forgetting.experiments.map.places import DIGITS, MAINS, TOY
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.tasks import toy
from profit_optax.compare.statistics import Interval
from tests.benchmarks.commands import OWN, invoke
from tests.benchmarks.test_demo import words

CENTRE = DIGITS.centre


@pytest.mark.parametrize("mapped", [DIGITS, TOY])
def test_each_factor_is_varied_alone_from_the_same_centre(mapped):
    assert set(mapped.factors) == set(mapped.centre._fields)
    for name, factor in mapped.factors.items():
        for point, value in zip(mapped.points(name), factor.values, strict=True):
            assert point == mapped.centre._replace(**{name: value})
        assert mapped.centre in mapped.points(name)


@pytest.mark.parametrize("mapped", [DIGITS, TOY])
def test_the_main_optimizer_alone_takes_as_many_gradients_a_step(mapped):
    for n_ref in (1, 3):
        point = mapped.centre._replace(n_ref=n_ref)
        forms = mapped.forms(point)
        assert mapped.alone(point, n_ref + 1).gradients == forms["PROFIT"].gradients == n_ref + 1
        assert mapped.alone(point, 1).gradients == forms["one line"].gradients == 1


def test_every_place_and_method_has_a_name_of_its_own():
    points = [CENTRE._replace(main=main) for main in MAINS]
    named = [method.name for point in points for method in DIGITS.forms(point).values()]
    named += [DIGITS.alone(point, gradients).name for point in points for gradients in (1, 2)]
    assert len(set(named)) == len(named)


def test_the_level_lies_most_of_the_way_to_the_old_tasks_accuracy():
    assert level(0.5, 1.0) == pytest.approx(0.95)


def run_of(old, gradients, cosine=(-0.2, -0.4)):
    old = np.array([[1.0, x, x] for x in old])
    new = np.array([[0.0, 0.5, 1.0]] * len(old))
    metrics = {"cosine": np.array([cosine] * len(old))}
    return Run("run", {"rate": 1e-3}, gradients, np.array([0, 10, 40]), old, new, metrics, 1.0)


ALONE, EQUAL = run_of([0.5, 0.7], 1), run_of([0.4, 0.6], 2)
PROFIT, ONE_LINE = run_of([0.8, 1.0], 2), run_of([0.6, 0.8], 1)


def test_a_gain_is_over_the_main_optimizer_alone_at_equal_gradients_a_step():
    profit, one_line = (
        gain("ratio", CENTRE, 1e-3, "form", run, equal, ALONE, 0.5)
        for run, equal in ((PROFIT, EQUAL), (ONE_LINE, ALONE))
    )
    assert profit.gain.mean == pytest.approx(0.4)
    assert profit.over_one.mean == pytest.approx(0.3)
    assert one_line.gain.mean == one_line.over_one.mean == pytest.approx(0.1)
    # All reach 0.5 after 10 steps.
    assert (profit.gradients, one_line.gradients) == (pytest.approx(2), pytest.approx(1))


def test_what_is_not_reached_has_no_gain():
    late = PROFIT._replace(new=np.array([[0.0, 0.5, 1.0], [0.0, 0.1, 0.2]]))
    found = gain("ratio", CENTRE, 1e-3, "PROFIT", late, EQUAL, ALONE, 0.5)
    assert (found.gain, found.gradients, found.reached, found.alone_reached) == (None, None, 0.5, 1.0)


def test_the_early_cosine_is_of_the_first_steps_alone():
    # The second evaluation is at step 40, later than early.
    assert early_cosine(PROFIT) == pytest.approx(-0.2)
    assert early_cosine(PROFIT._replace(steps=np.array([0, 5, 20]))) == pytest.approx(-0.35)
    assert early_cosine(PROFIT._replace(steps=np.array([0, 30, 40]))) == pytest.approx(-0.2)


def gain_of(cosine, mean, reached=1.0, alone_reached=1.0, form="PROFIT"):
    # Every place has a ratio of its own, by which it is told from others.
    gain_of.ratio += 1
    interval = None if mean is None else Interval(mean, mean - 0.1, mean + 0.1)
    point = CENTRE._replace(ratio=gain_of.ratio)
    return Gain("ratio", point, 1e-3, form, 0.9, interval, interval, reached, alone_reached, cosine, None)


gain_of.ratio = 0.0
COSINES = (-0.9, -0.5, -0.3, -0.1, 0.2)


def test_a_run_without_a_step_has_no_cosine():
    none = PROFIT
    none = none._replace(steps=none.steps[:1], metrics={"cosine": np.zeros((2, 0))})
    assert np.isnan(early_cosine(none))
    ordered = [gain_of(x, x) for x in COSINES]
    assert predictions([*ordered, gain_of(np.nan, -5.0)]) == predictions(ordered)


def test_the_prediction_is_spearmans_correlation_with_bonett_and_wrights_interval():
    (found,) = predictions([gain_of(x, x**3) for x in COSINES])
    assert (found.form, found.places, found.rank_correlation) == ("PROFIT", 5, pytest.approx(1.0))
    (found,) = predictions([gain_of(x, -x) for x in COSINES])
    assert found.rank_correlation == pytest.approx(-1.0)
    # Two neighbours of six exchanged: 1 − 6 · 2 / (6 · 35) = 33/35; arctanh is 1.7632, the half width
    # 1.96 · sqrt((1 + (33/35)² / 2) / 3) = 1.3600, and the ends are tanh(0.4031) and tanh(3.1232).
    (found,) = predictions([gain_of(x, y) for x, y in enumerate([1, 2, 3, 4, 6, 5])])
    assert found.rank_correlation == pytest.approx(33 / 35)
    assert (found.low, found.high) == (pytest.approx(0.3826, abs=1e-4), pytest.approx(0.9961, abs=1e-4))


def test_a_place_counts_once_and_forms_are_told_apart():
    ordered = [gain_of(x, x) for x in COSINES]
    assert predictions(ordered + ordered) == predictions(ordered)
    one_line = [gain_of(x, -x, form="one line") for x in COSINES]
    profit_found, one_line_found = predictions(ordered + one_line)
    assert profit_found.rank_correlation == pytest.approx(1.0)
    assert one_line_found.rank_correlation == pytest.approx(-1.0)


def test_a_collapse_is_a_run_short_of_the_level_that_the_main_optimizer_alone_reaches():
    ordered = [gain_of(x, x**3) for x in COSINES]
    assert predictions(ordered)[0].collapse_auc is None
    # Against five that reach the level: lower than four of them and than none.
    lost = [gain_of(-0.6, None, reached=0.5), gain_of(0.3, None, reached=0.0)]
    assert predictions(ordered + lost)[0].collapse_auc == pytest.approx(4 / 10)
    # Where nothing reaches the level, it is not PROFIT that collapsed.
    assert predictions([*ordered, gain_of(-0.6, None, 0.5, alone_reached=0.5)])[0].collapse_auc is None


def test_too_few_places_make_no_prediction():
    assert predictions([gain_of(x, x) for x in COSINES[:4]]) == []


def test_the_map_draws_what_was_reached_and_what_was_not(tmp_path):
    gains = [gain_of(x, x) for x in COSINES] + [gain_of(-0.95, None, reached=0.0)]
    plot(tmp_path / "map.png", DIGITS, gains, predictions(gains), n_seeds=3)
    assert (tmp_path / "map.png").stat().st_size > 10_000
    text = command._sentences(predictions(gains), 3, DIGITS.unit)
    assert "PROFIT: Spearman's rank correlation" in text
    assert "+1.00 [" in text
    assert "lower early cosine in 100 % of its pairs" in text


def only(monkeypatch, mapped, **values):
    """One value each for some of the factors."""
    for name, value in values.items():
        monkeypatch.setitem(mapped.factors, name, mapped.factors[name]._replace(values=(value,)))


def test_the_command_at_toy_size(linear_models, monkeypatch, tmp_path):
    only(monkeypatch, DIGITS, n_ref=2, main="SGD")
    result = invoke("map", "--quick", "--factors", "n_ref,main", "--output", str(tmp_path))
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "map.json").read_text())
    # Two rates each; the one line only where it is not n_ref that varies.
    found = [(each["factor"], each["point"][each["factor"]], each["form"], each["rate"]) for each in content["gains"]]
    assert found == [
        ("n_ref", 2, "PROFIT", 1e-4),
        ("n_ref", 2, "PROFIT", 3e-4),
        ("main", "SGD", "PROFIT", pytest.approx(0.1)),
        ("main", "SGD", "one line", pytest.approx(0.1)),
        ("main", "SGD", "PROFIT", pytest.approx(0.3)),
        ("main", "SGD", "one line", pytest.approx(0.3)),
    ]
    assert {len(json.loads(path.read_text())["identity"]["seeds"]) for path in (tmp_path / "runs").glob("*.json")} == {
        2
    }
    assert "Too few places reached the level for a correlation" in words((tmp_path / "map.md").read_text())
    assert (tmp_path / "map.png").exists()
    (tmp_path / "own.py").write_text(OWN)
    options = ("--seeds", 3, "--methods", f"one line,{tmp_path / 'own.py'}:lion", "--output", tmp_path / "three")
    result = invoke("map", "--quick", "--factors", "main,n_ref", *options)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "three/map.json").read_text())
    assert content["seeds"] == 3
    assert [(each["factor"], each["form"]) for each in content["gains"]] == [("main", "one line"), ("main", "Lion")] * 2
    identities = [json.loads(path.read_text())["identity"] for path in (tmp_path / "three/runs").glob("*.json")]
    assert {tuple(each["seeds"]) for each in identities} == {(0, 1, 2)}
    wrong = invoke("map", "--factors", "weather")
    assert wrong.exit_code == 2
    assert "'weather'" in words(wrong.stderr)


def test_the_command_on_the_toy_problem(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    only(monkeypatch, TOY, base_steps=1000)
    result = invoke("map", "--task", "toy", "--quick", "--factors", "base_steps")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out/map"
    content = json.loads((folder / "map.json").read_text())
    assert (content["task"], content["centre"]) == ("toy", TOY.centre._asdict())
    found = [(each["factor"], each["point"][each["factor"]], each["form"], each["rate"]) for each in content["gains"]]
    assert found == [("base_steps", 1000, form, rate) for rate in (5e-4, 1.5e-3) for form in ("PROFIT", "one line")]
    # A hundredth of the steps where it is quick, once for each seed.
    models = sorted(path.name for path in (folder / "runs").glob("*.msgpack"))
    assert models == [f"toy-relu-1024-50-8-10-8-{seed}.msgpack" for seed in (0, 1)]
    text = (folder / "map.md").read_text()
    assert "| level (error) | gain (mean squared error) |" in text
    assert "Gains in mean squared error on the old square" in text
    assert "from the old model's error on the new task to its error on the old one" in text
    assert (folder / "map.png").exists()


def test_a_factor_of_another_task_is_refused():
    for task, factor, known in (("toy", "angle", TOY), ("digits", "shift", DIGITS)):
        refused = invoke("map", "--task", task, "--factors", f"batch,{factor}")
        assert refused.exit_code == 2
        said = words(refused.stderr)
        assert f"'{factor}' is none of {', '.join(known.factors)}." in said
        assert "--factors" in said


def test_the_shift_moves_the_new_square_and_not_the_old_model_which_is_not_trained_again(monkeypatch, tmp_path):
    here = TOY.task(TOY.centre, (0,), tmp_path, True)
    monkeypatch.setattr(toy, "_old_model", lambda *args: pytest.fail("trained again"))
    there = TOY.task(TOY.centre._replace(shift=0.3), (0,), tmp_path, True)
    assert there.name == f"{here.name}, new square 1.1 to 1.8"
    for moved, before in ((there.data, here.data), (there.held_out, here.held_out)):
        np.testing.assert_allclose(moved.new.points, before.new.points + 0.3, atol=1e-5)
        np.testing.assert_array_equal(moved.old.points, before.old.points)
    jax.tree.map(np.testing.assert_array_equal, there.params, here.params)
    assert there.name == f"{here.name}, new square 1.1 to 1.8"


@pytest.mark.parametrize(
    ("mapped", "level", "gain"), [(DIGITS, "-25.0", "+12.3 ± 2.0"), (TOY, "0.250", "+0.123 ± 0.020")]
)
def test_the_table_is_in_the_tasks_unit(mapped, level, gain):
    _, _, row = command._table([in_units(mapped)], mapped.unit)
    assert row.split(" | ")[4:6] == [level, gain]


@pytest.mark.parametrize(
    ("mapped", "height", "label"), [(DIGITS, 12.34, "points"), (TOY, 0.1234, "mean squared error")]
)
def test_the_figure_is_in_the_tasks_unit(monkeypatch, tmp_path, mapped, height, label):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.append(figure))
    gained = in_units(mapped)
    elsewhere = gained._replace(point=gained.point._replace(ratio=100.0), cosine=0.5)
    plot(tmp_path / "map.png", mapped, [gained, elsewhere], [], n_seeds=3)
    varied, predicted = drawn[0].axes
    assert varied.get_ylabel() == predicted.get_ylabel() == f"gain ({label})"
    assert varied.containers[0].lines[0].get_ydata() == pytest.approx([height, height])
    assert predicted.collections[0].get_offsets()[0, 1] == pytest.approx(height)
    assert f"at equal new {mapped.unit.score}" in drawn[0].get_suptitle()


def in_units(mapped):
    """One gain of 0.1234 at a level of -0.25, as scores are."""
    gained = Interval(0.1234, 0.1034, 0.1434)
    return Gain("ratio", mapped.centre, 1e-3, "PROFIT", -0.25, gained, gained, 1.0, 1.0, -0.5, 2.0)
