"""The tuning budget is the same for all, and what it picks is the best."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.experiments.frontier import check_alike, steps
from benchmarks.forgetting.methods.optimizers import adamw
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.summary import best
from benchmarks.forgetting.tuning import tune
from profit_optax.compare import CompareError
from tests.benchmarks.test_methods import BATCH, small_task


def run_of(old, new):
    old, new = np.asarray(old, float), np.asarray(new, float)
    return Run("ours", {"rate": 1.0}, 1, np.arange(old.shape[1]), old, new, {}, 1.0)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        # Every seed reaches the level, and one that keeps more, of which one does not.
        (([[1, 0.2], [1, 0.2]], [[0, 1], [0, 1]]), ([[1, 0.9], [1, 0.9]], [[0, 1], [0, 0.4]])),
        # Both do, and one keeps more.
        (([[1, 0.9], [1, 0.5]], [[0, 1], [0, 1]]), ([[1, 0.1], [1, 0.5]], [[0, 1], [0, 1]])),
        # None does, and one comes nearer.
        (([[1, 0.1], [1, 0.1]], [[0, 0.4], [0, 0.4]]), ([[1, 0.8], [1, 0.8]], [[0, 0.2], [0, 0.2]])),
        # What is no number is never the best.
        (([[1, 1]] * 2, [[-2, -1]] * 2), ([[1, 1]] * 2, [[np.nan, np.nan]] * 2)),
    ],
    ids=["reached", "kept", "nearest", "diverged"],
)
def test_the_best_run(better, worse):
    better, worse = run_of(*better), run_of(*worse)
    assert best([better, worse], 0.5) is best([worse, better], 0.5) is better


def test_a_method_takes_the_budgets_gradients():
    assert steps(adamw(), 24)[-1] == 24
    assert steps(adamw(3), 24)[-1] == 8


def test_the_best_setting_is_picked():
    # Quality on the new task is how far a parameter has moved. No rate but the largest moves it by 0.5 in time.
    task = small_task()
    moved = task._replace(
        evaluate=lambda params, *_: task.evaluate(params)._replace(
            new=jnp.abs(params["body"][0, 0] - task.params["body"][0, 0, 0])
        )
    )
    method = adamw()._replace(grid=(("rate", (1e-3, 0.2, 1e-2)),))
    found = tune(moved, method, steps(method, 24), 0.5, BATCH)
    assert found.setting == {"rate": 0.2}
    assert ([run.rate for run in found.tried], found.reached) == ([1e-3, 0.2, 1e-2], 1)


def test_methods_with_different_numbers_of_settings_and_with_the_same_name_are_refused():
    few = adamw(2)._replace(grid=(("rate", (1e-3,)),))
    with pytest.raises(CompareError, match=r"'AdamW': 9, 'AdamW x2': 1"):
        check_alike([adamw(), few])
    with pytest.raises(CompareError, match=r"the same name, among \['AdamW', 'AdamW'\]"):
        check_alike([adamw(), adamw()])
