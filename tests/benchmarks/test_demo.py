"""The command: its options, its refusals, and one real run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks.forgetting.experiments import demo
from tests.benchmarks.commands import invoke

ROOT = Path(__file__).parents[2]


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
    assert "Old accuracy where the new accuracy first reaches 94 %" in said
    assert re.search(r"\| AdamW \| 1e-3 \| \| \d\d\.\d ± \d+\.\d \| \| \d\d \| \d\d \|", said)
    assert re.search(r"demo --quick`; \d+ s, .*; python [\d.]+, profit-optax [\d.]+, jax [\d.]+, .* CPUs", said)
    assert re.search(r"(Use|Stay with) .* at rate 1e-3.*95 % Student-t intervals", said)
    assert "Its numbers mean nothing" in said
    assert "Report: out/demo/demo.md Picture: out/demo/demo.png Numbers: out/demo/demo.json" in said
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


@pytest.fixture
def small_run(linear_models, tmp_path):
    """The command on untrained linear models: a function of its options that returns the JSON file."""

    def run(**options):
        given = (part for name, value in options.items() for part in (f"--{name}", value))
        result = invoke("demo", "--quick", *given, "--output", tmp_path / "deep" / "er")
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / "deep/er/demo.json").read_text())

    return run


def test_every_option_changes_what_it_names(small_run):
    basic = small_run(methods="AdamW,PROFIT")
    assert [(run["method"], run["setting"]["rate"]) for run in basic["runs"]] == [("AdamW", 1e-3), ("PROFIT", 1e-3)]
    assert [run["steps"][-1] for run in basic["runs"]] == [80, 80]
    more = small_run(methods="AdamW", seeds="3")
    assert more["runs"][0]["old"][:2] == basic["runs"][0]["old"], "and yet what is named wins over --quick"
    assert len(more["runs"][0]["old"]) == 3
    other = small_run(methods="AdamW", task="labels permuted")
    assert (basic["task"], other["task"]) == ("rotated by 35 degrees", "labels permuted")
    assert other["old_accuracy_at_start"] == basic["old_accuracy_at_start"]
    assert other["runs"][0]["new"] != basic["runs"][0]["new"]


def test_the_full_run_is_the_one_that_is_documented():
    assert len(demo.RATES) == 3
    assert demo.EXPERIMENT.seeds[0] >= 10
    assert demo.LEVEL == 0.94
