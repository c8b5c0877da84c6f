"""What a user brings, and what is refused of it before anything runs."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.compare.lines import DATA, evaluate, lines, loss


def test_a_loss_with_aux_is_its_first_half():
    task = lines(loss=lambda params, batch: (loss(params, batch), "aux"), has_aux=True)
    np.testing.assert_array_equal(task.scalar_loss(task.params, DATA), loss(task.params, DATA))


@pytest.mark.parametrize("changes", [{"loss": 1}, {"evaluate": None}])
def test_loss_and_evaluate_are_functions(changes):
    with pytest.raises(TypeError, match=f"{next(iter(changes))} must be a function"):
        lines(**changes)


@pytest.mark.parametrize("leaf", [jnp.tanh, "relu", jnp.arange(3), 1.0])
def test_parameters_are_inexact_arrays_and_the_error_names_the_leaf(leaf):
    with pytest.raises(TypeError, match=r"at \['activation'\].*equinox"):
        lines(params={"w": jnp.ones(2), "activation": leaf})


def test_there_are_parameters():
    with pytest.raises(ValueError, match="without leaves"):
        lines(params={})


def test_arrays_need_a_batch_size_and_at_least_that_many_examples():
    with pytest.raises(ValueError, match="batch_size must be given"):
        lines(batch_size=None)
    with pytest.raises(ValueError, match="batch_size 25"):
        lines(batch_size=25)
    with pytest.raises(ValueError, match="old_batches must be arrays of one length"):
        lines(old_batches={"x": np.ones((8, 2)), "y": np.ones(9)})


@pytest.mark.parametrize("batches", [[1, 2], iter([DATA]), "data"])
def test_a_loader_itself_is_refused_with_the_remedy(batches):
    with pytest.raises(TypeError, match="lambda seed: DataLoader"):
        lines(batches)


def test_positional_arguments_are_the_four_that_every_task_has():
    task = type(lines())(lines().params, loss, DATA, evaluate, batch_size=4)
    assert task.evaluate is evaluate
