"""Runs the experiments' command, and reads what it says."""

from typer.testing import CliRunner

from benchmarks.forgetting.__main__ import app


def invoke(*options):
    """What came of `python -m benchmarks.forgetting` with these options, on a wide terminal."""
    return CliRunner().invoke(app, list(map(str, options)), env={"COLUMNS": "200"})
