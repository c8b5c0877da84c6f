"""Runs the experiments' command, and reads what it says."""

from typer.testing import CliRunner

from benchmarks.forgetting.__main__ import app

# A file of a user's, with a method that no experiment has.
OWN = """
import optax
from profit_optax.compare import from_optimizer

lion = from_optimizer("Lion", lambda rate: optax.lion(rate / 10))
"""


def invoke(*options):
    """What came of `python -m benchmarks.forgetting` with these options, on a wide terminal."""
    return CliRunner().invoke(app, list(map(str, options)), env={"COLUMNS": "200"})
