"""The toy problem, its methods, its sweep, and the command."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matplotlib.image import imread

from benchmarks.forgetting import runner
from benchmarks.forgetting.experiments.toy import command, report, sweep
from benchmarks.forgetting.experiments.toy.report import constant_errors, grid
from benchmarks.forgetting.experiments.toy.sweep import TABLE, Errors, Plan, Result, Setting, distance
from benchmarks.forgetting.tasks import toy
from benchmarks.forgetting.tasks.toy import decaying_rmsprop, pytorch_rmsprop
from tests.benchmarks.commands import invoke

SIZE = toy.Size(examples=200, held_out=40, width=32, base_steps=1000, base_batch=50)
PLAN = Plan(("tanh",), (4,), (10, 1000), seeds=(0, 1), steps=5, size=SIZE)
EPS = float(np.finfo(np.float32).eps)
METHODS = sweep.METHODS
FULL, HEAD = METHODS["full fine-tuning"], METHODS["head only"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("toy")


@pytest.fixture(scope="module")
def task(store):
    return toy.toy(PLAN.seeds, "tanh", SIZE, store)


@pytest.fixture(scope="module")
def swept(task, store):
    progress = []
    results = sweep.sweep(PLAN, list(METHODS.values()), store, lambda text, parts: progress.append(parts))
    assert sum(progress) == sweep.total(PLAN)
    return results


class TrainedAgainError(Exception):
    """Something ran that was to be found done."""


def training_again(*args):
    raise TrainedAgainError


def params_of(task, seed):
    return jax.tree.map(lambda x: x[seed], task.params)


def test_the_truth_ripples_ten_radians_a_unit():
    points = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, -np.pi / 20]])
    np.testing.assert_allclose(toy.truth(points), [0.0, np.sin(50.0), 1.0], atol=1e-5)


def test_training_examples_are_noisy_and_held_out_ones_are_not():
    train, exact = (toy._toy(jax.random.key(0), 4000, noise) for noise in (1.0, 0.0))
    for examples, held_out, (low, high) in (
        (train.old, exact.old, toy.OLD_SQUARE),
        (train.new, exact.new, toy.NEW_SQUARE),
    ):
        for points in (examples.points, held_out.points):
            assert low <= points.min() < low + 0.1
            assert high - 0.1 < points.max() <= high
        noise = examples.targets - held_out.targets
        assert abs(float(noise.mean())) < 5 / 4000**0.5
        assert float(noise.std()) == pytest.approx(1.0, abs=5 / 8000**0.5)
        np.testing.assert_array_equal(held_out.targets, toy.truth(held_out.points))


def test_the_task_trains_on_noise_and_is_scored_without(task):
    assert np.std(task.data.new.targets - toy.truth(task.data.new.points)) > 0.5
    for square in task.held_out:
        np.testing.assert_allclose(square.targets, toy.truth(square.points), atol=1e-5)


def test_each_seed_trains_on_examples_and_starts_from_a_model_of_its_own(task):
    assert not set(np.asarray(task.train[0])) & set(np.asarray(task.train[1]))
    points = task.data.old.points
    assert not np.array_equal(points[task.train[0]], points[task.train[1]])
    for leaf in jax.tree.leaves(task.params):
        assert not np.array_equal(leaf[0], leaf[1])


def test_batches_hold_the_examples_with_their_indices(task):
    indices, key = task.train[1, :3], jax.random.key(0)
    for batch, square in ((task.batch, task.data.new), (task.old_batch, task.data.old)):
        found = batch(task.data, indices, key)
        np.testing.assert_array_equal(found.points, square.points[indices])
        np.testing.assert_array_equal(found.targets, square.targets[indices])


def test_scores_are_negated_mean_squared_errors(task):
    held_out = jax.tree.map(lambda x: x[1], task.held_out)
    scores = task.evaluate(params_of(task, 1), task.data, held_out)
    for score, square in zip(scores, held_out, strict=True):
        outputs = task.outputs(params_of(task, 1), square)
        expected = -np.mean((np.asarray(outputs) - np.asarray(square.targets)) ** 2)
        assert float(score) == pytest.approx(expected, rel=1e-5)


def test_the_old_model_learns_the_old_square(task):
    for seed in range(2):
        examples = jax.tree.map(lambda x, seed=seed: x[task.train[seed]], task.data.old)
        assert task.loss(params_of(task, seed), examples) < 0.8 * np.var(examples.targets)


def test_the_network_starts_as_pytorch_does():
    model = toy.Model(jnp.tanh, width=400)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2)))["params"]
    assert sorted(params) == ["Dense_0", "Dense_1", "LayerNorm_0", "LayerNorm_1", "head"]
    for layer, inputs in (("Dense_0", 2), ("Dense_1", 400), ("head", 400)):
        for name in ("kernel", "bias")[: 1 if layer == "head" else 2]:
            values = np.asarray(params[layer][name])
            assert 0.97 * inputs**-0.5 < np.abs(values).max() <= inputs**-0.5
            assert values.min() < -0.9 * inputs**-0.5


def test_layernorm_precedes_the_activation():
    seen = []
    model = toy.Model(lambda x: seen.append(x) or x, width=30)
    model.init(jax.random.key(0), jnp.ones((2, 2)))
    assert len(seen) == 2
    for x in seen:
        np.testing.assert_allclose(x.mean(axis=-1), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(axis=-1), 1, atol=1e-2)


def test_old_models_are_trained_once_where_they_are_kept(task, store, monkeypatch):
    monkeypatch.setattr(toy, "_old_model", training_again)
    again = toy.toy((1, 0), "tanh", SIZE, store)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[::-1]), task.params, again.params)
    np.testing.assert_array_equal(task.data.new.targets[task.train[1]], again.data.new.targets[again.train[0]])
    for other in ({"seeds": (7,)}, {"activation": "relu"}, {"size": SIZE._replace(base_steps=31)}):
        with pytest.raises(TrainedAgainError):
            toy.toy(**{"seeds": (0, 1), "activation": "tanh", "size": SIZE, "store": store, **other})


def test_rmsprop_is_that_of_pytorch():
    gradients, params, square = np.array([1e-7, -2.0, 3e-8]), 1.0, 0.0
    tx = pytorch_rmsprop(0.1)
    x, state = jnp.float32(params), tx.init(jnp.float32(params))
    for g in gradients:
        updates, state = tx.update(jnp.float32(g), state, x)
        x = optax.apply_updates(x, updates)
        square = 0.99 * square + 0.01 * g**2
        params -= 0.1 * g / (np.sqrt(square) + 1e-8)
    assert float(x) == pytest.approx(params, rel=16 * EPS)


def test_the_rate_falls_every_hundred_steps():
    tx = decaying_rmsprop(0.1)
    _, updates = jax.lax.scan(lambda state, _: tx.update(jnp.ones(()), state)[::-1], tx.init(jnp.ones(())), length=301)
    steps = np.arange(301)
    expected = -0.1 * 0.95 ** (steps // 100) / np.sqrt(1 - 0.99 ** (steps + 1.0))
    # Where a hundred begins, a float32 quotient may fall to either side of the whole number.
    inside = steps % 100 > 0
    np.testing.assert_allclose(updates[inside], expected[inside], rtol=300 * EPS)


def stepped(method, task, batches, ratio=10.0):
    """Parameters to evaluate after one step of a method from seed 0's model."""
    params, tx = params_of(task, 0), method.optimizer({"rate": 1e-2, "ratio": ratio, "task": task})

    @jax.jit
    def step(params, state, batches):
        params, state = method.step(tx, jax.value_and_grad(task.loss), params, state, batches)
        return method.eval_params(state, params)

    return step(params, tx.init(params), batches)


def two_batches(task):
    return jax.vmap(lambda indices: task.batch(task.data, indices, None))(task.train[0, :20].reshape(2, 10))


def test_head_only_moves_the_head_only(task):
    batches = jax.tree.map(lambda x: x[:1], two_batches(task))
    moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), params_of(task, 0), stepped(HEAD, task, batches))
    assert {path[1].key for path, it_did in jax.tree.leaves_with_path(moved) if it_did} == {"head"}
    full = stepped(FULL, task, batches)
    jax.tree.map(
        np.testing.assert_array_equal,
        full["params"]["head"],
        stepped(HEAD, task, batches)["params"]["head"],
    )


def test_subtracting_loses_a_small_displacement_and_accumulating_does_not(task):
    batches = two_batches(task)
    second = jax.tree.map(lambda x: x[1:], batches)
    plain = stepped(FULL, task, second)
    lost, kept = (stepped(METHODS[name], task, batches, 1e9) for name in ("PROFIT, subtracting", "PROFIT"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), lost, plain)
    assert not np.allclose(kept["params"]["head"]["kernel"], plain["params"]["head"]["kernel"], atol=1e-4)


def test_the_best_constant_is_the_mean_of_its_square():
    found = constant_errors()
    for error, examples in zip(found, toy._toy(jax.random.key(1), 40_000, noise=0.0), strict=True):
        # Five standard errors of a mean of squares that are below 1.2.
        assert error == pytest.approx(float(np.var(examples.targets)), abs=5 * 1.2 / 40_000**0.5)


def test_factors_and_distances_are_ratios_to_the_paper():
    paper = TABLE["PROFIT"]
    for errors, off in (
        (paper, 1),
        (Errors(paper.old / 3, paper.new * 2), pytest.approx(3)),
        (Errors(float("nan"), paper.new), float("inf")),
        (Errors(float("inf"), paper.new), float("inf")),
    ):
        assert Result("relu", 64, 10.0, "PROFIT, subtracting", *np.transpose([errors])).off == off
    assert distance(TABLE) == 0
    doubled = {row: Errors(2 * errors.old, errors.new) for row, errors in TABLE.items()}
    assert distance(doubled) == pytest.approx(np.log(2) / 2)


def test_a_sweep_has_every_row_at_every_setting(swept):
    found = [(result.batch, result.ratio, result.row) for result in swept]
    assert sorted(found, key=str) == sorted(
        [
            (None, None, "before"),
            (4, None, "full fine-tuning"),
            (4, None, "head only"),
            (4, None, "PROFIT one line"),
            *((4, ratio, row) for ratio in (10, 1000) for row in ("PROFIT", "PROFIT, subtracting")),
        ],
        key=str,
    )
    for result in swept:
        assert result.old.shape == result.new.shape == (2,)
        assert np.min([result.old, result.new]) > 0
    assert len({result.errors for result in swept}) == len(swept)


def test_a_sweep_that_is_done_is_not_run_again(swept, store, monkeypatch):
    monkeypatch.setattr(runner, "_run_trial", training_again)
    monkeypatch.setattr(toy, "_old_model", training_again)
    again = sweep.sweep(PLAN, list(METHODS.values()), store)
    assert [result.errors for result in again] == [result.errors for result in swept]


def test_predictions_are_those_of_the_first_seeds_models(task, store):
    points = grid(7)
    found = sweep.predictions(Setting("tanh", 4, 10.0, "PROFIT"), PLAN, [FULL], store, points)
    assert list(found) == ["before", "full fine-tuning"]
    expected = task.outputs(params_of(task, 0), toy.Examples(points, None))
    np.testing.assert_allclose(found["before"], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found["full fine-tuning"] - found["before"]).max() > 1e-4


def made_up(profit):
    """Results that are the paper's, but for PROFIT's."""

    def result(batch, ratio, row, errors):
        return Result("relu", batch, ratio, row, *(np.full(2, error) for error in errors))

    rows = [
        result(None if row == "before" else 64, None, row, errors) for row, errors in TABLE.items() if row != "PROFIT"
    ]
    for ratio, errors in profit.items():
        rows += [result(64, ratio, "PROFIT", errors), result(64, ratio, "PROFIT, subtracting", Errors(1.0, 1.0))]
    rows.append(result(64, None, "PROFIT one line", Errors(2.0, 3.0)))
    return rows


def test_the_nearest_setting_is_the_one_with_the_least_distance():
    results = made_up({10.0: Errors(0.5, 0.5), 100.0: Errors(0.05, 0.5)})
    assert sweep.nearest(results) == Setting("relu", 64, 100.0, "PROFIT")
    results = made_up({10.0: Errors(float("nan"), 0.5), 100.0: Errors(9.0, 9.0)})
    assert sweep.nearest(results) == Setting("relu", 64, 10.0, "PROFIT, subtracting")


def test_the_report_says_what_comes_near_and_what_does_not():
    results = made_up({10.0: Errors(0.5, 0.5), 100.0: Errors(0.05, 0.5)})
    said = dict(line.split(": ", 1) for line in report.sentences(results))
    assert said["before"].startswith("1 of 1 settings come near the paper's 0.0054 / 1.907 (relu).")
    assert said["PROFIT"] == (
        "1 of 2 settings come near the paper's 0.046 / 0.501 (relu, batch 64, ratio 100). Nearest: 0.05 / 0.5 at relu,"
        " batch 64, ratio 100, off by a factor of 1.09."
    )
    assert said["PROFIT, subtracting"].startswith("0 of 2 settings come near the paper's 0.046 / 0.501. Nearest: 1 / 1")
    rows = report._profit_rows(results)
    assert "| relu | 64 | 10 | 0.5 / 0.5 | 10.9 | 1 / 1 | 21.7 |" in rows
    assert "| relu | 64 | 100 | **0.05 / 0.5** | 1.09 | 1 / 1 | 21.7 |" in rows


def test_rows_that_were_not_run_are_not_reported():
    results = [result for result in made_up({10.0: Errors(0.5, 0.5)}) if result.row in ("before", "PROFIT")]
    assert sweep.nearest(results) == Setting("relu", 64, 10.0, "PROFIT")
    assert [line.split(":")[0] for line in report.sentences(results)] == ["before", "PROFIT"]
    assert report._rows_without_ratio(results)[0] == "| activation | batch | before |"
    assert report._profit_rows(results)[0] == "| activation | batch | ratio | PROFIT | off |"


def test_the_command_reports_other_seeds_at_the_nearest_setting(tmp_path, monkeypatch):
    plans = []

    def fake_sweep(plan, methods, store, on_progress):
        plans.append(plan)
        return made_up(
            {10.0: Errors(0.5, 0.5), 100.0: Errors(0.05, 0.5)} if len(plans) == 1 else {100.0: Errors(0.06, 0.6)}
        )

    monkeypatch.setattr(command, "sweep", fake_sweep)
    monkeypatch.setattr(command, "predictions", lambda setting, plan, methods, store, points: {"before": points[:, 0]})
    result = invoke("toy", "--quick", "--output", str(tmp_path))
    assert result.exit_code == 0, result.output
    swept, final = plans
    assert (swept.seeds, final.seeds) == ((100, 101), (0, 1))
    assert (final.activations, final.batches, final.ratios) == (("relu",), (64,), (100,))
    text = (tmp_path / "toy.md").read_text()
    assert text.strip() in result.stdout
    assert "Its numbers mean nothing" in text
    assert "nearest to the paper's four: relu, batch 64, ratio 100" in text
    assert "| PROFIT | 0.06 ± 0 | 0.046 | 0.6 ± 0 | 0.501 | 1.3 |" in text
    assert "| PROFIT one line | 2 ± 0 |  | 3 ± 0 |  |  |" in text
    assert re.search(r"jax [\d.]+, .* CPUs", text)
    assert imread(tmp_path / "toy.png").std() > 0.05
    content = json.loads((tmp_path / "toy.json").read_text())
    assert [len(content["sweep"]), len(content["final"])] == [8, 6]
