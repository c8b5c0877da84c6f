"""The CIFAR task: its scores, its heads and its batches, against the same computed directly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.tasks.cifar import task as cifar
from benchmarks.forgetting.tasks.cifar.networks import init_params, logits
from tests.benchmarks import cifar_toy

BACKBONE = cifar_toy.Backbone(jnp.float32)
SEEDS = [3, 7]


@pytest.fixture(scope="module")
def base():
    return init_params(BACKBONE, 10, jax.random.key(0))


@pytest.fixture(scope="module")
def task(base):
    images = (cifar_toy.colours(*each) for each in ((120, 100, 0), (50, 10, 1), (60, 100, 2)))
    return cifar.cifar100(SEEDS, BACKBONE, base, cifar.Data(*images), "a toy")


def of_seed(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def moved(params):
    """As if trained: backbone and head are other ones."""
    keys = jax.random.split(jax.random.key(9), len(jax.tree.leaves(params)))
    leaves, structure = jax.tree.flatten(params)
    return structure.unflatten([x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def guesses(params, images):
    return np.argmax(jax.jit(functools.partial(logits, BACKBONE))(params, images.pixels), axis=-1)


def mostly_right(images, guesses, wrong, classes):
    """The images with labels that are the guesses, but for the first `wrong` of them."""
    labels = guesses + (np.arange(len(guesses)) < wrong)
    return images._replace(labels=jnp.asarray(labels % classes))


def test_scores_are_of_the_old_head_on_the_tuned_backbone_and_of_the_new_head(task, base):
    params, old_head = moved(of_seed(task.params, 0)), of_seed(task.held_out, 0)
    old, new = task.data.old, task.data.new
    old_guesses = guesses({"backbone": params["backbone"], "head": base["head"]}, old)
    assert np.mean(old_guesses != guesses(base, old)) > 0.1
    data = task.data._replace(
        old=mostly_right(old, old_guesses, 10, classes=10), new=mostly_right(new, guesses(params, new), 24, classes=100)
    )
    scores = jax.jit(task.evaluate)(params, data, old_head)
    assert (float(scores.old), float(scores.new)) == pytest.approx((40 / 50, 36 / 60))


def test_before_training_the_old_score_is_the_old_models(task, base):
    data = task.data._replace(old=mostly_right(task.data.old, guesses(base, task.data.old), 5, classes=10))
    scores = jax.jit(task.evaluate)(of_seed(task.params, 1), data, of_seed(task.held_out, 1))
    assert float(scores.old) == pytest.approx(45 / 50)


def test_seeds_have_the_old_backbone_and_new_heads_of_their_own(task, base):
    assert task.seeds.tolist() == SEEDS
    assert jax.tree.leaves(task.params["head"])[0].shape[0] == len(SEEDS)
    for i, seed in enumerate(SEEDS):
        jax.tree.map(np.testing.assert_array_equal, of_seed(task.params, i)["backbone"], base["backbone"])
        assert of_seed(task.params, i)["head"]["kernel"].shape == (8, 100)
        head = init_params(BACKBONE, 100, jax.random.key(seed))["head"]
        np.testing.assert_allclose(of_seed(task.params, i)["head"]["kernel"], head["kernel"], rtol=1e-6)
    first, second = task.params["head"]["kernel"]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(task.train, np.stack([np.arange(120)] * 2))


def test_a_batch_is_of_the_new_tasks_training_images_augmented_by_its_key(task):
    indices = jnp.asarray([5, 17, 5, 60])
    pixels, labels = task.batch(task.data, indices, jax.random.key(0))
    np.testing.assert_array_equal(labels, task.data.train.labels[indices])
    assert pixels.shape == (4, 32, 32, 3)
    assert pixels.dtype == np.uint8
    again, _ = task.batch(task.data, indices, jax.random.key(0))
    np.testing.assert_array_equal(pixels, again)
    # Augmentation leaves colours where they are: the middle of an image is inside of every crop.
    middles = task.data.train.pixels[indices][:, 8:24, 8:24].mean(axis=(1, 2))
    np.testing.assert_allclose(pixels[:, 8:24, 8:24].mean(axis=(1, 2)), middles, atol=10)
    other, _ = task.batch(task.data, indices, jax.random.key(1))
    assert not np.array_equal(pixels, other)


def test_the_loss_is_the_mean_cross_entropy_of_the_new_head(task):
    params = of_seed(task.params, 0)
    pixels, labels = task.data.train.pixels[:6], task.data.train.labels[:6]
    outputs = np.asarray(logits(BACKBONE, params, pixels), float)
    log_normalizer = np.log(np.exp(outputs).sum(axis=-1))
    expected = np.mean(log_normalizer - outputs[np.arange(6), labels])
    np.testing.assert_allclose(task.loss(params, (pixels, labels)), expected, rtol=1e-5)


def test_the_head_is_told_from_the_backbone_and_is_fresh(task):
    heads = task.fresh(of_seed(task.params, 0))
    assert set(jax.tree.leaves(heads["head"])) == {True}
    assert set(jax.tree.leaves(heads["backbone"])) == {False}
    assert not task.together
