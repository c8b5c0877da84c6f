"""The options of the command that writes the page about scale; tests/multidevice has what the page says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The command with a model and rows that take seconds. It sets up devices, and so wants a process of its own.
COMMAND = """
import typer
from benchmarks.scale import __main__ as scale
from benchmarks.scale.transformer import Config
scale.MODELS = {"tiny": Config(2, 128, heads=4, kv_heads=2, hidden=256, vocabulary=512, tied=True)}
scale.CASES = scale.CASES[:1]
typer.run(scale.main)
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices", "2", "--length", "8"], ["2 simulated devices", "one sequence of 8 tokens", "D = 2."]),
        (["--devices", "4", "--length", "6"], ["4 simulated devices", "one sequence of 6 tokens", "D = 4."]),
    ],
    ids=["two devices", "four devices"],
)
def test_every_option_changes_what_it_names(options, said, tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, "-c", COMMAND, *options, "--output", str(page)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Page: {page}\n"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert [words for words in said if words not in text] == []
