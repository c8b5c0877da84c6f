"""The arms against the same steps written out, on a problem whose scores are its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.forgetting import runner
from benchmarks.forgetting.methods import Method, plain_step
from benchmarks.forgetting.methods.optimizers import adamw, alone
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.runner import Trial, at_rates, batch_order, evenly, geometrically, run_all
from benchmarks.forgetting.tasks import Scores, Task
from profit_optax import profit as profit_closure
from profit_optax.compare import CompareError

SEEDS, EXAMPLES, BATCH = 2, 12, 3
RATES = (0.01, 0.02)
STEPS = 8


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params - y) ** 2)


value_and_grad_fn = jax.value_and_grad(loss)


def linear_task(batch=lambda data, indices, key: (data[0][indices], data[1][indices]), **changes):
    """A regression from 2 numbers to 1, whose old and new scores are the two parameters."""
    rng = np.random.default_rng(0)
    x, y, params = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((20, 2), 20, (SEEDS, 2)))
    train = jnp.asarray([rng.permutation(20)[:EXAMPLES] for _ in range(SEEDS)])
    task = Task(
        name="lines",
        seeds=jnp.arange(SEEDS),
        data=(x, y),
        train=train,
        held_out=jnp.zeros(SEEDS),
        params=params,
        batch=batch,
        loss=loss,
        evaluate=lambda params, *_: Scores(*params),
    )
    return task._replace(**changes)


def trials(*methods, evaluations=STEPS, **others):
    return at_rates(methods, RATES, STEPS, evaluations, **others)


def run_arms(task, *methods, **others):
    return run_all(task, trials(*methods, **others), BATCH)


def index_recorder(gradients):
    """A method that learns nothing and reports which examples it was given."""

    def step(tx, value_and_grad_fn, params, state, batches):
        return params, batches

    def metrics(batches):
        return {f"{i}": x.astype(float) for i, x in enumerate(batches.ravel())}

    zeros = jnp.zeros((gradients, BATCH), int)
    none = optax.GradientTransformation(lambda params: zeros, None)
    return Method(f"{gradients}", gradients, lambda setting: none, step, metrics=metrics)


def indices_given(methods, **changes):
    """Which examples each run was given, as [seeds, batches, BATCH]."""
    runs = run_arms(linear_task(batch=lambda data, indices, key: indices, **changes), *methods)
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
    return [task.batch(task.data, task.train[seed, positions], None) for positions in order]


def assert_same_course(method, step, init, ratio=1.0):
    """The runner's course of `method` is that of `step` called by hand on the same batches, at every rate and seed."""
    runs, step = run_arms(linear_task(), method, ratio=ratio), jax.jit(step)
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

    assert profit(n_ref).gradients == n_ref + 1
    assert_same_course(profit(n_ref), step, lambda rate, params: direct(rate).init(params), ratio)


def test_the_reported_cosine_is_the_mean_over_the_steps_since_the_evaluation_before():
    dense, sparse = (
        run_arms(linear_task(), profit(), evaluations=evaluations, ratio=10.0)[0].metrics["cosine"]
        for evaluations in (8, 2)
    )
    np.testing.assert_allclose(sparse, dense.reshape(SEEDS, 2, 4).mean(axis=-1), rtol=1e-5)
    assert np.all(np.abs(dense) > 1e-3)


def test_a_method_chooses_what_is_evaluated():
    shifted = adamw()._replace(eval_params=lambda state, params: params + optax.tree.get(state, "count"))
    for run, other in zip(*(run_arms(linear_task(), method) for method in (shifted, adamw())), strict=True):
        np.testing.assert_allclose(run.new, other.new + run.steps, rtol=1e-6)


def test_a_run_starts_from_the_tasks_models():
    for run in run_arms(linear_task(), adamw()):
        np.testing.assert_array_equal(np.stack([run.old[:, 0], run.new[:, 0]], axis=-1), linear_task().params)


def test_progress_adds_up_to_the_gradients_of_all_seeds():
    told = []
    run_all(linear_task(), trials(adamw(), adamw(2)), BATCH, lambda *call: told.append(call))
    totals = {name: sum(gradients for each, gradients in told if each == name) for name in ("AdamW", "AdamW x2")}
    assert totals == {"AdamW": SEEDS * (8 + 4), "AdamW x2": SEEDS * 2 * (8 + 4)}


@pytest.mark.parametrize(
    ("rate", "evaluations", "steps"),
    [(0.1, 4, [0, 25, 50, 75, 100]), (0.2, 4, [0, 12, 25, 38, 50]), (10.0, 4, [0, 1]), (0.1, 1, [0, 100])],
)
def test_a_higher_rate_takes_fewer_steps_with_as_many_evaluations(rate, evaluations, steps):
    *_, trial = at_rates([adamw()], (0.1, rate), 100, evaluations)
    assert trial.setting == {"rate": rate}
    np.testing.assert_array_equal(trial.steps, steps)


def test_plain_step_leaves_one_batch_as_it_is():
    params, batch = jnp.ones(2), (jnp.ones((1, 3, 2)), jnp.zeros((1, 3)))
    tx = optax.sgd(1.0)
    stepped, _ = plain_step(tx, value_and_grad_fn, params, tx.init(params), batch)
    # The loss is (a + b)^2, whose gradient at (1, 1) is (4, 4).
    np.testing.assert_allclose(stepped, [-3.0, -3.0])


def test_geometric_evaluations_are_at_the_start_at_the_first_step_and_at_growing_distances():
    steps = geometrically(1000, 20)
    assert [*steps[:3], steps[-1]] == [0, 1, 2, 1000]
    assert len(steps) <= 21
    assert np.all(np.diff(np.diff(steps)) >= -1)
    np.testing.assert_array_equal(geometrically(1, 20), [0, 1])


def test_a_trial_ends_where_every_seed_has_stood_at_the_level():
    (whole,) = run_all(linear_task(), [Trial(adamw(), {"rate": 0.05}, evenly(STEPS, STEPS))], BATCH)
    # The parameters themselves are the scores: seeds pass a level at different steps.
    level = float(whole.new.max(axis=1).min())
    (short,) = run_all(linear_task(), [Trial(adamw(), {"rate": 0.05}, evenly(STEPS, STEPS), until=level)], BATCH)
    there = max(int(np.argmax(course >= level)) for course in whole.new)
    assert len(short.steps) == there + 1
    np.testing.assert_array_equal(short.new, whole.new[:, : there + 1])
    (longer,) = run_all(linear_task(), [Trial(adamw(), {"rate": 0.05}, evenly(STEPS, STEPS), until=1e9)], BATCH)
    assert len(longer.steps) == STEPS + 1


def test_seeds_trained_one_after_the_other_take_the_same_courses():
    together = run_arms(linear_task(), adamw(), profit(), ratio=2.0)
    apart = run_arms(linear_task(together=False), adamw(), profit(), ratio=2.0)
    for run, other in zip(together, apart, strict=True):
        assert (run.method, run.setting) == (other.method, other.setting)
        np.testing.assert_allclose(other.new, run.new, rtol=2e-6)
        for name, values in run.metrics.items():
            np.testing.assert_allclose(other.metrics[name], values, rtol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_programs_are_compiled_once_for_all_seeds_and_settings(monkeypatch, together):
    compiled = []
    compile_of = runner._program
    monkeypatch.setattr(runner, "_program", lambda *args: compiled.append(args[1].name) or compile_of(*args))
    run_arms(linear_task(together=together), adamw(), profit(), ratio=2.0)
    assert compiled == ["AdamW", "PROFIT"]


def test_what_a_method_keeps_is_each_seeds_own():
    """A method that keeps the seed's parameters, and reports them."""
    zero = optax.GradientTransformation(lambda params: jnp.zeros(2), None)
    keep = Method(
        "keeper",
        1,
        lambda setting: zero,
        lambda tx, value_and_grad_fn, params, state, batches: (params, value_and_grad_fn(params, None)[1]),
        keep=lambda task, params, data, train: params,
        loss=lambda task, kept, setting: lambda params, batch: params @ kept,
        metrics=lambda state: {"first": state[0], "second": state[1]},
    )
    for together in (True, False):
        task = linear_task(together=together)
        (run,) = run_all(task, [Trial(keep, {"rate": 0.1}, evenly(1, 1))], BATCH)
        found = np.stack([run.metrics["first"][:, 0], run.metrics["second"][:, 0]], axis=1)
        np.testing.assert_allclose(found, task.params, rtol=1e-6)


def positions_given(seeds):
    """Where in its own training examples each place's batches were taken from, [places, batches * BATCH]."""
    given, _ = indices_given([index_recorder(1)], seeds=jnp.asarray(seeds))
    train = np.asarray(linear_task().train)
    return [[int(np.flatnonzero(train[s] == index)[0]) for index in given[s].ravel()] for s in range(SEEDS)]


def test_the_order_of_batches_comes_from_the_number_of_the_seed():
    first, second = positions_given((0, 1)), positions_given((1, 7))
    assert first[1] == second[0], "seed 1 has the same order wherever it stands"
    assert first[0] != second[1]


def test_each_batch_of_each_step_has_a_key_of_its_own():
    def batch(data, indices, key):
        x, y = data[0][indices], data[1][indices]
        return x, y + jax.random.normal(key, y.shape)

    noise = index_recorder(2)._replace(
        metrics=lambda batches: {"a": batches[1][0, 0], "b": batches[1][1, 0]},
        optimizer=lambda setting: optax.GradientTransformation(
            lambda params: (jnp.zeros((2, BATCH, 2)), jnp.zeros((2, BATCH))), None
        ),
    )
    # The same labels everywhere, so that what differs is the key.
    task = linear_task(batch)
    task = task._replace(data=(task.data[0], jnp.zeros(20)))
    (run, _) = run_arms(task, noise)
    drawn = np.concatenate([run.metrics["a"].ravel(), run.metrics["b"].ravel()])
    assert len(np.unique(drawn)) == len(drawn) == 2 * SEEDS * STEPS


def test_an_optimizer_without_a_state_can_be_run():
    (run, _) = run_arms(linear_task(), alone("SGD", optax.sgd))
    assert np.all(np.diff(run.new) != 0)


def test_methods_of_the_same_name_are_refused():
    with pytest.raises(CompareError, match="the same name"):
        run_arms(linear_task(), adamw(), adamw())


def interrupted(monkeypatch, after):
    """Make the store raise after so many saves, as if the command was killed right then."""
    saves = []
    save = runner.Store.save_state

    def save_and_die(self, *args):
        save(self, *args)
        saves.append(args)
        if len(saves) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner.Store, "save_state", save_and_die)
    monkeypatch.setattr(runner, "SAVE_EVERY", -1.0)


def test_a_killed_command_goes_on_where_it_was(monkeypatch, tmp_path):
    arms = (adamw(), profit(2))
    whole = run_arms(linear_task(), *arms, ratio=2.0)
    with monkeypatch.context() as patch:
        # In the middle of the third of four runs: AdamW has saved at 9 and at 5 evaluations.
        interrupted(patch, after=9 + 5 + 4)
        with pytest.raises(KeyboardInterrupt):
            run_all(linear_task(), trials(*arms, ratio=2.0), BATCH, store=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
    found, load = [], runner.Store.load_state

    def noted(self, *args):
        state, (records, seconds) = load(self, *args)
        found.append(len(records))
        return state, (records, seconds)

    monkeypatch.setattr(runner.Store, "load_state", noted)
    resumed = run_all(linear_task(), trials(*arms, ratio=2.0), BATCH, store=tmp_path)
    assert found == [4, 0], "the third run goes on after four evaluations, the fourth begins"
    for run, other in zip(whole, resumed, strict=True):
        assert (run.method, run.setting) == (other.method, other.setting)
        np.testing.assert_array_equal(run.steps, other.steps)
        np.testing.assert_array_equal(run.new, other.new)
        for name, values in run.metrics.items():
            np.testing.assert_array_equal(other.metrics[name], values)
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert not list(tmp_path.glob("*.npz")), "a finished run keeps no state"


def test_a_larger_batch_than_there_are_examples_is_refused():
    with pytest.raises(CompareError, match=f"batch is {EXAMPLES + 1}, and a seed trains on {EXAMPLES} examples"):
        run_all(linear_task(), trials(adamw()), EXAMPLES + 1)


def test_finished_runs_are_not_run_again(tmp_path):
    first = run_all(linear_task(), trials(adamw()), BATCH, store=tmp_path)

    def step(*args):
        raise AssertionError("this run was finished")

    again = run_all(linear_task(), trials(adamw()._replace(step=step)), BATCH, store=tmp_path)
    for run, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(run.new, other.new)
        assert run.seconds == other.seconds


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"run": {}}', '{"run": {"old": [[1]]}}'])
def test_a_damaged_file_is_named(tmp_path, damage):
    run_all(linear_task(), [TRIAL], BATCH, store=tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text(damage)
    with pytest.raises(CompareError, match=f"{path.name} is damaged .* remove it"):
        run_all(linear_task(), [TRIAL], BATCH, store=tmp_path)


TRIAL = Trial(adamw(), {"rate": 0.1}, evenly(4, 4))


@pytest.mark.parametrize(
    ("task", "trial", "batch"),
    [
        (linear_task(name="other lines"), TRIAL, BATCH),
        (linear_task(seeds=jnp.arange(2, 4)), TRIAL, BATCH),
        (linear_task(), TRIAL, BATCH + 1),
        (linear_task(), TRIAL._replace(method=adamw(2)), BATCH),
        (linear_task(), TRIAL._replace(setting={"rate": 0.2}), BATCH),
        (linear_task(), TRIAL._replace(steps=evenly(4, 2)), BATCH),
        (linear_task(), TRIAL._replace(until=1e9), BATCH),
    ],
    ids=["name", "seeds", "batch", "method", "setting", "steps", "until"],
)
def test_what_is_different_is_another_run(tmp_path, task, trial, batch):
    run_all(linear_task(), [TRIAL], BATCH, store=tmp_path)
    run_all(task, [trial], batch, store=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2
