"""What the commands of benchmarks that train nothing refuse, and how they end."""

import errno
import inspect

import jax
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import rounding
from benchmarks.commands import in_a_sentence
from benchmarks.cost import __main__ as cost
from benchmarks.cost import growth
from benchmarks.device import __main__ as device
from benchmarks.scale import __main__ as scale
from tests.benchmarks.test_demo import words

FULL = OSError(errno.ENOSPC, "No space left on device")


def run(main, *arguments):
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("main", "option", "value"),
    [
        (cost.main, "--n-ref", "99999999"),
        (cost.main, "--n-ref", "0"),
        (cost.main, "--rounds", "100000000000000"),
        (cost.main, "--compilations", "10001"),
        (cost.main, "--output", __file__),
        (growth.main, "--parameters", "9" * 5000),
        (growth.main, "--leaves", "1,x"),
        (growth.main, "--n-ref", "1001"),
        (growth.main, "--rounds", "0"),
        (growth.main, "--output", __file__),
        (scale.main, "--counts", "1000001"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_measured(monkeypatch, tmp_path, main, option, value):
    monkeypatch.setattr(cost, "_measure", None)
    monkeypatch.setattr(growth, "sweep", None)
    monkeypatch.setattr(scale, "measure", None)
    result = run(main, *(() if option == "--output" else ("--output", tmp_path)), option, value)
    assert result.exit_code == 2, result.output
    assert f"Invalid value for '{option}'" in words(result.stderr) or f"Invalid value for {option}" in words(
        result.stderr
    )


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (FULL, "Error: [Errno 28] No space left on device", 1),
        (MemoryError("Unable to allocate 7.82 PiB"), "Error: Unable to allocate 7.82 PiB", 1),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand more"),
            "Error: RESOURCE_EXHAUSTED: Out of memory",
            1,
        ),
        (KeyboardInterrupt(), "Stopped.", 130),
    ],
)
def test_what_ends_a_command_is_one_sentence(error, said, code):
    @in_a_sentence
    def main():
        raise error

    result = run(main)
    assert (result.stderr, result.exit_code) == (said + "\n", code)


@pytest.mark.parametrize("main", [cost.main, growth.main, rounding.main, scale.main])
def test_every_command_ends_so(main):
    assert inspect.unwrap(main) is not main
    assert main.__code__ is in_a_sentence(print).__code__


@pytest.mark.parametrize("minutes", ["nan", "0", "-1", "inf", "soon"])
def test_minutes_are_a_number_above_0(capsys, minutes):
    with pytest.raises(SystemExit, match="2"):
        device.main(["--minutes", minutes])
    assert f"argument --minutes: '{minutes}' is no number of minutes above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said", "code"), [(FULL, "Error: [Errno 28] No space left", 1), (KeyboardInterrupt, "Stopped.", 130)]
)
def test_a_device_run_ends_with_a_sentence(monkeypatch, capsys, tmp_path, error, said, code):
    def ended(*_):
        raise error

    monkeypatch.setattr(device, "describe", ended)
    assert device.main(["--output", str(tmp_path)]) == code
    assert capsys.readouterr().err.startswith(said)
    assert device.main(["--output", __file__]) == 1
