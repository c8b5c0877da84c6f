"""What every experiment's command shares: five options with one meaning, and what they refuse."""

import itertools
import json
import re

import pytest
import typer

from benchmarks.forgetting.__main__ import EXPERIMENTS
from benchmarks.forgetting.command import named
from tests.benchmarks.commands import invoke
from tests.benchmarks.test_demo import words

# Options that a command cannot do without; nothing is where they say.
NEEDED = {
    "cifar": ("--data", "nowhere"),
    "vision": ("--data", "nowhere", "--weights", "nowhere"),
    "imagenet": ("--data", "nowhere"),
    "motion": ("--data", "nowhere"),
    "language": ("--new", "nowhere", "--old", "nowhere"),
}


def test_every_experiment_is_named():
    names = ["demo", "frontier", "map", "toy", "warmup", "cifar", "vision", "imagenet", "motion", "language"]
    assert list(EXPERIMENTS) == names


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_explains_the_options_that_all_have(name):
    experiment, said = EXPERIMENTS[name], words(invoke(name, "--help").stdout)
    options = ("task", "methods", "seeds", "output", "quick")
    for option, following in itertools.pairwise(options):
        between = re.search(f"--{option} (.*?)--{following}", said)
        assert between, option
        assert re.search(r"[A-Z][a-z]+ .*\.", between[1]), option
    assert "A smoke run, which measures nothing." in said
    assert "{}; with --quick {}".format(*experiment.seeds) in said
    assert f"out/{name}" in said
    assert all(task in said for task in experiment.tasks)
    assert experiment.run.__doc__.splitlines()[0].split()[0] in said


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("option", ["--task", "--methods"])
def test_a_name_that_is_nobodys_is_refused_before_anything_is_read(monkeypatch, tmp_path, name, option):
    experiment = EXPERIMENTS[name]
    usual = experiment.usual_tasks if option == "--task" else next(iter(experiment.methods))
    result = invoke(name, *NEEDED.get(name, ()), option, f"{usual},nobody", "--output", tmp_path)
    assert result.exit_code == 2
    known = experiment.tasks if option == "--task" else {**experiment.methods, **experiment.also}
    from_file = option == "--methods" or experiment.task_of
    sentence = f"Invalid value for {option}: 'nobody' is none of {', '.join(known)}"
    assert sentence + (", and no FILE.py:NAME." if from_file else ".") in words(result.stderr)


@pytest.mark.parametrize("name", [name for name, experiment in EXPERIMENTS.items() if experiment.baseline])
def test_what_the_others_stand_beside_must_be_among_the_methods(tmp_path, name):
    experiment = EXPERIMENTS[name]
    other = next(method for method in experiment.methods if method != experiment.baseline)
    result = invoke(name, *NEEDED.get(name, ()), "--methods", other, "--output", tmp_path)
    assert result.exit_code == 2
    assert f"Invalid value for --methods: {experiment.baseline} must be among them" in words(result.stderr)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_too_many_seeds_and_too_few_are_refused(tmp_path, name):
    for seeds in (1, EXPERIMENTS[name].most_seeds + 1):
        result = invoke(name, *NEEDED.get(name, ()), "--seeds", seeds, "--output", tmp_path)
        assert result.exit_code == 2
        assert "Invalid value for '--seeds'" in words(result.stderr)


def test_names_are_taken_in_the_order_of_what_is_known_and_may_have_commas():
    known = {"a": 1, "a, b": 2, "c": 4}
    assert list(named("c, a,c", known, "--x").items()) == [("a", 1), ("c", 4)]
    assert list(named("c,a, b", known, "--x").items()) == [("a, b", 2), ("c", 4)]
    assert list(named("x.py:d,c", known, "--x", str.upper).items()) == [("c", 4), ("x.py:d", "X.PY:D")]
    with pytest.raises(typer.BadParameter, match=r"'x\.py:d' is none of a, a, b, c\.$"):
        named("x.py:d", known, "--x")


def test_each_of_several_tasks_has_a_folder_of_its_own(linear_models, tmp_path):
    result = invoke(
        "demo", "--quick", "--task", "labels permuted,pixels permuted", "--methods", "AdamW", "--output", tmp_path
    )
    assert result.exit_code == 0, result.output
    for task in ("pixels permuted", "labels permuted"):
        content = json.loads((tmp_path / task / "demo.json").read_text())
        assert (content["task"], len(content["runs"])) == (task, 1)
