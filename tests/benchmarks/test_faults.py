"""What goes wrong ends a command with one sentence, an exit code, and nothing lost."""

import errno
import json
import os
import re

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import rounding
from benchmarks.forgetting.experiments.cifar import command as cifar
from benchmarks.forgetting.tasks import digits
from profit_optax.compare.store import opened
from tests.benchmarks.commands import invoke
from tests.benchmarks.test_demo import words


def sentence(result):
    """The one line that a command says on its end, which was no traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in result.output
    return line


@pytest.mark.parametrize(
    ("experiment", "option", "value"),
    [
        ("warmup", "--steps", "0"),
        ("demo", "--output", __file__),
        ("demo", "--output", __file__ + "/below"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_trained(monkeypatch, tmp_path, experiment, option, value):
    monkeypatch.setattr(digits, "_load", None)
    result = invoke(experiment, "--quick", "--output", tmp_path, option, value)
    assert result.exit_code == 2
    assert re.search(f"Invalid value for '?{option}'?: ", words(result.stderr))


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rates", "fast", "is not a list of numbers"),
        ("--rates", "1e-3,,1e-4", "is not a list of numbers"),
        ("--rates", "nan", "every rate must be positive and finite"),
        ("--rates", "1e-3,-1", "every rate must be positive and finite"),
        ("--rates", "1e-3,1e-3", "every rate must be given once"),
        ("--steps", "1000000000000", "Invalid value for '--steps'"),
    ],
)
def test_cifar_refuses_what_cannot_be_before_it_reads_anything(monkeypatch, tmp_path, option, value, said):
    monkeypatch.setattr(cifar, "cifar10", None)
    result = invoke("cifar", "--data", tmp_path, option, value, "--output", tmp_path)
    assert result.exit_code == 2
    assert said in words(result.stderr)


QUICK = ("frontier", "--quick", "--methods", "AdamW", "--output")


@pytest.mark.parametrize("damage", ["", "{", '{"run": {"method": "AdamW"}}'])
def test_a_damaged_run_is_named_and_may_be_removed(linear_models, tmp_path, damage):
    assert invoke(*QUICK, tmp_path).exit_code == 0
    path = sorted((tmp_path / "runs").glob("*.json"))[0]
    path.write_text(damage)
    assert f"{path} is damaged" in sentence(invoke(*QUICK, tmp_path))
    path.unlink()
    assert invoke(*QUICK, tmp_path).exit_code == 0


def test_a_full_disk_keeps_what_was_finished(linear_models, monkeypatch, tmp_path):
    sync, synced = os.fsync, []

    def full(file):
        synced.append(file)
        if len(synced) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in sentence(invoke(*QUICK, tmp_path))
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(finished) == 3
    assert invoke(*QUICK, tmp_path).exit_code == 0
    assert {name: (tmp_path / "runs" / name).stat().st_mtime_ns for name in finished} == finished


@pytest.mark.parametrize("what", ["md", "png", "json"])
def test_a_report_that_cannot_be_written_is_an_error_and_no_traceback(linear_models, tmp_path, what):
    (tmp_path / f"frontier.{what}").mkdir()
    assert f"frontier.{what} cannot be written" in sentence(invoke(*QUICK, tmp_path))


def test_a_folder_that_is_read_only_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert f"{tmp_path} cannot be written to" in sentence(invoke(*QUICK, tmp_path))


def test_two_commands_do_not_share_a_folder(tmp_path):
    with opened(tmp_path):
        assert f"runs in {tmp_path}" in sentence(invoke(*QUICK, tmp_path))


@pytest.mark.parametrize(
    ("command", "saved"),
    [(QUICK, 3), (("warmup", "--quick", "--task", "labels permuted", "--methods", "AdamW,PROFIT", "--output"), 1)],
    ids=["frontier", "warmup"],
)
def test_an_interrupted_command_goes_on_where_it_was(linear_models, monkeypatch, tmp_path, command, saved):
    sync, synced, stopped, whole = os.fsync, [], tmp_path / "stopped", tmp_path / "whole"

    def interrupted(file):
        synced.append(file)
        if len(synced) > saved:
            raise KeyboardInterrupt
        sync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        result = invoke(*command, stopped)
    assert result.exit_code == 130
    assert result.stderr.endswith(f"Stopped. Start the same command again to go on: {stopped} has what was finished.\n")
    finished = {path: path.stat().st_mtime_ns for path in (stopped / "runs").iterdir()}
    assert len(finished) == saved
    for folder in (stopped, whole):
        assert invoke(*command, folder).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    for path in (whole / "runs").iterdir():
        runs = [json.loads((folder / "runs" / path.name).read_text())["run"] for folder in (stopped, whole)]
        assert runs[0] | {"seconds": 0} == runs[1] | {"seconds": 0}


@pytest.mark.parametrize("experiment", ["demo", "frontier", "warmup"])
def test_an_unconverged_old_model_ends_the_run(linear_models, monkeypatch, tmp_path, experiment):
    monkeypatch.setattr(digits, "CONVERGED", 0.98)
    result = invoke(experiment, "--quick", "--methods", "AdamW", "--output", tmp_path)
    assert "the old models are not converged" in sentence(result)
    assert not list(tmp_path.glob("*.*n*")), "no picture and no numbers"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine = 5\n", "mine must be a Method, got int"),
        ("raise RuntimeError('no weights')\n", "raised RuntimeError: no weights"),
        (
            "from profit_optax.compare import METHODS\nmine = METHODS['head_first']()\n",
            "head first runs in profit_optax.compare alone",
        ),
        (
            "from profit_optax.compare import METHODS\nmine = METHODS['adamw']()\n",
            "different methods have the same name",
        ),
    ],
)
def test_a_method_that_cannot_be_run_says_why(linear_models, tmp_path, text, said):
    (tmp_path / "own.py").write_text(text)
    options = ("demo", "--quick", "--methods", f"AdamW,{tmp_path / 'own.py'}:mine")
    assert said in sentence(invoke(*options, "--output", tmp_path))


def test_a_task_that_is_none_says_so(tmp_path):
    (tmp_path / "own.py").write_text("def mine(seeds):\n    return list(seeds)\n")
    result = invoke("demo", "--quick", "--task", f"{tmp_path / 'own.py'}:mine", "--output", tmp_path)
    assert "must return a Task of benchmarks.forgetting.tasks, got list" in sentence(result)


def test_rounding_takes_no_options():
    command = typer.Typer()
    command.command()(rounding.main)
    assert CliRunner().invoke(command, ["--quick"]).exit_code == 2
