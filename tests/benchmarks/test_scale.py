"""What is written about steps on many devices: read from programs for CPUs, which every machine can compile."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.scale import costs, figures, fit, models, pages, plan, store, targets
from benchmarks.scale.figures import Figures, Sent, TooLarge
from benchmarks.scale.plan import Program
from benchmarks.scale.store import Store

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks/scale"
BASE = Figures(
    parameters=4 * 10**9,
    leaves=11,
    arguments=12 * 10**9,
    temporaries=4 * 10**9,
    peak=16 * 10**9,
    fusions=1000,
    kernels=1100,
    branch_fusions=0,
    loops=2,
    passes=32,
    conditionals=0,
    unknown_loops=0,
    collectives={},
    numbers=0,
    operations=None,
    accessed=None,
    seconds=3.0,
)


def cpu():
    """A mesh of this machine's first CPU."""
    return Mesh(np.array(targets.devices(targets.TARGETS["cpu"], 1)), ("data",))


@pytest.fixture(scope="module")
def measured():
    """Two ways to take a step of a tiny model on this machine's CPU."""
    names = ("norm", "profit-1")
    return {name: figures.measure(targets.TARGETS["cpu"], 1, models.TINY["tiny"], figures.WAYS[name]) for name in names}


def test_a_step_of_profit_takes_a_second_gradient_and_no_other_state(measured):
    norm, profit = measured["norm"], measured["profit-1"]
    assert (
        profit.parameters == norm.parameters == 4 * sum(x.size for x in models.TINY["tiny"].on(cpu()).params.values())
    )
    # Its second batch and the five numbers of its metrics are all that it is handed besides.
    assert 0 < profit.arguments - norm.arguments < 1000
    # Forward and backward pass loop over four layers each.
    assert (norm.loops, norm.passes) == (2, 8)
    assert (profit.loops, profit.passes) == (4, 16)
    assert profit.conditionals == 0


def test_a_frozen_model_has_state_for_its_adapters_alone():
    lora = models.TINY["tiny-lora"]
    # An A and a B for each of the four dense layers of its one block.
    assert lora.on(cpu()).leaves == 8
    found = figures.measure(targets.TARGETS["cpu"], 1, lora, figures.WAYS["profit-1"])
    # All parameters, the two moments of the adapters, batches and metrics.
    assert found.parameters < found.arguments < 2 * found.parameters


def test_figures_are_found_again_until_the_code_changes(tmp_path, monkeypatch):
    program = Program("h100", 1, "1b", "adamw")
    sent = BASE._replace(collectives={"all-reduce": Sent(3, 12)})
    Store(tmp_path).put(program, sent)
    assert Store(tmp_path).get(program) == sent
    assert Store(tmp_path).get(program._replace(devices=8)) is None
    monkeypatch.setattr(store, "_fingerprint", lambda: {"sources": "others"})
    assert Store(tmp_path).get(program) is None


def test_a_program_that_is_too_large_is_kept_as_such(tmp_path):
    program, large = Program("v5e", 1, "8b", "adamw"), TooLarge(4 * 10**9, 11, 30 * 10**9)
    Store(tmp_path).put(program, large)
    assert Store(tmp_path).get(program) == large
    row = next(line for line in pages.page({program: large}, 9, {}).splitlines() if line.startswith("| AdamW |"))
    assert "does not fit: 7.50 P = 30 GB" in row


def test_the_page_compares_with_adamw_and_tells_branches_from_the_rest():
    worse = BASE._replace(peak=24 * 10**9, fusions=2000, branch_fusions=40, conditionals=1, unknown_loops=1)
    found = {Program("h100", 1, "1b", "adamw"): BASE, Program("h100", 1, "1b", "profit-1"): worse}
    text = pages.page(found, 9, {"jax": "1.2.3"})
    assert "2 of 9 programs; jax 1.2.3" in " ".join(text.split())
    row = next(line for line in text.splitlines() if line.startswith("| profit, n_ref 1 |"))
    assert row.split(" | ")[3:] == ["6.00 P = 24 GB", "1.50", "2,000 (40)", "1,100", "2 / 32*", "1 |"]


def test_collectives_have_columns_where_there_are_several_devices():
    sent = {"all-gather": Sent(7, 5 * 10**9), "reduce-scatter": Sent(2, 10**9), "all-reduce": Sent(1, 10**9)}
    found = {Program("h100", 8, "1b", "adamw"): BASE._replace(collectives=sent, numbers=132)}
    row = next(line for line in pages.page(found, 9, {}).splitlines() if line.startswith("| AdamW |"))
    assert row.endswith("| 7 all-gather, 1 all-reduce, 2 reduce-scatter | 5 GB | 9 GB | 132 B |")


def test_the_first_number_of_devices_that_fits_is_named():
    peaks = {1: 100 * 10**9, 4: 90 * 10**9, 8: 40 * 10**9, 64: 8 * 10**9}
    found = {Program("h100", n, "8b", "adamw"): BASE._replace(peak=peak) for n, peak in peaks.items()}
    found |= {Program("h100", n, "8b", "profit-1"): TooLarge(1, 1, 200 * 10**9) for n in (1, 4)}
    lines = fit.table(found)
    assert lines[1][2:4] == ["8 (50%)", "more than 4"]


def test_the_picture_is_drawn(tmp_path):
    found = {Program("h100", n, "8b", "adamw"): BASE._replace(peak=BASE.peak // n) for n in (1, 8)}
    fit.picture(found, tmp_path / "fit.png")
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")


def test_every_program_of_the_plan_is_known():
    for program in plan.planned((), (), ()):
        assert program.target in targets.TARGETS
        assert program.model in models.MODELS
        assert program.way in figures.WAYS
    # Each model has the bases that others are compared with.
    for target, counts in plan.PLAN.items():
        assert all({"adamw", "norm"} <= set(ways) for by_model in counts.values() for ways in by_model.values()), target


def test_what_a_target_takes_is_said_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"Compiling for TPU v5e, 16 GB takes libtpu: pip install '\.\[targets"
    ):
        targets.devices(targets.TARGETS["v5e"], 8)


def test_slices_that_are_not_made_are_an_error():
    with pytest.raises(ValueError, match="3 chips are no slice of a v5e"):
        targets.TARGETS["v5e"].describe(3)


def test_the_stored_figures_are_those_of_the_page():
    record = json.loads((FOLDER / "programs.json").read_text(encoding="utf-8"))
    found = {Program(**row["program"]): store.read(row["figures"]) for row in record["programs"]}
    planned = len(list(plan.planned((), (), ())))
    assert pages.page(found, planned, record["versions"]) == (FOLDER / "README.md").read_text(encoding="utf-8")
    assert costs.not_as_on_paper(found) == []


# The command with models that take seconds. It sets up devices, and so wants a process of its own.
COMMAND = """
import typer
from benchmarks.scale import models, plan
models.MODELS.update(models.TINY)
from benchmarks.scale import __main__ as scale
plan.PLAN.clear()
plan.PLAN["cpu"] = {1: {"tiny": ("norm", "adamw"), "tiny-lora": ("norm",)}, 2: {"tiny": ("norm",)}}
# Nothing that compiles for it need be installed: it is never asked for.
plan.PLAN["h100"] = {4: {"tiny": ("norm",)}}
typer.run(scale.main)
"""


def test_every_option_of_the_command_changes_what_it_names(tmp_path):
    def run(*options):
        command = [sys.executable, "-c", COMMAND, *options, "--output", str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "1 programs, 1 of them" in run("--counts", "2")
    assert "1 programs, 1 of them" in run("--targets", "cpu", "--models", "tiny-lora")
    assert "4 programs, 2 of them" in run("--targets", "cpu", "--page", str(tmp_path / "pages" / "page.md"))
    before, page = (
        " ".join((tmp_path / name).read_text(encoding="utf-8").split()) for name in ("README.md", "pages/page.md")
    )
    assert "2 of 5 programs" in before
    assert "4 of 5 programs" in page
    assert "## 2 x CPU" in page
    assert {"fit.png", "programs.json"} <= {path.name for path in (tmp_path / "pages").iterdir()}
