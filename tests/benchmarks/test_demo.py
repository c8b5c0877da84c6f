"""The command: its options, its refusals, and one real run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner

from benchmarks.forgetting.experiments import demo
from benchmarks.forgetting.tasks import digits

ROOT = Path(__file__).parents[2]


def invoke(*options):
    app = typer.Typer()
    app.command()(demo.main)
    return CliRunner().invoke(app, list(options), env={"COLUMNS": "200"})


def words(text):
    """Text without colours, boxes and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


def test_a_quick_run_in_a_process_of_its_own(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "TERM", "COLUMNS")}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.forgetting", "demo", "--quick"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said = words(run.stdout)
    assert "Old accuracy (%) where the new accuracy first reaches 94 %" in said
    assert re.search(r"1e-3 AdamW \d\d\.\d ± \d+\.\d \d\d \d\d AdamW x2 \d\d\.\d ± ", said)
    assert re.search(r"\d+ s for 2 seeds; python [\d.]+, profit-optax [\d.]+, jax [\d.]+, .* CPUs", said)
    assert "its numbers mean nothing" in said
    assert "Picture: out/demo/demo.png Numbers: out/demo/demo.json" in said
    assert "\x1b" not in run.stdout
    content = json.loads((tmp_path / "out/demo/demo.json").read_text())
    assert [row["method"] for row in content["summary"]] == ["AdamW", "AdamW x2", "PROFIT", "PROFIT one line"]
    assert [run["gradients"] for run in content["runs"]] == [1, 2, 2, 1]
    assert content["quick"]
    assert np.mean(content["old_accuracy_at_start"]) >= 0.98
    for run in content["runs"]:
        assert np.shape(run["old"]) == np.shape(run["new"]) == (2, 41)
        np.testing.assert_allclose(np.array(run["old"])[:, 0], content["old_accuracy_at_start"], atol=1e-5)
        assert np.min(run["new"]) > 0.1
        assert np.mean(run["new"], axis=0)[-1] > np.mean(run["new"], axis=0)[0] + 0.2
    cosines = [row["metrics"].get("cosine") for row in content["summary"]]
    assert cosines[:2] == [None, None]
    assert -1 < cosines[2] < 0
    assert -1 < cosines[3] < 0
    picture = imread(tmp_path / "out/demo/demo.png")
    assert picture.shape[0] > 400
    assert picture.std() > 0.05


BASIC = {"rates": "1e-3,2e-3", "ratio": "10", "n-ref": "1", "batch": "32", "seeds": "3", "steps": "6", "angle": "35"}


@pytest.fixture
def small_run(linear_models, tmp_path):
    """The command on untrained linear models: a function of its options that returns the JSON file."""

    def run(*flags, **changes):
        options = {**BASIC, "output": str(tmp_path), **changes}
        result = invoke(*flags, *(part for name, value in options.items() for part in (f"--{name}", value)))
        assert result.exit_code == 0, result.output
        return json.loads((Path(options["output"]) / "demo.json").read_text())

    return run


def courses(content, method):
    return [(run["old"], run["new"]) for run in content["runs"] if run["method"] == method]


def starts(content):
    """New accuracy of every run's first seed, before any step."""
    return [run["new"][0][0] for run in content["runs"]]


def test_every_option_changes_what_it_names(small_run, tmp_path):
    basic = small_run("--quick")
    assert basic["quick"], "and yet the options that are named win over it"
    assert [(run["method"], run["setting"]["rate"]) for run in basic["runs"]] == [
        (method, rate) for method in ("AdamW", "AdamW x2", "PROFIT", "PROFIT one line") for rate in (1e-3, 2e-3)
    ]
    assert [run["steps"][-1] for run in basic["runs"]] == [6, 3] * 4
    assert [len(run["old"]) for run in basic["runs"]] == [3] * 8

    at_first_rate = lambda method: courses(basic, method)[:1]  # noqa: E731
    ratio = small_run(ratio="0.001", rates="1e-3", methods="AdamW,PROFIT,PROFIT one line")
    assert courses(ratio, "AdamW") == at_first_rate("AdamW")
    assert courses(ratio, "PROFIT") != at_first_rate("PROFIT")
    assert courses(ratio, "PROFIT one line") == at_first_rate("PROFIT one line")

    n_ref = small_run(**{"n-ref": "2"}, rates="1e-3")
    assert [run["gradients"] for run in n_ref["runs"]] == [1, 3, 3, 1]
    assert courses(n_ref, "AdamW") == at_first_rate("AdamW")
    assert courses(n_ref, "PROFIT, n_ref 2") != at_first_rate("PROFIT")

    batch = small_run(batch="8", rates="1e-3", methods="AdamW")
    assert courses(batch, "AdamW") != at_first_rate("AdamW")
    assert starts(batch) == starts(basic)[:1]

    elsewhere = {"rates": "5e-3", "methods": "AdamW", "output": str(tmp_path / "elsewhere/deep")}
    other = small_run(angle="70", seeds="2", steps="10", **elsewhere)
    assert other["old_accuracy_at_start"] == basic["old_accuracy_at_start"][:2]
    assert starts(other)[0] != starts(basic)[0]
    assert [len(run["old"]) for run in other["runs"]] == [2]
    assert [run["steps"][-1] for run in other["runs"]] == [10]
    assert [run["setting"]["rate"] for run in other["runs"]] == [5e-3]
    assert (tmp_path / "elsewhere/deep/demo.png").exists()


def test_an_unconverged_old_model_ends_the_run(small_run, monkeypatch, tmp_path):
    monkeypatch.setattr(digits, "CONVERGED", 0.98)
    result = invoke("--quick", "--output", str(tmp_path))
    assert result.exit_code == 1
    assert "Error: the old models are not converged" in words(result.stderr)
    assert not list(tmp_path.glob("*.*n*")), "no picture and no numbers"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rates", "fast"),
        ("--rates", "1e-4,,1e-3"),
        ("--rates", "1e-4,-1e-4"),
        ("--rates", "nan"),
        ("--rates", "1e-4,0.0001"),
        ("--ratio", "0"),
        ("--ratio", "inf"),
        ("--n-ref", "0"),
        ("--n-ref", "1.5"),
        ("--batch", "0"),
        ("--batch", "1438"),
        ("--seeds", "1"),
        ("--seeds", "1000000000"),
        ("--steps", "0"),
        ("--steps", "1000000000"),
        ("--angle", "nan"),
        ("--output", __file__),
        ("--output", __file__ + "/below"),
    ],
)
def test_a_wrong_value_is_refused_by_the_options_name(monkeypatch, option, value):
    monkeypatch.setattr(digits, "rotated_digits", None)
    result = invoke("--quick", option, value)
    assert result.exit_code == 2
    assert re.search(f"Invalid value for '?{option}'?: ", words(result.stderr))


def test_help_explains_every_option():
    said = words(invoke("--help").stdout)
    names = ("rates", "ratio", "n-ref", "batch", "seeds", "steps", "angle", "task", "methods", "output", "quick")
    for name, following in zip(names, (*names[1:], "help"), strict=True):
        between = re.search(f"--{name} (.*?)--{following} ", said)
        assert between, name
        assert re.search(r"[A-Z][a-z]+ .*\.", between[1]), name
    assert "1e-4,3e-4,1e-3; with --quick 1e-3" in said


def test_the_full_run_is_the_one_that_is_documented():
    assert len(demo.RATES) == 3
    assert demo.FULL.seeds >= 10
    assert demo.LEVEL == 0.94
