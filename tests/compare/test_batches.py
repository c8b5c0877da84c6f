"""Batches from arrays and from loaders of any kind."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from profit_optax.compare.batches import one_pass, stream
from profit_optax.compare.errors import CompareError
from tests.compare.lines import BATCH, DATA, EXAMPLES, loader

NUMBERS = {"x": np.arange(10)}


def taken(batches, n, seed=0, batch_size=None):
    return [np.asarray(batch["x"]) for batch in itertools.islice(stream("batches", batches, batch_size, seed), n)]


def test_an_epoch_of_arrays_has_no_example_twice_and_no_incomplete_batch():
    epochs = np.array(taken(NUMBERS, 9, batch_size=3)).reshape(3, 9)
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_seed_has_its_own_order_and_always_the_same():
    one, again, other = (np.array(taken(NUMBERS, 3, seed, 3)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_an_iterator_that_ends_is_started_anew():
    first = [batch["x"] for batch in loader(7)]
    given = taken(loader, 2 * len(first), seed=7)
    np.testing.assert_array_equal(given, first + first)


def test_a_loader_that_can_be_read_again_is_and_shuffles_for_itself():
    class Loader:
        def __init__(self, seed):
            self.rng = np.random.default_rng(seed)

        def __iter__(self):
            return ({"x": at} for at in self.rng.permutation(10).reshape(5, 2))

    epochs = np.array(taken(Loader, 10)).reshape(2, 10)
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_a_loader_is_asked_for_an_iterator_once_an_epoch():
    class Loader:
        asked = 0

        def __iter__(self):
            self.asked += 1
            return loader(0)

    made = Loader()
    list(itertools.islice(stream("batches", lambda seed: made, None, 0), 3 * EXAMPLES // BATCH))
    assert made.asked == 3


def test_an_incomplete_last_batch_is_left_out():
    given = taken(lambda seed: iter([{"x": np.ones(4)}, {"x": np.ones(3)}]), 3)
    assert [len(x) for x in given] == [4, 4, 4]


def test_leaves_are_what_numpy_can_read_and_jax_arrays_as_they_are():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3.0)

    batch = next(stream("batches", lambda seed: [{"t": Tensor(), "j": jnp.ones(3), "l": 1.5}], None, 0))
    np.testing.assert_array_equal(batch["t"], np.arange(3.0))
    assert isinstance(batch["j"], jnp.ndarray)
    assert batch["l"].dtype == float


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([{"x": np.array(["a"])}], r"str|at \['x'\]"),
        ([{"x": np.ones(4)}, {"y": np.ones(4)}], "one structure"),
        ([{"x": np.ones((4, 5))}, {"x": np.ones((4, 6))}], "Pad them"),
        ([{"x": np.ones(4)}, {"x": np.ones(5)}], "Pad them"),
        ([], "gave no batch"),
    ],
)
def test_what_no_program_can_take_is_an_error(batches, words):
    with pytest.raises(CompareError, match=words):
        taken(lambda seed: batches, 2)


def test_a_function_that_returns_no_iterable_is_an_error():
    with pytest.raises(CompareError, match=r"batches\(3\) must return an iterable"):
        taken(lambda seed: 5, 1, seed=3)


def test_a_loader_that_raises_is_named_and_so_is_the_line():
    def broken(seed):
        yield {"x": np.ones(4)}
        raise OSError("the disk is gone")

    words = r"batches\(3\) raised OSError: the disk is gone \(.*test_batches\.py, line \d+\)\. What was finished"
    with pytest.raises(CompareError, match=words):
        taken(broken, 2, seed=3)
    with pytest.raises(CompareError, match=r"old_batches\(0\) raised OSError"):
        list(one_pass("old_batches", broken, None, 0, most=50))


def test_one_pass_is_one_epoch_at_most():
    assert len(list(one_pass("old_batches", DATA, 4, 0, most=50))) == 6
    assert len(list(one_pass("old_batches", DATA, 4, 0, most=2))) == 2
    assert len(list(one_pass("old_batches", loader, None, 0, most=50))) == 6
