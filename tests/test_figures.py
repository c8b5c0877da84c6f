"""Figures and claims of the README and of the site's pages are those of the committed results."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="a part of the extra compare, and what docs.pictures draws with")

from docs.pictures import RESULTS, mean_and_half, table

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
ALL_RESULTS = "\n".join(
    path.read_text(encoding="utf-8") for path in [ROOT / "benchmarks" / "RESULTS.md", *sorted(RESULTS.glob("*.md"))]
)
MAP = table((RESULTS / "map.md").read_text(encoding="utf-8"))


def rows(factor, form="PROFIT", **wanted):
    found = [row for row in MAP if row["factor"] == factor and row["form"] == form]
    return [row for row in found if all(row[name] == value for name, value in wanted.items())]


def gains(found):
    return [gain and gain[0] for gain in (mean_and_half(row["gain (points)"]) for row in found)]


def warmup_rows():
    """Task, rate and new accuracy by method."""
    parts = re.split(r"^## (.+) \(the old", (RESULTS / "warmup.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for task, text in zip(parts[1::2], parts[2::2], strict=True):
        found = table(text)
        for rate in dict.fromkeys(row["rate"] for row in found):
            yield task, {row["method"]: row["new, equal steps"] for row in found if row["rate"] == rate}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_intervals_are_those_of_the_results(path):
    for figure in re.findall(r"[\d.]+ ± [\d.]*\d", path.read_text(encoding="utf-8")):
        assert figure in ALL_RESULTS, figure


def test_intervals_of_the_results_are_those_of_the_pages_that_it_links():
    linked = "\n".join(path.read_text(encoding="utf-8") for path in RESULTS.glob("*.md"))
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    # The demo's are in a file of numbers, see below.
    text = re.sub(r"^## Handwritten digits: PROFIT beside AdamW.*?(?=^## )", "", text, flags=re.DOTALL | re.MULTILINE)
    for figure in set(re.findall(r"[\d.]+ ± [\d.]*\d", text)):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", linked), figure


def demo_cell(found, words=""):
    if found["reached"] < found["seeds"]:
        return f"not reached by {found['seeds'] - found['reached']} of {found['seeds']} seeds"
    (old, half), (gap, gap_half) = (
        (100 * x["mean"], 50 * (x["high"] - x["low"])) if x else (0, 0) for x in (found["old"], found["difference"])
    )
    gain = f" ({words}{gap:+.1f} ± {gap_half:.1f})" if found["method"].startswith("PROFIT") else ""
    return f"{old:.1f} ± {half:.1f}{gain}"


@pytest.mark.parametrize("page", ["README.md", "benchmarks/RESULTS.md"])
def test_the_table_of_the_demo_is_that_of_its_run(page):
    summary = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))["summary"]
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    for name, words in (("1e-4", "paired difference to AdamW "), ("3e-4", ""), ("1e-3", "")):
        here = {found["method"]: found for found in summary if found["setting"]["rate"] == float(name)}
        cells = [demo_cell(here[method], words if method == "PROFIT" else "") for method in here]
        assert f"| {' | '.join([name, *cells])} |" in lines


def test_what_is_said_of_n_ref():
    assert all(gain <= 1.2 for gain in gains(rows("n_ref", value="2"))), "two gained no more"
    assert gains(rows("n_ref", value="5")) == [None, None], "five did not reach the level at either rate"


def test_what_is_said_of_the_ratio():
    assert {row["value"] for row in rows("ratio")} >= {"1", "10000"}
    for rate in ("1e-4", "3e-4"):
        found = gains(rows("ratio", rate=rate))
        assert max(found) - min(found) <= 0.15, "nothing changed"


def test_what_is_said_of_large_batches():
    assert None in gains(rows("batch", value="1024"))
    assert None not in gains(rows("batch", form="lagged", value="1024"))


def test_what_is_said_of_the_distance():
    assert gains(rows("angle", value="10")) == [None, None]
    assert all("alone 100 %" not in row["reached"] for row in rows("angle", value="10")), "nor was it by AdamW"
    for rate in ("1e-4", "3e-4"):
        (near,), (far,) = (gains(rows("angle", value=value, rate=rate)) for value in ("20", "90"))
        assert far > near + 1


def test_what_is_said_of_old_models_that_are_not_trained_out():
    assert all(gain < 0 for gain in gains(rows("base_steps", value="15")))
    assert all(gain > 0 for value in ("500", "2000") for gain in gains(rows("base_steps", value=value)))


def test_what_is_said_of_warm_up():
    far = [new for task, new in warmup_rows() if not task.startswith("rotated")]
    raised = [mean_and_half(new["PROFIT, warmed up"])[0] > mean_and_half(new["PROFIT"])[0] for new in far]
    for page in (ROOT / "README.md", ROOT / "docs" / "choosing.md"):
        assert f"in {sum(raised)} of {len(raised)} " in page.read_text(encoding="utf-8")
    failed = [new for new in far if "fails" in new["PROFIT"]]
    assert failed, "PROFIT fails somewhere"
    assert all("fails" in new["PROFIT, warmed up"] for new in failed), "and warmed up as well"


def test_what_is_said_of_a_collapse():
    scores = json.loads((ROOT / "docs" / "trainings.json").read_text(encoding="utf-8"))
    collapsed, alone = scores["3e-3"]["PROFIT"], scores["3e-3"]["AdamW"]
    page = (ROOT / "docs" / "watching.md").read_text(encoding="utf-8")
    assert f"{collapsed['old']} % of the old digits are right and {collapsed['new']} % of the new ones" in page
    assert f"gets {alone['old']} % and {alone['new']} %" in page
    assert all(scores[rate]["PROFIT"]["new"] > 90 for rate in ("3e-4", "1e-3")), "the others learn"
    for path in ROOT.glob("docs/training_*.png"):
        assert path.stem.removeprefix("training_") in scores
        assert f"({path.name})" in page
