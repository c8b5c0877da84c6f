"""Tests of packaged weights, which most machines do not have."""

import importlib.util
import os

import pytest


def needs(package):
    """Skips a test where the package is not installed, but with PROFIT_WEIGHTS, as in `make weights-test`, fails it."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing and not os.environ.get("PROFIT_WEIGHTS"), reason=f"needs {package}")
