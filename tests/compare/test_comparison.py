"""Whole comparisons: paired batches, levels of the baseline's, killed and changed ones, models of every kind."""

import errno
import gc
import itertools
import json
import os
import subprocess
import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from profit_optax import profit
from profit_optax.compare import METHODS, CompareError, Method, compare, from_optimizer, runner
from profit_optax.compare.comparison import Comparison
from tests.compare.lines import DATA, evaluate, lines, loader, loss
from tests.compare.test_methods import FULL
from tests.integrations.pure import as_pure

SIZE = {"rates": [0.05], "gradients": 40, "seeds": 2, "evaluations": 6}


def without_times(tree):
    if isinstance(tree, dict):
        return {name: without_times(value) for name, value in tree.items() if name != "seconds"}
    return [without_times(value) for value in tree] if isinstance(tree, list) else tree


def numbers(folder):
    return without_times(json.loads((folder / "compare.json").read_text()))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All methods on two seeds."""
    folder = tmp_path_factory.mktemp("everything")
    told = []
    result = compare(lines(**FULL), **SIZE, output=folder, on_progress=told.append)
    return result, folder, told


def test_every_method_has_a_row_at_every_rate_and_level(everything):
    result, _, _ = everything
    assert len(result.curves) == len(METHODS)
    assert len(result.rows) == 3 * len(METHODS)
    assert {curve.along for curve in result.curves if curve.method == "WiSE-FT"} == {"alpha"}
    assert [curve.rate for curve in result.curves if curve.method == "SGD"] == [0.05 * 30]
    assert all(row.memory > 0 for row in result.rows)


def test_every_run_has_the_budget_of_gradients_and_the_same_start(everything):
    result, _, _ = everything
    for curve in result.curves:
        assert curve.gradients[-1] == 40
        assert (curve.old[:, 0] == result.about["start"]["old"]).all()
        assert (curve.new[:, 0] == result.about["start"]["new"]).all()


def test_levels_are_shares_of_the_way_that_the_baseline_went(everything):
    result, _, _ = everything
    start = result.about["start"]["new"]
    best = max(curve.new.mean(axis=0).max() for curve in result.curves if curve.method == "AdamW")
    np.testing.assert_allclose(result.levels, [start + share * (best - start) for share in (0.8, 0.9, 0.95)])
    alone = compare(lines(), ["adamw"], **SIZE)
    assert alone.levels == result.levels


def test_all_is_written_and_read_again(everything):
    result, folder, _ = everything
    content = json.loads((folder / "compare.json").read_text())
    assert content["advice"] == result.advice()
    assert len(content["rows"]) == len(result.rows)
    assert content["versions"].keys() >= {"python", "profit-optax", "jax", "optax"}
    assert content["machine"]
    assert content["fingerprint"].keys() >= {"params", "batches", "gradients", "version of jax"}
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_progress_adds_up_and_ends_with_rows(everything):
    _, _, told = everything
    assert told[-1].gradients == told[-1].total
    assert all(later.gradients >= earlier.gradients for earlier, later in itertools.pairwise(told))
    assert not told[0].rows
    assert {row.method for row in told[-1].rows} >= {"AdamW", "PROFIT"}


def test_the_table_of_raw_scores_is_not_much_wider_than_a_terminal_and_says_what_was_not_reached(everything):
    result, _, _ = everything
    text = result.table()
    assert max(map(len, text.splitlines())) <= 96
    assert all(method in text for method in ("AdamW x2", "WiSE-FT", "EWC 1000"))
    high = Comparison(result.rows, result.curves, result.levels, result.baseline, result.about)
    assert high.table() == text
    unreachable = compare(lines(), ["adamw", "sgd"], **SIZE, levels=[1.0])
    assert "not reached: 2/2" in unreachable.table()
    assert unreachable.advice().startswith("No advice")


def test_a_repetition_is_the_same_to_the_bit_and_takes_nothing_again(monkeypatch, tmp_path):
    few = {"methods": ["adamw", "wise_ft", "ema"], "rates": [0.02], "gradients": 20, "seeds": 2}
    compare(lines(), **few, output=tmp_path / "one")
    compare(lines(), **few, output=tmp_path / "two")
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")
    monkeypatch.setattr("profit_optax.compare.comparison.train", None)
    compare(lines(), **few, output=tmp_path / "two")
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")


def test_methods_rates_and_seeds_can_be_added(tmp_path, monkeypatch):
    compare(lines(), ["adamw"], rates=[0.02], gradients=20, seeds=2, output=tmp_path)
    trained = []
    real = runner.train
    monkeypatch.setattr(
        "profit_optax.compare.comparison.train",
        lambda task, method, program, rate, seed, *rest, **options: (
            trained.append((method.name, rate, seed)) or real(task, method, program, rate, seed, *rest, **options)
        ),
    )
    more = compare(lines(), ["adamw", "ema"], rates=[0.02, 0.05], gradients=20, seeds=3, output=tmp_path)
    assert ("AdamW", 0.02, 0) not in trained
    assert len(trained) == 2 * 2 * 3 - 2
    fresh = compare(lines(), ["adamw", "ema"], rates=[0.02, 0.05], gradients=20, seeds=3)
    for found, expected in zip(more.curves, fresh.curves, strict=True):
        np.testing.assert_array_equal(found.new, expected.new)


@pytest.mark.parametrize(
    ("task", "method", "words"),
    [
        ({"head": {"v": True}}, "head_first", r"head first cannot take a step: ValueError: head must have what"),
        (
            {"outputs": lambda params, batch: batch["logits"]},
            "lwf",
            r"outputs cannot .* KeyError: 'logits' \(.*test_comp",
        ),
        (
            {"old_batches": lambda seed: [{"x": DATA["x"]}]},
            "ewc",
            r"loss cannot take one of old_batches: KeyError: 'y'",
        ),
        ({"old_batches": lambda seed: 1 / 0}, "ewc", r"old_batches\(0\) raised ZeroDivisionError"),
    ],
)
def test_what_a_method_cannot_take_is_said_before_any_other_trains(task, method, words, monkeypatch):
    monkeypatch.setattr("profit_optax.compare.comparison.train", None)
    with pytest.raises(CompareError, match=words):
        compare(lines(**task), ["adamw", method], rates=[0.02], gradients=10)


def test_methods_that_wait_hold_no_arrays(monkeypatch):
    held = []

    def scored(task, params, *rest):
        gc.collect()  # What earlier comparisons left in cycles.
        held.append(len(jax.live_arrays()))
        return evaluate(params)

    monkeypatch.setattr("profit_optax.compare.comparison.scored", scored)
    monkeypatch.setattr("profit_optax.compare.comparison.train", None)
    task = lines()
    for methods in (["adamw"], ["adamw", "profit", "one_line", "sgd", "l2_sp", "ema"]):
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            compare(task, methods, rates=[0.02], gradients=10)
    assert held[0] == held[1]


def other_loss(params, batch):
    return 2 * loss(params, batch)


def other_evaluate(params):
    return {name: value - 1 for name, value in evaluate(params).items()}


@pytest.mark.parametrize(
    ("task", "size", "words"),
    [
        ({"params": {"w": jnp.array([1.0, -1.5])}}, {}, "params: was"),
        ({"batches": DATA | {"y": DATA["y"] + 1}}, {}, "batches: was"),
        ({"batch_size": 3}, {}, "batch_size: was 4, is 3"),
        ({"loss": other_loss}, {}, "program of AdamW at rate 0.02: was"),
        ({"evaluate": other_evaluate}, {}, "evaluate: was"),
        ({}, {"gradients": 30}, "gradients: was 20, is 30"),
        ({}, {"methods": [from_optimizer("AdamW", lambda rate: optax.adamw(rate, b1=0.8))]}, "program of AdamW"),
    ],
)
def test_what_changed_is_said(tmp_path, task, size, words):
    usual = {"methods": ["adamw"], "rates": [0.02], "gradients": 20, "seeds": 2, "output": tmp_path}
    compare(lines(), **usual)
    with pytest.raises(CompareError, match=words):
        compare(lines(**task), **(usual | size))


HELD_OUT = np.array([1.5, -0.5])


def to_held_out(params):
    return -float(np.linalg.norm(np.asarray(params["w"]) - HELD_OUT))


def held_out(params):
    return {"old": 0.0, "new": to_held_out(params)}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HELD_OUT", np.array([1.5, -0.4]), "arrays that evaluate reads: was"),
        ("to_held_out", lambda params: -float(abs(params["w"][0])), "functions that evaluate reads: was"),
    ],
)
def test_what_the_scorer_reads_belongs_to_it(tmp_path, monkeypatch, name, value, words):
    usual = {"methods": ["adamw"], "rates": [0.02], "gradients": 4, "seeds": 2, "output": tmp_path}
    compare(lines(evaluate=held_out), **usual)
    monkeypatch.setitem(globals(), name, value)
    with pytest.raises(CompareError, match=words):
        compare(lines(evaluate=held_out), **usual)


class Scorer:
    """Data of its own, and how often it was asked."""

    def __init__(self, held_out, scale=1.0):
        self.held_out, self.scale, self.asked = held_out, scale, 0

    def __call__(self, params):
        self.asked += 1
        return {"old": 0.0, "new": -self.scale * float(np.linalg.norm(np.asarray(params["w"]) - self.held_out))}

    def score(self, params):
        return self(params)


@pytest.mark.parametrize("scores", [lambda scorer: scorer, lambda scorer: scorer.score], ids=["object", "method"])
def test_what_an_object_scores_with_belongs_to_it(tmp_path, scores):
    usual = {"methods": ["adamw"], "rates": [0.02], "gradients": 4, "seeds": 2, "output": tmp_path}
    scorer = Scorer(HELD_OUT)
    first, again = (compare(lines(evaluate=scores(scorer)), **usual) for _ in range(2))
    assert again.levels == first.levels
    scaled = r"numbers that evaluate reads: was .*scale=1\.0, is .*scale=2\.0"
    for other, words in ((HELD_OUT + 0.1, 1.0), "arrays that evaluate reads: was"), ((HELD_OUT, 2.0), scaled):
        with pytest.raises(CompareError, match=words):
            compare(lines(evaluate=scores(Scorer(*other))), **usual)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_old_data_belong_to_the_comparison(tmp_path, shift):
    usual = {"methods": ["adamw", "ewc"], "rates": [0.02], "gradients": 4, "seeds": 2, "output": tmp_path}
    compare(lines(old_batches=loader), **usual)
    other = lines(old_batches=lambda seed: ({**batch, "y": batch["y"] + shift} for batch in loader(seed)))
    if not shift:
        compare(other, **usual)
        return
    with pytest.raises(CompareError, match="first of old_batches: was"):
        compare(other, **usual)


def test_how_a_method_is_evaluated_belongs_to_it(tmp_path):
    usual = {"rates": [0.02], "gradients": 4, "seeds": 2, "output": tmp_path}

    def method(share):
        def eval_params(state, params):
            return jax.tree.map(lambda p: share * p, params)

        return from_optimizer("mine", optax.sgd, eval_params=eval_params)

    compare(lines(), ["adamw", method(1.0)], **usual)
    with pytest.raises(CompareError, match="numbers that mine is evaluated with: was"):
        compare(lines(), ["adamw", method(0.5)], **usual)


def test_a_changed_version_is_said(tmp_path, monkeypatch):
    usual = {"methods": ["adamw"], "rates": [0.02], "gradients": 20, "seeds": 2, "output": tmp_path}
    compare(lines(), **usual)
    monkeypatch.setattr("profit_optax.compare.comparison.versions", lambda: {"profit-optax": "0.0.1"})
    with pytest.raises(CompareError, match=r"version of profit-optax: was .*, is 0\.0\.1"):
        compare(lines(), **usual)


def test_a_method_that_diverges_keeps_what_was_finished(tmp_path):
    usual = {"rates": [0.02], "gradients": 20, "seeds": 2, "output": tmp_path}
    with pytest.raises(CompareError, match="not finite with huge"):
        compare(lines(), ["adamw", from_optimizer("huge", lambda rate: optax.sgd(1e38))], **usual)
    assert len(list((tmp_path / "runs").glob("AdamW*.json"))) == 2
    assert len(compare(lines(), ["adamw"], **usual).curves) == 1


def test_a_baseline_that_learns_nothing_is_an_error():
    with pytest.raises(CompareError, match="did not learn"):
        compare(lines(), [from_optimizer("still", optax.sgd)], rates=[1e-30], gradients=10)


def test_seeds_that_do_not_matter_are_an_error():
    with pytest.raises(CompareError, match="same first batch"):
        compare(lines(lambda seed: loader(0)), ["adamw"], rates=[0.02], gradients=10)


def test_a_loader_that_does_not_follow_its_seed_is_an_error():
    order = np.random.default_rng()
    with pytest.raises(CompareError, match=r"batches\(0\) begins with another batch the second time"):
        compare(lines(lambda seed: loader(int(order.integers(2**32)))), ["adamw"], rates=[0.02], gradients=10)


def test_what_raised_at_the_start_may_be_mended_in_the_same_folder(tmp_path):
    def raising(params):
        raise RuntimeError("a typo")

    usual = {"methods": ["adamw"], "rates": [0.02], "seeds": 2, "output": tmp_path}
    with pytest.raises(CompareError, match=r"evaluate raised RuntimeError: a typo .* start the same comparison again"):
        compare(lines(evaluate=raising), gradients=20, **usual)
    mended = compare(lines(), gradients=8, **usual)
    assert mended.curves[0].gradients[-1] == 8
    with pytest.raises(CompareError, match="gradients: was 8, is 20"):
        compare(lines(), gradients=20, **usual)


def test_a_scorer_that_raises_later_cannot_be_another_one(tmp_path):
    scored = []

    def raising_later(params):
        scored.append(params)
        return evaluate(params) if len(scored) < 3 else {"old": 1 / 0}

    usual = {"methods": ["adamw"], "rates": [0.02], "gradients": 20, "seeds": 2, "output": tmp_path}
    with pytest.raises(CompareError, match=r"ZeroDivisionError.* with another `evaluate`, one in another folder"):
        compare(lines(evaluate=raising_later), **usual)
    with pytest.raises(CompareError, match="evaluate: was"):
        compare(lines(), **usual)


def test_levels_stay_where_they_are_when_rates_are_added(tmp_path):
    usual = {"gradients": 20, "seeds": 2, "output": tmp_path}
    first = compare(lines(), ["adamw", "sgd"], rates=[0.002], **usual)
    more = compare(lines(), ["adamw", "sgd"], rates=[0.002, 0.02], **usual)
    best = [max(each.new.max() for each in result.curves if each.method == "AdamW") for result in (first, more)]
    assert best[1] > best[0]
    assert more.levels == first.levels
    # Those of another baseline are its own.
    assert compare(lines(), ["sgd", "adamw"], rates=[0.002, 0.02], **usual).levels != first.levels


def test_a_full_disk_is_said_and_what_was_finished_is_gone_on_from(tmp_path, monkeypatch):
    usual = {"methods": ["adamw", "sgd"], "rates": [0.02], "gradients": 20, "seeds": 2}
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(descriptor)
        if len(synced) == 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr("profit_optax.compare.store.os.fsync", fsync)
    with pytest.raises(CompareError, match=r"cannot be written: No space left on device.* start the same"):
        compare(lines(), output=tmp_path / "full", **usual)
    assert list((tmp_path / "full" / "runs").glob("*finished*.json"))
    again, undisturbed = (compare(lines(), output=tmp_path / name, **usual) for name in ("full", "empty"))
    for one, other in zip(again.curves, undisturbed.curves, strict=True):
        np.testing.assert_array_equal(one.new, other.new)


@pytest.mark.parametrize("error", [ValueError("no labels"), CompareError("no labels")])
def test_what_a_method_cannot_keep_is_one_error(error):
    def keep(task):
        raise error

    method = Method("mine", lambda setting: optax.sgd(setting.rate), keep=keep, loss=lambda task, kept: task.loss)
    with pytest.raises(CompareError, match="no labels"):
        compare(lines(), ["adamw", method], rates=[0.02], gradients=10)


def test_a_program_that_cannot_be_compiled_is_named(monkeypatch):
    def failing(self):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr("profit_optax.compare.runner.Program.compile", failing)
    with pytest.raises(CompareError, match="AdamW cannot be compiled: RESOURCE_EXHAUSTED"):
        compare(lines(), ["adamw"], rates=[0.02], gradients=10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": lambda params, batch: params["w"]}, r"loss must return a scalar, got shape \(2,\): take the mean"),
        ({"loss": lambda params, batch: params["v"]}, r"loss cannot take a batch: KeyError: 'v' \(.*, line \d+\)"),
    ],
)
def test_what_is_no_loss_is_said_before_any_method_is(changes, words):
    with pytest.raises(CompareError, match=words):
        compare(lines(**changes), ["adamw"], rates=[0.02], gradients=10)


def test_a_closure_that_is_not_declared_is_a_remedy():
    undeclared = from_optimizer("mine", lambda rate: profit(optax.adamw(rate), optax.sgd(rate / 10)))
    other_n_ref = from_optimizer(
        "mine", lambda rate: profit(optax.adamw(rate), optax.sgd(rate / 10), 3), gradients=2, closure=True
    )
    for method, words in (
        (undeclared, "Give its Method closure=True"),
        (other_n_ref, r"gradients, 2, must be n_ref \+ 1"),
    ):
        with pytest.raises(CompareError, match=words):
            compare(lines(), [method], rates=[0.02], gradients=10)


def test_a_method_that_cannot_be_built_is_named():
    missing = from_optimizer("mine", lambda rate: __import__("profit_optax").profit_adamw(rate))
    with pytest.raises(CompareError, match=r"mine cannot take a step: .*value_and_grad_fn"):
        compare(lines(), [missing], rates=[0.02], gradients=10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rates": []}, "rates must be"),
        ({"rates": [0.1, 0.1]}, "rates must be"),
        ({"rates": [-1.0]}, "rates must be"),
        ({"rates": "fast"}, r"rates must be .* such as \[1e-4, 3e-4\], got 'fast'"),
        ({"methods": [optax.sgd(0.1)]}, "got GradientTransformationExtraArgs. Make one of it: from_optimizer"),
        ({"methods": [METHODS["adamw"]]}, "got function. Make one of it: call it"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"gradients": 1, "methods": ["profit"]}, "gradients must be at least 2"),
        ({"evaluations": 0}, "evaluations must be"),
        ({"levels": []}, "levels must be"),
        ({"levels": [float("nan")]}, "levels must be"),
        ({"levels": "high"}, "levels must be finite scores, at least one, such as .*, got 'high'"),
    ],
)
def test_arguments_that_make_no_comparison(changes, words):
    with pytest.raises(ValueError, match=words):
        compare(lines(), **({"methods": ["adamw"], "rates": [0.1], "gradients": 10} | changes))


def test_arguments_of_another_type_are_named():
    with pytest.raises(TypeError, match="task must be a Task, got NoneType"):
        compare(None, rates=[0.1], gradients=10)
    with pytest.raises(TypeError, match=r"gradients must be a whole number, got 1\.5"):
        compare(lines(), ["adamw"], rates=[0.1], gradients=1.5)


def test_a_method_in_a_few_lines_follows_another():
    half = METHODS["wise_ft"](of=METHODS["profit"](), alphas=(0.5, 1.0))
    result = compare(lines(), ["adamw", half], rates=[0.05], gradients=40, seeds=2)
    assert [curve.method for curve in result.curves] == ["AdamW", "WiSE-FT of PROFIT"]
    own = Method("signs", lambda setting: optax.sign_sgd(setting.rate))
    assert len(compare(lines(), ["adamw", own], rates=[0.05], gradients=40, seeds=2).curves) == 2


def linen():
    model = nn.Dense(1)
    params = model.init(jax.random.key(0), DATA["x"])
    return params, lambda params, x: model.apply(params, x)[:, 0]


def nnx_pure():
    graphdef, params = nnx.split(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nnx.Param)
    return as_pure(params), lambda params, x: nnx.merge(graphdef, params)(x)[:, 0]


class Normalised(nnx.Module):
    """Something beside parameters: statistics, and a state of randomness."""

    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(2, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, deterministic=True, rngs=rngs)
        self.linear = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.linear(self.dropout(self.norm(x)))


def nnx_state():
    graphdef, params, rest = nnx.split(Normalised(nnx.Rngs(0)), nnx.Param, ...)
    return params, lambda params, x: nnx.merge(graphdef, params, rest)(x)[:, 0]


def equinox():
    params, static = eqx.partition(eqx.nn.MLP(2, "scalar", 4, 1, key=jax.random.key(0)), eqx.is_inexact_array)
    return params, lambda params, x: jax.vmap(eqx.combine(params, static))(x)


@pytest.mark.parametrize("library", [linen, nnx_pure, nnx_state, equinox])
def test_parameters_of_every_library(library, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_EVERY", 0.0)
    params, apply = library()

    def loss(params, batch):
        return jnp.mean((apply(params, batch["x"]) - batch["y"]) ** 2)

    def evaluate(params):
        return {"old": -float(jnp.mean(apply(params, DATA["x"]) ** 2)), "new": -float(loss(params, DATA))}

    task = lines(params=params, loss=loss, evaluate=evaluate)
    methods = ["profit", "l2_sp", "wise_ft"]
    result = compare(task, methods, rates=[0.02], gradients=20, seeds=2, output=tmp_path)
    assert all(curve.new[:, -1].mean() > curve.new[:, 0].mean() for curve in result.curves)


KILLED = """
import time
from profit_optax.compare import runner
from tests.compare.lines import DATA, evaluate as score, lines

runner.SAVE_EVERY = 0.0

def evaluate(params):
    time.sleep(0.02)
    return score(params)

task = lines(evaluate=evaluate)
"""

# `make kills` takes more.
KILLS = int(os.environ.get("PROFIT_KILLS", "3"))

# Starts the command as often as it takes in processes of their own, which share what the imports cost: they are forked
# before JAX has a device or a thread.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from profit_optax.compare.command import run

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
options = "--methods adamw,profit,wise_ft --rates 0.02 --gradients 20 --seeds 2 --evaluations 12".split()

def started(output):
    process = os.fork()
    if process:
        return process
    sys.argv = ["compare", f"{folder / 'mine.py'}:task", "--output", str(folder / output), *options]
    try:
        run()
    except SystemExit as end:
        os._exit(end.code or 0)
    finally:
        os._exit(1)

def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

def saved():
    times = [0]
    for path in (folder / "killed").glob("runs/*.npz"):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:  # It was taken away meanwhile.
            pass
    return max(times)

def within_a_run(process):
    before = saved()
    while saved() <= before:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)

begin = time.monotonic()
assert ended(started("undisturbed")) == 0
duration, rng, lives, killed, resumed = time.monotonic() - begin, random.Random(0), 0, 0, 0
while killed < kills:
    process, lives = started("killed"), lives + 1
    # In turns soon after a run has saved itself, and anywhere.
    if lives % 2 == 0:
        time.sleep(rng.uniform(0, duration))
    else:
        within_a_run(process)
        time.sleep(rng.uniform(0, 0.05))
    os.kill(process, signal.SIGKILL)
    killed += ended(process) == -signal.SIGKILL
    resumed += saved() > 0
assert ended(started("killed")) == 0
print(json.dumps({"killed": killed, "resumed": resumed}))
"""


def test_a_comparison_killed_at_random_moments_ends_to_the_bit_where_an_undisturbed_one_does(tmp_path):
    (tmp_path / "mine.py").write_text(KILLED)
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] == KILLS
    assert told["resumed"], "it was never killed within a run"
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "undisturbed")
