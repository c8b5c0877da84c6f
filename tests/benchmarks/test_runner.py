"""The arms against the same steps written out, on a problem whose scores are its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.forgetting.methods import Method, plain_step
from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.runner import Budget, batch_order, evaluation_steps, run_all
from benchmarks.forgetting.tasks import Scores, Task
from profit_optax import profit as profit_closure

SEEDS, EXAMPLES, BATCH = 2, 12, 3
RATES = (0.01, 0.02)
BUDGET = Budget(RATES, steps=8, batch=BATCH, evaluations=8)


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2)


value_and_grad_fn = jax.value_and_grad(loss)


def linear_task(batch=lambda data, indices: (data[0][indices], data[1][indices])):
    """A regression from 2 numbers to 1, whose old and new scores are the two parameters."""
    rng = np.random.default_rng(0)
    x, y, params = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((20, 2), 20, (SEEDS, 2)))
    train = jnp.asarray([rng.permutation(20)[:EXAMPLES] for _ in range(SEEDS)])
    return Task("lines", (x, y), train, jnp.zeros(SEEDS), params, batch, loss, lambda params, *_: Scores(*params))


def index_recorder(gradients):
    """A method that learns nothing and reports which examples it was given."""

    def step(tx, value_and_grad_fn, params, state, batches):
        return params, batches

    def metrics(batches):
        return {f"{i}": x.astype(float) for i, x in enumerate(batches.ravel())}

    zeros = jnp.zeros((gradients, BATCH), int)
    none = optax.GradientTransformation(lambda params: zeros, None)
    return Method(f"{gradients}", gradients, lambda rate: none, step, metrics=metrics)


def indices_given(methods):
    """Which examples each run was given, as [seeds, batches, BATCH]."""
    runs = run_all(linear_task(batch=lambda data, indices: indices), methods, BUDGET)
    columns = [[run.metrics[f"{i}"] for i in range(run.gradients * BATCH)] for run in runs]
    return [np.stack(each, axis=-1).reshape(SEEDS, -1, BATCH) for each in columns]


def test_every_arm_sees_the_same_batches_in_the_same_order():
    one, one_again, three, _ = indices_given([index_recorder(1), index_recorder(3)])
    assert three.shape[1] == 3 * one.shape[1]
    np.testing.assert_array_equal(one, three[:, : one.shape[1]])
    np.testing.assert_array_equal(one_again, one[:, : one_again.shape[1]])


def test_seeds_see_different_batches_from_their_own_training_examples():
    (given, _) = indices_given([index_recorder(2)])
    train = np.asarray(linear_task().train)
    for seed in range(SEEDS):
        assert set(given[seed].ravel()) == set(train[seed])
    positions = [[int(np.flatnonzero(train[s] == index)[0]) for index in given[s].ravel()] for s in range(SEEDS)]
    assert positions[0] != positions[1]


def test_an_epoch_holds_no_example_twice():
    order = np.asarray(batch_order(jax.random.key(0), 12, batch=5, n_train=17))
    assert order.shape == (12, 5)
    epochs = order.reshape(4, 15)
    for epoch in epochs:
        assert len(set(epoch)) == 15
    assert order.max() == 16
    assert len({tuple(epoch) for epoch in epochs}) == 4


def given_batches(n_batches, seed):
    task = linear_task()
    order = batch_order(jax.random.fold_in(jax.random.key(seed), 2), n_batches, BATCH, EXAMPLES)
    return [task.batch(task.data, task.train[seed, positions]) for positions in order]


def assert_same_course(method, step, init):
    """The runner's course of `method` is that of `step` called by hand on the same batches, at every rate and seed."""
    runs, step = run_all(linear_task(), [method], BUDGET), jax.jit(step)
    assert [run.rate for run in runs] == list(RATES)
    for run in runs:
        for seed in range(SEEDS):
            params = linear_task().params[seed]
            state, course = init(run.rate, params), [params]
            batches = given_batches(run.steps[-1] * method.gradients, seed)
            for i in range(run.steps[-1]):
                params, state = step(run.rate, params, state, batches[i * method.gradients :][: method.gradients])
                course.append(params)
            found = np.stack([run.old[seed], run.new[seed]], axis=-1)
            np.testing.assert_allclose(found, np.stack(course), rtol=2e-6)


def test_the_adamw_arm_is_plain_optax():
    def step(rate, params, state, batches):
        (batch,) = batches
        updates, state = optax.adamw(rate).update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    assert_same_course(adamw(), step, lambda rate, params: optax.adamw(rate).init(params))


def test_adamw_with_several_batches_takes_the_mean_of_their_gradients():
    def step(rate, params, state, batches):
        grads = sum(jax.grad(loss)(params, batch) for batch in batches) / 3
        updates, state = optax.adamw(rate).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    assert_same_course(adamw(3), step, lambda rate, params: optax.adamw(rate).init(params))


@pytest.mark.parametrize(("n_ref", "ratio"), [(1, 10.0), (3, 2.0)])
def test_the_profit_arm_is_profit_called_directly(n_ref, ratio):
    def direct(rate):
        return profit_closure(optax.adamw(rate), optax.sgd(rate / ratio), n_ref)

    def step(rate, params, state, batches):
        first, *others = batches
        _, grads = value_and_grad_fn(params, first)
        others = jax.tree.map(lambda *x: jnp.stack(x), *others)
        updates, state = direct(rate).update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
        return optax.apply_updates(params, updates), state

    assert profit(n_ref, ratio).gradients == n_ref + 1
    assert_same_course(profit(n_ref, ratio), step, lambda rate, params: direct(rate).init(params))


def test_the_reported_cosine_is_the_mean_over_the_steps_since_the_evaluation_before():
    dense, sparse = (
        run_all(linear_task(), [profit(1, 10.0)], BUDGET._replace(evaluations=evaluations))[0].metrics["cosine"]
        for evaluations in (8, 2)
    )
    np.testing.assert_allclose(sparse, dense.reshape(SEEDS, 2, 4).mean(axis=-1), rtol=1e-5)
    assert np.all(np.abs(dense) > 1e-3)


def test_a_method_chooses_what_is_evaluated():
    shifted = adamw()._replace(eval_params=lambda state, params: params + optax.tree.get(state, "count"))
    for run, other in zip(*(run_all(linear_task(), [m], BUDGET) for m in (shifted, adamw())), strict=True):
        np.testing.assert_allclose(run.new, other.new + run.steps, rtol=1e-6)


def test_a_run_starts_from_the_tasks_models():
    for run in run_all(linear_task(), [adamw()], BUDGET):
        np.testing.assert_array_equal(np.stack([run.old[:, 0], run.new[:, 0]], axis=-1), linear_task().params)


def test_progress_adds_up_to_the_gradients_of_one_seed():
    told = []
    run_all(linear_task(), [adamw(), adamw(2)], BUDGET, lambda *call: told.append(call))
    totals = {name: sum(gradients for each, gradients in told if each == name) for name in ("AdamW", "AdamW x2")}
    assert totals == {"AdamW": 8 + 4, "AdamW x2": 2 * (8 + 4)}


@pytest.mark.parametrize(
    ("rate", "evaluations", "steps"),
    [(0.1, 4, [0, 25, 50, 75, 100]), (0.2, 4, [0, 12, 25, 38, 50]), (10.0, 4, [0, 1]), (0.1, 1, [0, 100])],
)
def test_a_higher_rate_takes_fewer_steps_with_as_many_evaluations(rate, evaluations, steps):
    budget = Budget((0.1, rate), steps=100, batch=1, evaluations=evaluations)
    np.testing.assert_array_equal(evaluation_steps(budget, rate), steps)


def test_plain_step_leaves_one_batch_as_it_is():
    params, batch = jnp.ones(2), (jnp.ones((1, 3, 2)), jnp.zeros((1, 3)))
    tx = optax.sgd(1.0)
    stepped, _ = plain_step(tx, value_and_grad_fn, params, tx.init(params), batch)
    # The loss is (a + b)^2, whose gradient at (1, 1) is (4, 4).
    np.testing.assert_allclose(stepped, [-3.0, -3.0])
