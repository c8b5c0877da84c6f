"""The frontier command at toy size."""

import json

import numpy as np
import pytest

from tests.benchmarks.commands import invoke
from tests.benchmarks.test_demo import words

pytestmark = pytest.mark.usefixtures("linear_models")


def test_methods_are_tuned_on_other_seeds_than_they_are_reported_on(tmp_path):
    result = invoke(
        "frontier", "--quick", "--seeds", "3", "--methods", "AdamW,L2-SP,PROFIT one line", "--output", str(tmp_path)
    )
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "frontier.json").read_text())
    assert list(content["tuned"]) == ["AdamW", "L2-SP", "PROFIT one line"]
    assert {each["tried"] for each in content["tuned"].values()} == {9}
    for run in content["runs"]:
        assert run["setting"] == content["tuned"][run["method"]]["setting"]
    identities = [json.loads(path.read_text())["identity"] for path in (tmp_path / "runs").glob("*.json")]
    tuning = [each for each in identities if each["until"] is not None]
    report = [each for each in identities if each["until"] is None]
    assert (len(tuning), len(report)) == (27, 3)
    assert {tuple(each["seeds"]) for each in report} == {(0, 1, 2)}, "what is named wins over --quick"
    assert {tuple(each["seeds"]) for each in tuning} == {(1000, 1001)}
    table = (tmp_path / "frontier.md").read_text()
    assert all(f"| {method} |" in table for method in content["tuned"])
    assert "settings tuned on 2 others, 9 for every method; 16 gradients" in words(table)
    assert (tmp_path / "frontier.png").exists()
    assert np.shape(content["runs"][0]["old"])[0] == 3
