"""A task and a method in one small file of their own run in demo, frontier and compare."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.forgetting.__main__ import EXPERIMENTS, app
from benchmarks.forgetting.compared import as_arm, as_task
from profit_optax.compare import METHODS, compare
from profit_optax.compare.files import load

OWN = '''"""Mirrored digits, and Lion."""

import optax

from benchmarks.forgetting.compared import as_task
from benchmarks.forgetting.tasks.digits import transformed_digits
from profit_optax.compare import from_optimizer


def mirrored(seeds):
    return transformed_digits("mirrored digits", seeds, lambda images, labels: (images[:, :, ::-1], labels))


def one_model():
    return as_task(mirrored([0]), batch=16)


lion = from_optimizer("Lion", lambda rate: optax.lion(rate / 10))
'''

pytestmark = pytest.mark.usefixtures("linear_models")


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert len(OWN.splitlines()) <= 25
    return path


@pytest.mark.parametrize("experiment", ["demo", "frontier"])
def test_an_experiment_runs_a_task_and_a_method_of_a_file(own, tmp_path, experiment):
    options = ["--quick", "--task", f"{own}:mirrored", "--methods", f"AdamW,{own}:lion", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, [experiment, *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / f"{experiment}.json").read_text())
    assert {run["method"] for run in content["runs"]} == {"AdamW", "Lion"}
    assert "Lion" in result.output


def test_compare_runs_them(own):
    module, task = load(f"{own}:one_model")
    result = compare(task(), ["adamw", module.lion, "lwf", "ewc"], rates=[1e-3], gradients=12, seeds=2)
    assert [curve.method for curve in result.curves] == ["AdamW", "Lion", "LwF 0.3", "EWC 1000"]
    assert result.about["task"] == "mirrored digits"


def test_profit_of_compare_is_an_arm_and_what_is_more_than_an_optimizer_is_none():
    assert as_arm(METHODS["profit"]()).gradients == 2
    with pytest.raises(ValueError, match=r"LwF 0\.3 must be an optimizer alone"):
        as_arm(METHODS["lwf"]())


def test_a_task_s_seeds_are_models_of_their_own(own):
    _, mirrored = load(f"{own}:mirrored")
    both = mirrored([0, 1])
    first, second = (as_task(both, 16, i).params["params"]["Dense_0"]["kernel"] for i in range(2))
    assert (first != second).any()


@pytest.mark.parametrize(("option", "value"), [("--task", "nothing"), ("--methods", "AdamW,nothing")])
def test_a_name_that_is_nobody_s_is_an_error(tmp_path, option, value):
    result = CliRunner().invoke(app, ["demo", "--quick", option, value, "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "'nothing' is none of" in result.stderr


def test_every_experiment_is_named():
    assert list(EXPERIMENTS) == ["demo", "frontier", "map", "toy", "warmup", "cifar", "brake"]
