"""When tests of packaged weights are skipped."""

import pytest

from tests.benchmarks.packages import needs


@pytest.mark.parametrize(
    ("package", "asked", "skipped"), [("no_such", "", True), ("no_such", "1", False), ("jax", "", False)]
)
def test_a_missing_package_skips_but_where_weights_are_asked_for(monkeypatch, package, asked, skipped):
    monkeypatch.setenv("PROFIT_WEIGHTS", asked)
    assert needs(package).mark.args == (skipped,)
