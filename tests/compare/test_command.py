"""The command: a task out of a file, errors without tracebacks."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from profit_optax.compare import CompareError
from profit_optax.compare.command import main
from profit_optax.compare.files import load

ROOT = Path(__file__).parents[2]
FILE = """
import optax
from profit_optax.compare import from_optimizer
from tests.compare.lines import evaluate, lines

task = lines()
mine = from_optimizer("Lion", lambda rate: optax.lion(rate / 10))

def make():
    return lines()

def raising(params):
    raise RuntimeError("the scorer is out")

bad = lines(evaluate=raising)
huge = from_optimizer("huge", lambda rate: optax.sgd(1e38))
number = 1
"""
SMALL = ["--rates", "0.02", "--gradients", "20", "--seeds", "2", "--evaluations", "4"]


@pytest.fixture
def command(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    app = typer.Typer()
    app.command()(main)

    def run(name, *options):
        target = [f"{tmp_path / 'mine.py'}:{name}", "--output", str(tmp_path / "out"), *SMALL]
        return CliRunner().invoke(app, [*target, *options], env={"COLUMNS": "200", "TERM": "dumb"})

    return run


def test_it_prints_the_table_the_advice_and_where_everything_is(command, tmp_path):
    result = command("task", "--methods", "adamw,mine")
    assert result.exit_code == 0, result.output
    assert "Lion" in result.stdout
    assert "100%" not in result.stderr
    assert re.search(r"^ 50%  Lion at rate 0\.02$|^ 50%  Lion at rate 2e-2$", result.stderr, re.MULTILINE)
    assert "Left out" not in result.stdout
    assert "seeds (95 % Student-t intervals, each by itself)" in result.stdout
    assert f"Picture: {tmp_path / 'out' / 'compare.png'}" in result.stdout
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (content["methods"], content["seeds"], content["rates"]) == (["AdamW", "Lion"], [0, 1], [0.02])


def test_seeds_can_be_named_and_methods_come_out_of_any_file(command, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from profit_optax.compare import METHODS\nours = METHODS['one_line'](decay=0.5)\n")
    result = command("task", "--methods", f"adamw,{own}:ours", "--seeds", "5,7")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (content["methods"], content["seeds"]) == (["AdamW", "one line"], [5, 7])
    for options, words in (
        (["--methods", f"adamw,{tmp_path / 'mine.py'}:number"], "mine.py:number must be a Method, got int"),
        (["--seeds", "five"], "'five' is neither a number of seeds such as 5 nor a list such as 5,6,7"),
        (["--seeds", "0"], "seeds must be a number of at least 1"),
    ):
        result = command("task", *options)
        assert result.exit_code in (1, 2)
        assert words in " ".join(result.stderr.replace("│", " ").split())


def test_a_function_that_returns_a_task_will_do(command):
    result = command("make")
    assert result.exit_code == 0
    assert (
        "Left out: head_first (needs Task.head), lwf (needs Task.outputs), ewc (needs Task.old_batches)."
        in result.stdout
    )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bad", ["--methods", "adamw"], r"evaluate raised RuntimeError: the scorer is out \(.*mine\.py, line \d+\)"),
        ("task", ["--methods", "adamw,huge"], "not finite with huge"),
        ("task", ["--methods", "adamw,nothing"], "got 'nothing'"),
        ("task", ["--methods", "adamw,lwf"], r"needs Task\.outputs"),
        ("task", ["--gradients", "1"], "gradients must be at least 2"),
        ("task", ["--gradients", "10000000000"], "at most 1,000,000,000, got 10000000000"),
        ("task", ["--seeds", "1000000000"], "seeds must be at most 1000"),
        ("task", ["--rates", "nan"], "rates must be different, positive and finite"),
        ("task", ["--levels", "nan"], "levels must be finite scores"),
    ],
)
def test_what_goes_wrong_is_one_line_and_no_traceback(command, name, options, words):
    result = command(name, *options)
    assert result.exit_code == 1
    *progress, error = result.stderr.splitlines()
    assert error.startswith("Error: ")
    assert all(re.match(r" *\d+%  ", line) for line in progress)
    assert re.search(words, error)
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("damage", ["", "[]", '{"method": "AdamW"}'])
def test_a_damaged_run_is_named_and_may_be_removed(command, tmp_path, damage):
    assert command("task", "--methods", "adamw").exit_code == 0
    path = sorted((tmp_path / "out" / "runs").glob("*.json"))[0]
    path.write_text(damage)
    result = command("task", "--methods", "adamw")
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert f"Error: {path} is damaged" in result.stderr
    path.unlink()
    assert command("task", "--methods", "adamw").exit_code == 0


@pytest.mark.parametrize("name", ["compare.json", "compare.png"])
def test_a_report_that_cannot_be_written_is_one_line(command, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    result = command("task", "--methods", "adamw")
    assert (result.exit_code, "Traceback" in result.output) == (1, False)
    assert f"{name} cannot be written" in result.stderr


def test_a_terminal_is_told_what_is_read_and_gets_lines_broken_between_words(command, monkeypatch):
    plain = command("task", "--methods", "adamw,nothing").stderr
    terminal = functools.partial(Console, force_terminal=True, width=80)
    monkeypatch.setattr("profit_optax.compare.command.Console", terminal)
    reading, *message = command("task", "--methods", "adamw,nothing").stderr.splitlines()
    assert re.fullmatch(r"Reading .*mine\.py:task", reading)
    assert len(message) > 1
    assert " ".join(line.strip() for line in message) == plain.strip()


def test_what_is_no_file_and_name_says_what_to_write(command, tmp_path):
    with pytest.raises(CompareError, match=r"'mine\.py' is no FILE\.py:NAME\. Write my_task\.py:task"):
        load("mine.py")


@pytest.mark.parametrize(("name", "words"), [("nothing", "has no 'nothing'"), ("mine", "must be a Task")])
def test_a_name_that_is_no_task_is_an_error(command, name, words):
    result = command(name)
    assert result.exit_code == 1
    assert words in result.stderr


def test_a_file_that_raises_says_where(command, tmp_path):
    run = command
    (tmp_path / "mine.py").write_text("x = 1\nraise KeyError('weights')\n")
    result = run("task")
    assert result.exit_code == 1
    assert re.search(r"KeyError: 'weights' \(.*mine\.py, line 2\)", result.stderr)


def test_what_is_not_installed_is_named_with_its_extra():
    code = "import sys; sys.modules['scipy'] = None; import profit_optax.compare"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "ImportError: profit_optax.compare needs scipy, which is not installed. Run pip install" in done.stderr


def test_it_is_started_with_python_m_and_explains_itself():
    command = [sys.executable, "-m", "profit_optax.compare", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}
    )
    for word in ("FILE.py:TASK", "--methods", "--rates", "--gradients", "--seeds", "--output"):
        assert word in done.stdout
