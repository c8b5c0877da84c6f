"""The tuning budget is the same for all, and what it picks is the best."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.tuning import Budget, _merit, best, trial, tune
from profit_optax.compare import CompareError
from tests.benchmarks.test_methods import BATCH, small_task

BUDGET = Budget(gradients=24, evaluations=10, batch=BATCH)


def run_of(old, new):
    old, new = np.asarray(old, float), np.asarray(new, float)
    return Run("ours", {"rate": 1.0}, 1, np.arange(old.shape[1]), old, new, {}, 1.0)


def test_a_run_in_which_every_seed_reaches_the_level_beats_one_that_keeps_more():
    both = run_of([[1, 0.2], [1, 0.2]], [[0, 1], [0, 1]])
    one = run_of([[1, 0.9], [1, 0.9]], [[0, 1], [0, 0.4]])
    assert _merit(both, 0.5) > _merit(one, 0.5)


def test_of_two_that_reach_it_the_one_that_keeps_more_is_better():
    more, less = (run_of([[1, old], [1, 0.5]], [[0, 1], [0, 1]]) for old in (0.9, 0.1))
    assert _merit(more, 0.5) > _merit(less, 0.5)


def test_where_none_reaches_it_the_nearest_is_best():
    near, far = (run_of([[1, 0.1], [1, 0.1]], [[0, new], [0, new]]) for new in (0.4, 0.2))
    assert _merit(near, 0.5) > _merit(far, 0.5)


def test_a_run_that_is_no_number_is_never_the_best():
    diverged, far = run_of([[1, 1]] * 2, [[0, np.nan]] * 2), run_of([[1, 1]] * 2, [[-2, -1]] * 2)
    diverged = diverged._replace(new=np.full((2, 2), np.nan))
    assert best([diverged, far], 0.5) is far
    assert best([far, diverged], 0.5) is far


def test_a_trial_takes_the_budgets_gradients():
    assert trial(adamw(), {"rate": 1.0}, BUDGET).steps[-1] == 24
    assert trial(adamw(3), {"rate": 1.0}, BUDGET).steps[-1] == 8


def test_the_best_setting_is_picked():
    # Quality on the new task is how far a parameter has moved. No rate but the largest moves it by 0.5 in time.
    task = small_task()
    moved = task._replace(
        evaluate=lambda params, *_: task.evaluate(params)._replace(
            new=jnp.abs(params["body"][0, 0] - task.params["body"][0, 0, 0])
        )
    )
    method = adamw()._replace(grid=(("rate", (1e-3, 0.2, 1e-2)),))
    (found,) = tune(moved, [method], 0.5, BUDGET)
    assert found.setting == {"rate": 0.2}
    assert (found.tried, found.reached) == (3, 1)


def test_methods_with_different_numbers_of_settings_are_refused():
    few = adamw(2)._replace(grid=(("rate", (1e-3,)),))
    with pytest.raises(CompareError, match=r"'AdamW': 9, 'AdamW x2': 1"):
        tune(small_task(), [adamw(), few], 0.5, BUDGET)
