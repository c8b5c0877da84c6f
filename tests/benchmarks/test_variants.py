"""The command that compares variants, at toy size."""

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.forgetting import variants
from benchmarks.forgetting.demo import Size
from tests.benchmarks.test_demo import words


@pytest.fixture
def invoke(linear_models, monkeypatch):
    monkeypatch.setattr(variants, "FULL", Size((1e-3,), seeds=2, steps=2))
    app = typer.Typer()
    app.command()(variants.main)
    return lambda *options: CliRunner().invoke(app, list(options), env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("choice", "methods"),
    [
        ("lagged", ["PROFIT lagged", "along projected", "along momentum", "AdamW"]),
        ("compact", ["PROFIT", "PROFIT, Δ in bfloat16", "AdamW"]),
    ],
)
def test_the_choice_picks_what_is_compared(invoke, choice, methods):
    result = invoke(choice)
    assert result.exit_code == 0, result.output
    said = words(result.stdout)
    places = [said.find(f"{name} ", 60) for name in methods]
    assert -1 not in places
    assert places == sorted(places)
    assert "2 paired seeds" in said


def test_what_there_is_no_choice_of_is_refused(invoke):
    result = invoke("weather")
    assert result.exit_code == 2
    assert "'weather'" in words(result.stderr)
