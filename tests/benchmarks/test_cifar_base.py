"""The old model: training that can be killed, what of it is kept, and when it ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.forgetting.tasks.cifar import base
from benchmarks.forgetting.tasks.cifar.base import Base, Recipe, train_base
from benchmarks.forgetting.tasks.cifar.networks import logits
from profit_optax.compare import CompareError
from tests.benchmarks import cifar_toy

RECIPE = Recipe("toy", epochs=4, rate=1e-2, batch=32)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    cifar_toy.add_toy_network(monkeypatch)


@pytest.fixture(scope="module")
def archive():
    return cifar_toy.archive(train=160, test=40, classes=10)


@pytest.fixture(scope="module")
def unbroken(archive, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        cifar_toy.add_toy_network(monkeypatch)
        return train_base(RECIPE, archive, tmp_path_factory.mktemp("unbroken"))


class KilledError(Exception):
    pass


def kill_at(epoch):
    def on_epoch(epochs, scores):
        if epochs == epoch:
            raise KilledError

    return on_epoch


def assert_same(found, expected):
    assert found._replace(params=None, history=None) == expected._replace(params=None, history=None)
    np.testing.assert_array_equal(found.history, expected.history)
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_a_killed_run_goes_on_to_the_same_end_as_an_unbroken_one(archive, unbroken, tmp_path):
    for epoch in (1, 3):
        with pytest.raises(KilledError):
            train_base(RECIPE, archive, tmp_path, kill_at(epoch), seconds_between_saves=0)
    told = []
    resumed = train_base(RECIPE, archive, tmp_path, lambda epochs, _: told.append(epochs), seconds_between_saves=0)
    assert told[0] > 1, "epochs before the kill were trained again"
    assert_same(resumed, unbroken)


def test_a_finished_run_is_not_trained_again(archive, unbroken, tmp_path):
    train_base(RECIPE, archive, tmp_path)
    told = []
    assert_same(train_base(RECIPE, archive, tmp_path, lambda epochs, _: told.append(epochs)), unbroken)
    assert told == []


def test_it_learns_and_its_accuracy_is_that_of_the_kept_parameters_on_the_test_images(archive, unbroken):
    outputs = logits(cifar_toy.Backbone(jnp.float32), unbroken.params, jnp.asarray(archive.test.pixels))
    assert unbroken.accuracy == pytest.approx(np.mean(np.argmax(outputs, axis=-1) == archive.test.labels))
    assert unbroken.accuracy > 0.3
    assert unbroken.history.shape == (4, 3)
    assert unbroken.history[-1, 0] < unbroken.history[0, 0]


@pytest.mark.parametrize(("patience", "kept"), [(10, np.min), (None, lambda losses: losses[-1])])
def test_kept_are_the_parameters_of_the_lowest_held_out_loss_and_without_patience_the_last(
    archive, tmp_path, patience, kept
):
    # A rate at which the loss goes up and down.
    trained = train_base(RECIPE._replace(rate=0.3, epochs=6, patience=patience), archive, tmp_path)
    losses = trained.history[:, 1]
    assert len(losses) == 6
    assert np.argmin(losses) < 5, "choose a rate at which the last epoch is not the best"
    _, held_out = base._split(archive.train, RECIPE.seed)
    outputs = logits(cifar_toy.Backbone(jnp.float32), trained.params, jnp.asarray(held_out.pixels))
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, held_out.labels))
    np.testing.assert_allclose(loss, kept(losses), rtol=1e-5)


def test_training_ends_when_the_held_out_loss_has_not_fallen_for_so_many_epochs(archive, tmp_path):
    still = train_base(RECIPE._replace(rate=0.0, epochs=9, patience=2), archive, tmp_path)
    assert (still.epochs, still.flat) == (3, True)
    assert len(still.history) == 3
    # The model stands still, and every epoch draws and augments its batches anew.
    assert len(set(still.history[:, 0])) == 3


def test_a_damaged_model_is_named(archive, tmp_path):
    recipe = RECIPE._replace(epochs=1)
    train_base(recipe, archive, tmp_path)
    (tmp_path / "base.npz").write_bytes(b"")
    with pytest.raises(CompareError, match=r"base\.npz is damaged"):
        train_base(recipe, archive, tmp_path)


@pytest.mark.parametrize(("losses", "flat"), [([3, 2, 1.985], True), ([3, 2, 1.97], False), ([2, 1.97], False)])
def test_a_loss_that_falls_by_less_than_a_hundredth_is_flat(losses, flat):
    history = [[0.0, loss, 0.0] for loss in losses]
    assert base._is_flat(RECIPE._replace(patience=1), history) == flat
    assert not base._is_flat(RECIPE._replace(patience=None), history)


def test_a_run_that_is_still_improving_is_not_flat(unbroken):
    assert (unbroken.epochs, unbroken.flat) == (4, False)


def test_a_tenth_of_the_training_images_is_held_out(archive):
    train, held_out = base._split(archive.train, seed=0)
    assert (len(train.labels), len(held_out.labels)) == (144, 16)
    together = np.concatenate([train.pixels, held_out.pixels]).reshape(160, -1)
    assert len(np.unique(together, axis=0)) == len(np.unique(archive.train.pixels.reshape(160, -1), axis=0)) == 160
    index = np.flatnonzero((archive.train.pixels == held_out.pixels[0]).all(axis=(1, 2, 3)))
    assert archive.train.labels[index].tolist() == [held_out.labels[0]]


def test_the_rate_falls_to_its_hundredth_and_stays_there(archive):
    steps = 4
    tx = base._optimizer(RECIPE._replace(decay_epochs=3), steps)
    params = jnp.zeros(1)
    state, sizes = tx.init(params), []
    for _ in range(5 * steps):
        # Adam's steps on a constant gradient are as long as the rate.
        updates, state = tx.update(jnp.ones(1), state, params)
        sizes.append(-float(updates[0]) / RECIPE.rate)
    np.testing.assert_allclose(sizes[: steps + 1], np.linspace(0, 1, steps + 1), atol=1e-3)
    assert all(later < earlier for earlier, later in zip(sizes[steps:], sizes[steps + 1 : 3 * steps], strict=False))
    np.testing.assert_allclose(sizes[3 * steps :], 0.01, rtol=1e-3)


def test_a_folder_with_another_recipe_is_refused(archive, tmp_path):
    train_base(RECIPE._replace(epochs=1), archive, tmp_path)
    with pytest.raises(CompareError, match=r"epochs: was 1, is 4\nName an empty folder"):
        train_base(RECIPE, archive, tmp_path)
    fewer = archive._replace(train=cifar_toy.colours(80, 10, seed=0))
    with pytest.raises(CompareError, match="train_images: was 160, is 80"):
        train_base(RECIPE._replace(epochs=1), fewer, tmp_path)


@pytest.mark.parametrize(("accuracy", "converged"), [(0.7999, False), (0.8, True)])
def test_a_model_is_converged_from_80_percent_on(accuracy, converged):
    assert Base({}, accuracy, 1, True, np.zeros((1, 3))).converged is converged
