"""The digits task: its images, its splits and its check of the old models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks.forgetting.tasks import Scores, digits
from profit_optax.compare import CompareError
from profit_optax.compare.methods.head_first import in_head


@pytest.fixture(scope="module")
def task():
    return digits.rotated_digits(seeds=range(2), angle=35.0)


def test_old_models_are_converged(task):
    assert digits.check_converged(task) is task
    train = [task.loss(params_of(task, s), (task.data.upright[task.train[s]], task.data.labels[task.train[s]]))
             for s in range(2)]  # fmt: skip
    assert max(train) < 0.03


def params_of(task, seed):
    return jax.tree.map(lambda x: x[seed], task.params)


def test_an_unconverged_model_is_refused(task):
    for accuracies, said in (([0.96, 0.98], r"97\.00%.*98% is the least"), ([np.nan, 0.99], "nan%")):
        scored = task._replace(
            held_out=jnp.array(accuracies), evaluate=lambda params, data, accuracy: Scores(accuracy, accuracy)
        )
        with pytest.raises(CompareError, match=said):
            digits.check_converged(scored)


def test_no_seed_is_evaluated_on_what_it_trained_on(task):
    for train, held_out in zip(np.asarray(task.train), np.asarray(task.held_out), strict=True):
        assert len(held_out) == digits.HELD_OUT
        assert len(train) == digits.N_TRAIN
        assert sorted([*train, *held_out]) == list(range(1797))
    assert set(np.asarray(task.held_out[0])) != set(np.asarray(task.held_out[1]))


def test_each_seed_initialises_its_own_model(monkeypatch):
    monkeypatch.setattr(digits, "_BASE_RATE", 0.0)
    task = digits.rotated_digits(seeds=[3, 4, 3], angle=35.0, base_steps=1)
    kernels = [x for x in jax.tree.leaves(task.params) if x.ndim > 2]
    assert len(kernels) == 3
    assert all(not np.array_equal(x[0], x[1]) for x in kernels)
    assert all(np.array_equal(x[0], x[2]) for x in kernels), "the number of a seed is all that it depends on"
    np.testing.assert_array_equal(task.seeds, [3, 4, 3])
    np.testing.assert_array_equal(task.train[0], task.train[2])


def test_the_new_images_are_the_old_ones_rotated(task):
    images = load_digits().images / 16
    np.testing.assert_allclose(task.data.upright.reshape(-1, 8, 8), images, rtol=1e-6)
    quarter = digits._load(digits.rotation(90.0)).new_images.reshape(-1, 8, 8)
    np.testing.assert_allclose(quarter, np.rot90(images, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(digits._load(digits.rotation(0.0)).new_images, task.data.upright, atol=1e-6)
    assert np.abs(task.data.new_images - task.data.upright).mean() > 0.1
    np.testing.assert_array_equal(task.data.new_labels, task.data.labels)


def test_a_batch_holds_the_examples_with_its_indices(task):
    indices, key = task.train[0, :5], jax.random.key(0)
    for batch, images in ((task.batch, task.data.new_images), (task.old_batch, task.data.upright)):
        found, labels = batch(task.data, indices, key)
        np.testing.assert_array_equal(found, images[indices])
        np.testing.assert_array_equal(labels, load_digits().target[np.asarray(indices)])


def test_a_transform_may_change_the_labels():
    data = digits._load(lambda images, labels: (1 - images, 9 - labels))
    np.testing.assert_array_equal(data.new_images, 1 - data.upright)
    np.testing.assert_array_equal(data.new_labels, 9 - data.labels)
    assert data.new_labels.dtype == data.labels.dtype


def test_the_outputs_are_the_logits_of_the_batch(task):
    batch = task.batch(task.data, task.train[0, :5], jax.random.key(0))
    expected = digits.Model().apply(params_of(task, 0), batch[0])
    assert expected.shape == (5, 10)
    np.testing.assert_array_equal(task.outputs(params_of(task, 0), batch), expected)


def test_the_head_is_the_layer_that_gives_the_logits(task):
    inside = in_head(task.head, task.params)
    shapes = jax.tree.map(lambda inside, x: x.shape[1:] if inside else None, inside, task.params)
    assert {name: found for name, found in shapes["params"].items() if any(found.values())} == {
        "Dense_2": {"kernel": (256, 10), "bias": (10,)}
    }


def test_scores_are_the_accuracies_on_both_versions_of_the_held_out_digits(task):
    scores = task.evaluate(params_of(task, 1), task.data, task.held_out[1])
    held_out, model = np.asarray(task.held_out[1]), digits.Model()
    for found, images in ((scores.old, task.data.upright), (scores.new, task.data.new_images)):
        guesses = np.argmax(model.apply(params_of(task, 1), images[held_out]), axis=-1)
        assert float(found) == pytest.approx(np.mean(guesses == load_digits().target[held_out]))
    assert scores.old > scores.new + 0.3
