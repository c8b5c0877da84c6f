"""Motion forecasting: how trajectories are split, what errors are, what is trained, and the command."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from typer.testing import CliRunner

from benchmarks.forgetting.__main__ import app
from benchmarks.forgetting.experiments.motion import METHODS, after_encoder
from benchmarks.forgetting.tasks.arrays import ArraysError
from benchmarks.forgetting.tasks.motion import task as task_module
from benchmarks.forgetting.tasks.motion.network import ENCODER, Forecaster, Futures
from benchmarks.forgetting.tasks.motion.task import (
    Recipe,
    best_of,
    constant_velocity,
    init_params,
    make_loss,
    motion,
    train_old,
)
from benchmarks.forgetting.tasks.motion.windows import SOURCES, load, split
from tests.benchmarks.parts import assert_moves_nothing_outside

RECIPE = Recipe(steps=400, batch=16, width=8)


def straight(count, speed, seed=0):
    """Windows of agents that go straight on along x, each a little faster or slower."""
    speeds = speed * np.random.default_rng(seed).uniform(0.8, 1.2, (count, 1))
    along = speeds * 0.4 * np.arange(-7, 13)
    return np.stack([along, np.zeros_like(along)], axis=-1).astype(np.float32)


def write_windows(path, count=200):
    speeds = {name: 1 + 4 * (who == "vehicles") for who, names in SOURCES.items() for name in names}
    np.savez(path, **{name: straight(count, speed) for name, speed in speeds.items()})


def test_parts_are_in_the_order_of_recording_with_gaps_between_them():
    windows = np.arange(1000.0)
    train, held_out, test = split(windows)
    assert (len(train), len(held_out), len(test)) == (700, 80, 180)
    assert held_out[0] - train[-1] == 21
    assert test[0] - held_out[-1] == 21
    assert test[-1] == 999


def test_a_file_without_a_source_is_an_error_that_names_it(tmp_path):
    write_windows(tmp_path / "windows.npz")
    assert {who: len(part.train) for who, part in load(tmp_path / "windows.npz").items()} == {
        "vehicles": 5 * 140,
        "pedestrians": 3 * 140,
    }
    np.savez(tmp_path / "less.npz", **{"SDD Car": straight(10, 1)})
    with pytest.raises(ArraysError, match="has no 'VRU cyclists'"):
        load(tmp_path / "less.npz")


def test_errors_are_of_the_future_that_is_nearest_on_average_and_of_the_one_that_ends_nearest():
    truth = jnp.zeros((1, 12, 2))
    near_on_average = truth.at[0, -1].set(jnp.array([3.0, 4.0]))  # 5 m off at the end, 0 before
    near_at_the_end = truth.at[0, :-1, 0].set(2.0)
    found = best_of(Futures(jnp.stack([near_on_average, near_at_the_end], axis=1), jnp.zeros((1, 2))), truth)
    assert float(found.ade) == pytest.approx(5 / 12)
    assert float(found.fde) == 0


def test_constant_velocity_is_right_about_who_goes_straight_on():
    windows = straight(5, 3.0)
    assert float(constant_velocity(windows).fde) == pytest.approx(0, abs=1e-4)
    windows[:, -1, 1] += 2
    assert float(constant_velocity(windows).fde) == pytest.approx(2, rel=1e-4)


def test_the_loss_is_that_of_the_nearest_future_and_of_telling_it():
    network, windows = Forecaster(8), straight(6, 2.0)
    params = init_params(Recipe(width=8))
    futures = network.apply({"params": params}, windows[:, :8])
    distance = np.abs(np.asarray(futures.positions) - windows[:, None, 8:])
    huber = np.where(distance < 1, distance**2 / 2, distance - 0.5).mean(axis=(2, 3))
    logs = np.asarray(jax.nn.log_softmax(futures.logits))[np.arange(6), huber.argmin(axis=1)]
    expected = huber.min(axis=1).mean() - 0.1 * logs.mean()
    assert float(make_loss(network)(params, windows)) == pytest.approx(expected, rel=1e-5)


def test_the_encoder_is_what_the_decoder_remembers_by():
    network, windows = Forecaster(8), straight(3, 2.0)
    params = init_params(Recipe(width=8))
    assert set(ENCODER) < set(params)

    def memory(params):
        return network.apply({"params": params}, windows[:, :8], capture_intermediates=True)[1]["intermediates"]

    slopes = jax.grad(lambda params: jnp.sum(memory(params)["LayerNorm_0"]["__call__"][0] ** 2))(params)
    moved = {name for name, part in slopes.items() if any(np.any(np.asarray(x)) for x in jax.tree.leaves(part))}
    assert moved == set(ENCODER)
    assert after_encoder(params) == {name: name not in moved for name in params}


def test_a_frozen_encoder_is_not_moved():
    windows = split(straight(400, 1.0))
    task = motion("slow", init_params(RECIPE), windows, windows, RECIPE, tuning=False)
    frozen = [method for method in METHODS if method.name.endswith(", encoder frozen")]
    assert [method.name.split(",")[0] for method in frozen] == ["AdamW", "PROFIT"]
    for method in frozen:
        assert_moves_nothing_outside(method, after_encoder(task.params), task)


def test_the_old_model_learns_and_an_old_model_of_another_kind_does_worse():
    slow, fast = (split(straight(400, speed)) for speed in (1.0, 6.0))
    params = train_old(fast, RECIPE)
    task = motion("slow", params, fast, slow, RECIPE, tuning=False)
    start, end = (task.evaluate(each) for each in (init_params(RECIPE), params))
    assert end["old"] > 0.5 * start["old"]
    assert end["old"] > task.evaluate(train_old(slow, RECIPE))["old"]
    assert set(end) == {"old", "new", "old fde", "new fde"}
    assert max(end.values()) < 0


def test_a_seed_trains_on_its_own_half_and_is_scored_on_other_windows():
    new, old = split(straight(400, 1.0)), split(straight(400, 6.0))
    task = motion("slow", init_params(RECIPE), old, new, RECIPE, tuning=False)
    halves = []
    for seed in (0, 1):
        epoch = np.concatenate(list(itertools.islice(task.batches(seed), 140 // 16)))
        halves.append({window.tobytes() for window in epoch})
        assert len(halves[-1]) == 140 // 16 * 16
    assert len(halves[0] & halves[1]) < 100
    scored = {who: motion("slow", task.params, old, new, RECIPE, who == "tuning") for who in ("tuning", "report")}
    network = Forecaster(RECIPE.width)
    for who, parts in (("tuning", (new.held_out, old.held_out)), ("report", (new.test, old.test))):
        expected = {}
        for name, part in zip(("new", "old"), parts, strict=True):
            errors = best_of(network.apply({"params": task.params}, part[:, :8]), part[:, 8:])
            expected |= {name: -float(errors.ade), f"{name} fde": -float(errors.fde)}
        assert scored[who].evaluate(task.params) == pytest.approx(expected, rel=1e-5)
        assert len(set(expected.values())) == 4


class Straight(nn.Module):
    """Two futures, linear in the past, which compile in no time."""

    width: int

    @nn.compact
    def __call__(self, past):
        x = nn.Dense(self.width)(past.reshape(len(past), -1))
        outputs = nn.Dense(2 * 25, name="head")(x).reshape(len(past), 2, 25)
        return Futures(outputs[..., 1:].reshape(len(past), 2, 12, 2), outputs[..., 0])


def test_the_command_reports_errors_and_keeps_the_old_model(tmp_path, monkeypatch):
    monkeypatch.setattr(task_module, "Forecaster", Straight)
    write_windows(tmp_path / "windows.npz", 400)
    arguments = ["motion", "--data", str(tmp_path / "windows.npz"), "--task", "pedestrians", "--quick"]
    arguments += ["--rates", "2e-3", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "motion.md").read_text(encoding="utf-8")
    assert "out of 2e-3 (" in text
    methods = ["AdamW", "AdamW x4", "PROFIT", "one line", "SGD", "Lookahead", "L2-SP 0.1", "WiSE-FT 0.5 of AdamW"]
    methods += ["head only", "AdamW, encoder frozen", "PROFIT, encoder frozen", "AdamW, a third of the rate"]
    # PROFIT stands beside what takes as many steps, too.
    assert re.findall(r"^\| ([^|]+) \|.* 40 \|", text, re.MULTILINE) == [*methods, "PROFIT"]
    old = next((tmp_path / "out").glob("old*"))
    before = old.stat().st_mtime_ns
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert old.stat().st_mtime_ns == before


def test_the_command_compares_what_is_asked_for_and_a_method_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(task_module, "Forecaster", Straight)
    write_windows(tmp_path / "windows.npz", 400)
    made = 'METHODS["sgd"]()'
    (tmp_path / "own.py").write_text(f"from profit_optax.compare import METHODS\nmine = {made}\nother = 5\n")
    arguments = ["motion", "--data", str(tmp_path / "windows.npz"), "--task", "vehicles", "--quick"]
    arguments += ["--output", str(tmp_path / "out"), "--methods"]
    result = CliRunner().invoke(app, [*arguments, f"AdamW, encoder frozen,AdamW,{tmp_path / 'own.py'}:mine"])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "motion.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([^|]+) \|.* 40 \|", text, re.MULTILINE) == ["AdamW", "AdamW, encoder frozen", "SGD"]
    assert re.findall(r"^\| ([^|]+) \|.* 10 \|", text, re.MULTILINE) == ["AdamW"], "as many steps as PROFIT"
    result = CliRunner().invoke(app, [*arguments, f"AdamW,{tmp_path / 'own.py'}:other"])
    assert "other must be a Method of profit_optax.compare, got int" in result.output
