"""Runs against the same steps written out, and what ends them early."""

import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit
from profit_optax.compare import METHODS, Method, from_optimizer, interpolate
from profit_optax.compare.batches import stream
from profit_optax.compare.errors import CompareError, NotFiniteError
from profit_optax.compare.runner import Program, evaluation_steps, follow, scored, train
from tests.compare.lines import DATA, evaluate, lines, loader, loss

RATE, STEPS = 0.02, 6


def run(method, task=None, seed=1, steps=STEPS, evaluations=6):
    task = task or lines()
    kept = method.keep(task) if method.keep else None
    program = Program(task, method, RATE, steps, kept, next(loader(0)))
    return train(task, method, program, RATE, seed, evaluation_steps(steps, evaluations), evaluate(task.params))


def by_hand(step, init, gradients, seed=1):
    """Parameters after each step that is written out, from the stream's batches."""
    params = lines().params
    state, batches, course = init(params), stream("batches", DATA, 4, seed), []
    for _ in range(STEPS):
        params, state = jax.jit(step)(params, state, tuple(itertools.islice(batches, gradients)))
        course.append(params)
    return course


def plain(tx, loss=loss):
    def step(params, state, batches):
        grads = [jax.grad(loss)(params, batch) for batch in batches]
        updates, state = tx.update(jax.tree.map(lambda *g: sum(g) / len(g), *grads), state, params)
        return optax.apply_updates(params, updates), state

    return step


def assert_same(found, course, gradients):
    got, end = found
    assert got.gradients == [int(position) * gradients for position in got.positions]
    for position, old, new in zip(got.positions, got.scores["old"], got.scores["new"], strict=True):
        expected = evaluate(course[int(position) - 1] if position else lines().params)
        np.testing.assert_allclose([old, new], [expected["old"], expected["new"]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(end["w"], course[-1]["w"], rtol=1e-5)


@pytest.mark.parametrize("gradients", [1, 3])
def test_an_optimizer_takes_the_mean_gradient_of_its_batches(gradients):
    tx = optax.adamw(RATE)
    found = run(METHODS["adamw_more"](gradients))
    assert_same(found, by_hand(plain(tx), tx.init, gradients), gradients)


def test_profit_takes_the_closure_and_the_other_batches():
    tx = profit(optax.adamw(RATE), optax.sgd(RATE / 10), 2)
    vag = jax.value_and_grad(loss)

    def step(params, state, batches):
        others = jax.tree.map(lambda *x: jnp.stack(x), *batches[1:])
        grads = jax.grad(loss)(params, batches[0])
        updates, state = tx.update(grads, state, params, value_and_grad_fn=vag, batches=others)
        return optax.apply_updates(params, updates), state

    assert_same(run(METHODS["profit"](n_ref=2)), by_hand(step, tx.init, 3), 3)


def test_a_method_may_have_a_loss_of_its_own():
    def pulled(params, batch):
        return loss(params, batch) + 0.5 * jnp.sum((params["w"] - lines().params["w"]) ** 2)

    method = Method("mine", lambda s: optax.sgd(s.rate), keep=lambda task: task.params, loss=lambda task, start: pulled)
    assert_same(run(method), by_hand(plain(optax.sgd(RATE), pulled), optax.sgd(RATE).init, 1), 1)


def test_the_task_s_parameters_are_left_as_they_are():
    task = lines()
    run(METHODS["adamw"](), task)
    np.testing.assert_array_equal(task.params["w"], lines().params["w"])


def test_what_follows_a_run_is_scored_between_its_ends_and_trains_nothing():
    task = lines()
    trained, end = run(METHODS["adamw"](), task)
    found = follow(task, METHODS["wise_ft"](alphas=(0.5, 1.0)), trained, end, evaluate(task.params))
    assert (found.along, found.positions, found.gradients) == ("alpha", [0.0, 0.5, 1.0], [STEPS] * 3)
    half = evaluate(interpolate(task.params, end, 0.5))
    assert found.scores["new"][1] == half["new"]
    assert found.scores["new"][2] == pytest.approx(trained.scores["new"][-1], rel=1e-6)


def test_what_is_compiled_goes_with_its_program_and_waits_for_no_collection():
    program = Program(lines(), METHODS["profit"](), RATE, STEPS, None, next(loader(0)))
    program.compile()
    step = weakref.ref(program._step)
    gc.collect()
    gc.disable()
    try:
        del program
        assert step() is None
    finally:
        gc.enable()


def test_the_step_waits_for_nobody_and_takes_its_arrays(count_traces):
    traced = count_traces(loss)
    task = lines(loss=traced)
    program = Program(task, METHODS["adamw"](), RATE, STEPS, None, next(loader(0)))
    program.compile()
    carry = program.start()
    given = carry.params["w"]
    carry = program.step(carry, (next(loader(0)),))
    carry = program.step(carry, (next(loader(0)),))
    assert given.is_deleted()
    assert traced.traces == 1
    assert program.memory > 0


def test_evaluations_are_at_the_ends_and_at_growing_and_even_distances():
    steps = evaluation_steps(1000, 20)
    assert (steps[0], steps[-1]) == (0, 1000)
    assert {1, 100, 500}.issubset(steps)
    assert len(steps) <= 21
    assert list(evaluation_steps(2, 20)) == [0, 1, 2]
    assert list(evaluation_steps(7, 1)) == [0, 7]


def test_a_loss_that_is_not_finite_says_where():
    with pytest.raises(NotFiniteError, match=r"not finite with huge at rate 0.02, seed 1, after \d gradients: lower"):
        run(from_optimizer("huge", lambda rate: optax.sgd(1e38)))
    with pytest.raises(NotFiniteError, match="lower its rate, which is 30 times one that was asked for, leave"):
        run(from_optimizer("huge", lambda rate: optax.sgd(1e38), rate_factor=30.0))


def test_a_device_that_fails_says_with_which_method(monkeypatch):
    def full(self, carry, batches):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(Program, "step", full)
    with pytest.raises(CompareError, match=r"failed with AdamW at rate 0.02.*RESOURCE_EXHAUSTED(?s:.*)is kept"):
        run(METHODS["adamw"]())


def test_a_scorer_that_raises_says_what_and_where():
    def broken(params):
        raise OSError("no such program")

    with pytest.raises(CompareError, match=r"OSError: no such program \(.*test_runner\.py, line \d+\), at the start"):
        scored(lines(evaluate=broken), None, "at the start")


@pytest.mark.parametrize(
    ("scores", "words"),
    [({"new": 1.0}, r"\['new'\]"), (1.0, "float"), ({"old": float("nan"), "new": 1.0}, "nan for 'old'")],
)
def test_scores_are_finite_and_named(scores, words):
    with pytest.raises(CompareError, match=words):
        scored(lines(evaluate=lambda params: scores), None, "here")
