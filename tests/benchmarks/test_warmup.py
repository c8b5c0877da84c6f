"""Far tasks, the arms of the warm-up experiment, its report, and the command."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from benchmarks.forgetting.experiments.warmup import methods, sentences, summarize, trials, warm_steps
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.tasks.catalogue import TASKS
from benchmarks.forgetting.tasks.far_digits import (
    FAR,
    generated_classes,
    inverted_upside_down,
    permuted_labels,
    permuted_pixels,
)
from tests.benchmarks.commands import invoke

rng = np.random.default_rng(0)
IMAGES, LABELS = rng.uniform(size=(300, 8, 8)), rng.integers(10, size=300)


def test_pixels_are_permuted_in_every_image_alike():
    images, labels = permuted_pixels(np.arange(64.0).reshape(1, 8, 8).repeat(2, axis=0), LABELS[:2])
    np.testing.assert_array_equal(images[0], images[1])
    assert sorted(images[0].ravel()) == list(range(64))
    assert np.mean(images[0].ravel() == np.arange(64)) < 0.1
    np.testing.assert_array_equal(labels, LABELS[:2])


def test_labels_are_permuted_and_none_stays():
    images, labels = permuted_labels(IMAGES, np.arange(10))
    assert images is IMAGES
    assert sorted(labels) == list(range(10))
    assert not np.any(labels == np.arange(10))


def test_images_are_inverted_and_upside_down():
    images, labels = inverted_upside_down(IMAGES, LABELS)
    np.testing.assert_array_equal(images[:, 0, 0], 1 - IMAGES[:, 7, 7])
    np.testing.assert_array_equal(images[:, 7, 2], 1 - IMAGES[:, 0, 5])
    assert labels is LABELS


def test_generated_classes_look_like_pixels_and_can_be_learnt():
    images, labels = generated_classes(np.zeros((1797, 8, 8)), LABELS)
    assert images.shape == (1797, 8, 8)
    assert images.min() == 0
    assert images.max() == pytest.approx(1)
    assert np.bincount(labels).min() > 150
    flat = images.reshape(-1, 64)
    fitted = LogisticRegression(max_iter=500).fit(flat[:1000], labels[:1000])
    assert fitted.score(flat[1000:], labels[1000:]) > 0.8


@pytest.mark.parametrize("kind", FAR)
def test_a_far_task_is_the_digits_transformed(linear_models, kind):
    task = TASKS[kind]([7])
    images, labels = FAR[kind](np.asarray(task.data.upright).reshape(-1, 8, 8), np.asarray(task.data.labels))
    np.testing.assert_allclose(task.data.new_images, images.reshape(-1, 64), atol=1e-6)
    np.testing.assert_array_equal(task.data.new_labels, labels)
    assert task.name == kind


def test_names_tell_the_methods_apart():
    assert len(methods(100)) == 5, "finished runs are found by these names"
    assert list(methods(100)) == list(methods(40))


def test_every_method_is_evaluated_at_equal_steps_and_at_equal_gradients():
    found = trials(list(methods(30).values()), (1e-3, 1e-2), steps=30)
    for trial in found:
        assert 30 in trial.steps
        assert trial.steps[0] == 0
        assert trial.steps[-1] * trial.method.gradients == 60
        assert np.all(np.diff(trial.steps) > 0)
    assert [trial.setting["rate"] for trial in found] == [1e-3, 1e-2] * 5


def loss(params, batch):
    return jnp.sum((params - batch) ** 2 * jnp.array([1.0, 3.0]))


def course(method, steps):
    """Parameters to evaluate after each step on a problem in the plane, whose batches are its targets."""
    setting = method.setting(rate=0.1, ratio=10.0, decay=0.0)
    tx = method.optimizer(setting)

    def step(carry, batches):
        params, state = method.step(tx, jax.value_and_grad(loss), *carry, batches[: method.gradients])
        return (params, state), method.eval_params(state, params)

    params = jnp.array([1.0, -2.0])
    _, found = jax.lax.scan(step, (params, tx.init(params)), jax.random.normal(jax.random.key(0), (steps, 2, 2)))
    return found


def test_a_tenth_of_the_steps_is_adamw_alone():
    assert warm_steps(40) == 4
    assert warm_steps(3) == 1
    adamw, *others = (course(method, 7) for method in methods(40).values())
    for naive, warmed_up in (others[:2], others[2:]):
        np.testing.assert_allclose(warmed_up[:4], adamw[:4], rtol=1e-6)
        assert not np.allclose(naive[:4], adamw[:4], rtol=1e-3)
        assert not np.allclose(warmed_up[6], adamw[6], rtol=1e-3)


def run(method, gradients, new, cosine=None):
    """Two seeds with the same curve, evaluated every 10 steps."""
    steps = 10 * np.arange(len(new))
    metrics = {} if cosine is None else {"cosine": np.array([cosine, cosine], float)}
    new = np.array([new, new], float)
    return Run(method, {"rate": 1e-3}, gradients, steps, 1 - new, new, metrics, 1.0)


RUNS = [
    run("AdamW", 1, [0.1, 0.5, 0.8, 0.85, 0.9]),
    run("PROFIT", 2, [0.1, 0.2, 0.3], cosine=[-0.8, -0.6]),
    run("PROFIT, warmed up", 2, [0.1, 0.6, 0.7], cosine=[-0.4, -0.2]),
    run("PROFIT one line", 1, [0.1, 0.2, 0.45, 0.5, 0.6], cosine=[-0.4, -0.2, 0.9, 0.9]),
    run("PROFIT one line, warmed up", 1, [0.1, 0.2, 0.3, 0.5, 0.6], cosine=[0.0] * 4),
]


def test_rows_hold_accuracies_at_equal_steps_and_at_equal_gradients():
    rows = summarize("task", RUNS, steps=20)
    assert [row.new.mean for row in rows] == pytest.approx([0.8, 0.3, 0.7, 0.45, 0.3])
    assert [row.new_at_gradients.mean for row in rows] == pytest.approx([0.9, 0.3, 0.7, 0.6, 0.6])
    assert [row.old.mean for row in rows] == pytest.approx([0.2, 0.7, 0.3, 0.55, 0.7])
    assert rows[0].difference is None
    assert [row.difference.mean for row in rows[1:]] == pytest.approx([-0.5, -0.1, -0.35, -0.5])
    assert rows[0].cosine is None
    assert [row.cosine for row in rows[1:]] == pytest.approx([-0.7, -0.3, -0.3, 0.0])
    assert [row.fails for row in rows] == [False, True, False, False, True]


def test_the_report_counts_where_only_the_naive_form_fails():
    rows = summarize("task", RUNS, steps=20)
    profit, one_line = sentences([*rows, *(row._replace(task="other", fails=True) for row in rows)])
    assert profit == (
        "PROFIT gets less than half of AdamW's new accuracy in 2 of 2 cases (task at 1e-3; other at 1e-3); in 1 of"
        " these also when warmed up (other at 1e-3); warmed up alone, in 0."
    )
    assert one_line == (
        "PROFIT one line gets less than half of AdamW's new accuracy in 1 of 2 cases (other at 1e-3); in 1 of these"
        " also when warmed up (other at 1e-3); warmed up alone, in 1 (task at 1e-3)."
    )


def test_a_quick_run_writes_report_and_numbers(linear_models, tmp_path):
    options = ("--quick", "--task", "labels permuted", "--seeds", "3", "--steps", "20", "--output", str(tmp_path))
    result = invoke("warmup", *options)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "warmup.md").read_text()
    assert text.strip() in result.stdout
    assert "Its numbers mean nothing" in text
    assert re.search(r"\| 1e-3 \| PROFIT, warmed up \| \d+\.\d ± \d+\.\d (\(fails\) )?\| [+-]\d", text)
    assert re.search(r"jax [\d.]+, .* CPUs", text)
    content = json.loads((tmp_path / "warmup.json").read_text())
    assert [row["method"] for row in content["summary"]] == list(methods(20))
    assert np.shape(content["runs"]["labels permuted"][0]["new"]) == (3, 21)


def test_there_are_three_far_tasks_and_a_near_one():
    assert len(FAR) >= 3
    assert set(FAR) < set(TASKS)
