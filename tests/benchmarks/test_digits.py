"""The digits task: its images, its splits and its check of the old models."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.forgetting.tasks import digits


@pytest.fixture(scope="module")
def task():
    return digits.rotated_digits(seeds=2, angle=35.0)


def test_old_models_are_converged(task):
    accuracies = digits.old_accuracies(task)
    assert accuracies.shape == (2,)
    digits.check_converged(accuracies)
    train = [task.loss(params_of(task, s), (task.data.upright[task.train[s]], task.data.labels[task.train[s]]))
             for s in range(2)]  # fmt: skip
    assert max(train) < 0.03


def params_of(task, seed):
    return jax.tree.map(lambda x: x[seed], task.params)


def test_an_unconverged_model_is_refused():
    with pytest.raises(digits.NotConvergedError, match=r"97\.00%.*98% is the least"):
        digits.check_converged(np.array([0.96, 0.98]))
    with pytest.raises(digits.NotConvergedError):
        digits.check_converged(np.array([np.nan, 0.99]))


def test_no_seed_is_evaluated_on_what_it_trained_on(task):
    for train, held_out in zip(np.asarray(task.train), np.asarray(task.held_out), strict=True):
        assert len(held_out) == digits.HELD_OUT
        assert len(train) == digits.N_TRAIN
        assert sorted([*train, *held_out]) == list(range(1797))
    assert set(np.asarray(task.held_out[0])) != set(np.asarray(task.held_out[1]))


def test_each_seed_initialises_its_own_model(monkeypatch):
    monkeypatch.setattr(digits, "_BASE_STEPS", 1)
    monkeypatch.setattr(digits, "_BASE_RATE", 0.0)
    kernels = [x for x in jax.tree.leaves(digits.rotated_digits(seeds=2, angle=35.0).params) if x.ndim > 2]
    assert len(kernels) == 3
    assert all(not np.array_equal(first, second) for first, second in kernels)


def test_the_new_images_are_the_old_ones_rotated(task):
    images = load_digits().images / 16
    np.testing.assert_allclose(task.data.upright.reshape(-1, 8, 8), images, rtol=1e-6)
    quarter = digits._load(90.0).rotated.reshape(-1, 8, 8)
    np.testing.assert_allclose(quarter, np.rot90(images, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(digits._load(0.0).rotated, task.data.upright, atol=1e-6)
    assert np.abs(task.data.rotated - task.data.upright).mean() > 0.1


def test_a_training_batch_is_of_the_new_task(task):
    images, labels = task.batch(task.data, task.train[0, :5])
    np.testing.assert_array_equal(images, task.data.rotated[task.train[0, :5]])
    np.testing.assert_array_equal(labels, load_digits().target[np.asarray(task.train[0, :5])])


def test_scores_are_the_accuracies_on_both_versions_of_the_held_out_digits(task):
    scores = task.evaluate(params_of(task, 1), task.data, task.held_out[1])
    held_out, model = np.asarray(task.held_out[1]), digits.Model()
    for found, images in ((scores.old, task.data.upright), (scores.new, task.data.rotated)):
        guesses = np.argmax(model.apply(params_of(task, 1), images[held_out]), axis=-1)
        assert float(found) == pytest.approx(np.mean(guesses == load_digits().target[held_out]))
    assert scores.old > scores.new + 0.3
