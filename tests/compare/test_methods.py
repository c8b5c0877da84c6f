"""Every method against its formula, by itself in a loop and combined."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import profit
from profit_optax.compare import (
    METHODS,
    Method,
    Setting,
    average_params,
    averaged,
    consolidated,
    distilled,
    fisher,
    from_optimizer,
    head_then_all,
    interpolate,
    pull_to_start,
)
from profit_optax.compare.errors import CompareError
from profit_optax.compare.methods.catalogue import chosen
from tests.compare.lines import BATCH, DATA, lines, loader, loss

EPS = float(jnp.finfo(jnp.float32).eps)
FULL = {"outputs": lambda params, batch: batch["x"] @ params["w"][:, None], "old_batches": DATA, "head": {"w": True}}


def steps(tx, params, gradient, n):
    """A user's loop: the parameters after each step, and the last state."""
    state, course = tx.init(params), []
    for _ in range(n):
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        course.append(params)
    return course, state


def test_a_pull_to_the_start_is_the_gradient_of_a_spring():
    start, constant = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.25, -0.5])}
    course, _ = steps(optax.chain(pull_to_start(0.5), optax.sgd(0.1)), start, lambda _: constant, 3)
    w, w0, g = (np.array(x, np.float64) for x in ([1.0, 2.0], [1.0, 2.0], [0.25, -0.5]))
    for params in course:
        w = w - 0.1 * (g + 0.5 * (w - w0))
        np.testing.assert_allclose(params["w"], w, rtol=8 * EPS)


def test_a_pull_keeps_dtypes_and_shares_no_array():
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    tx = pull_to_start(0.1)
    state = tx.init(params)
    assert state.start["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()
    updates, _ = tx.update({"w": jnp.ones(2, jnp.bfloat16)}, state, params)
    assert updates["w"].dtype == jnp.bfloat16
    assert jax.eval_shape(tx.init, params).start["w"].shape == (2,)


@pytest.mark.parametrize("tx", [pull_to_start(0.1), average_params()])
def test_what_needs_parameters_says_so(tx):
    with pytest.raises(ValueError, match=r"tx\.update\(grads, state, params\)"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))


def test_strengths_are_not_negative():
    for make in (
        lambda: pull_to_start(-1.0),
        lambda: distilled(loss, loss, None, -1.0),
        lambda: consolidated(loss, None, None, -1.0),
    ):
        with pytest.raises(ValueError, match="strength must be at least 0"):
            make()


def test_profit_goes_around_a_pull_and_weights_are_interpolated_after_it():
    start = {"w": jnp.array([1.0, 2.0])}
    tx = profit(optax.chain(pull_to_start(0.5), optax.sgd(0.1)), optax.sgd(0.01))
    target = lambda params, batch: jnp.sum((params["w"] - batch) ** 2)  # noqa: E731
    vag = jax.value_and_grad(target)
    params = {"w": jnp.array([1.5, 2.0])}
    updates, _ = tx.update(
        vag(params, jnp.zeros(2))[1], tx.init(start), params, value_and_grad_fn=vag, batches=jnp.array([[9.0, 9.0]])
    )
    # Δ = -0.01 · 2w; g = 2 (w + Δ - 9) points up against it, so its part along Δ is removed; then the pull is added.
    w = np.array([1.5, 2.0])
    delta = -0.02 * w
    g = 2 * (w + delta - 9)
    assert g @ delta > 0  # no conflict: ω ≥ 0 leaves g as it is
    np.testing.assert_allclose(updates["w"], -0.1 * (g + 0.5 * (w - np.array([1.0, 2.0]))), rtol=16 * EPS)
    half = interpolate(start, optax.apply_updates(params, updates), 0.5)
    np.testing.assert_allclose(
        half["w"], 0.5 * (np.array([1.0, 2.0]) + np.asarray(params["w"] + updates["w"])), rtol=EPS
    )


def test_the_average_begins_with_the_start_and_is_found_at_any_depth():
    start = jnp.array([4.0])
    tx = optax.apply_if_finite(optax.chain(optax.sgd(1.0), average_params(0.75)), 3)
    course, state = steps(tx, start, lambda _: jnp.array([1.0]), 2)
    assert [float(p[0]) for p in course] == [3.0, 2.0]
    assert averaged(state, course[-1]).item() == 0.75 * (0.75 * 4 + 0.25 * 3) + 0.25 * 2
    with pytest.raises(ValueError, match="got 0"):
        averaged(optax.sgd(0.1).init(start), start)


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_an_average_decays_between_0_and_1(decay):
    with pytest.raises(ValueError, match=f"decay must be between 0 and 1, got {decay}"):
        average_params(decay)


@pytest.mark.parametrize("head", [{"body": False, "head": True}, lambda params: {"body": False, "head": True}])
def test_the_head_goes_first_and_then_everything_starts(head):
    params = {"body": jnp.zeros(1), "head": {"w": jnp.zeros(1), "b": jnp.zeros(1)}}
    tx = head_then_all(optax.sgd(1.0), optax.sgd(0.5, momentum=0.5), head, head_steps=2)
    course, _ = steps(tx, params, lambda p: jax.tree.map(jnp.ones_like, p), 4)
    assert [float(p["body"][0]) for p in course] == [0, 0, -0.5, -1.25]
    assert [float(p["head"]["w"][0]) for p in course] == [-1, -2, -2.5, -3.25]
    with pytest.raises(ValueError, match="head must name a leaf"):
        head_then_all(optax.sgd(1.0), optax.sgd(1.0), {"body": False, "head": False}, 1).init(params)


def test_a_head_that_is_no_prefix_of_the_parameters_says_what_they_have():
    params = {"params": {"body": jnp.zeros(1), "head": jnp.zeros(1)}}
    with pytest.raises(ValueError, match=r"for parameters with \['params'\]\['body'\].*pass a function"):
        head_then_all(optax.sgd(1.0), optax.sgd(1.0), {"params": {"head": True}}, 1).init(params)
    by_path = lambda params: jax.tree.map_with_path(lambda path, _: "head" in jax.tree_util.keystr(path), params)  # noqa: E731
    course, _ = steps(
        head_then_all(optax.sgd(1.0), optax.sgd(1.0), by_path, 1), params, lambda p: jax.tree.map(jnp.ones_like, p), 1
    )
    assert [float(x[0]) for x in jax.tree.leaves(course[0])] == [0.0, -1.0]


def test_distillation_is_the_cross_entropy_of_softened_outputs():
    logits, old = np.array([[1.0, 3.0, -1.0]]), np.array([[0.5, 0.0, 2.0]])
    outputs = lambda params, batch: params  # noqa: E731
    found = distilled(lambda p, b: jnp.float32(5.0), outputs, jnp.asarray(old), 0.5)(jnp.asarray(logits), None)
    p_old = np.exp(old / 2) / np.exp(old / 2).sum()
    log_p = logits / 2 - np.log(np.exp(logits / 2).sum())
    assert float(found) == pytest.approx(5.0 - 0.5 * (p_old * log_p).sum(), rel=8 * EPS)


def test_fisher_is_the_mean_square_of_gradients_example_by_example():
    params = lines().params
    found = fisher(loss, params, loader(0))
    residual = DATA["x"] @ np.asarray(params["w"]) - DATA["y"]
    expected = np.mean((2 * residual[:, None] * DATA["x"]) ** 2, axis=0)
    np.testing.assert_allclose(found["w"], expected, rtol=100 * EPS)
    with pytest.raises(ValueError, match="at least one batch"):
        fisher(loss, params, [])


def test_the_consolidated_loss_is_a_stiff_spring():
    start, stiffness, at = (jnp.array(x) for x in ([1.0, 2.0], [0.5, 4.0], [2.0, 4.0]))
    found = consolidated(lambda p, b: jnp.float32(1.0), start, stiffness, strength=3.0)(at, None)
    assert float(found) == 1 + 1.5 * (0.5 * 1 + 4 * 4)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_made_and_its_optimizer_runs_by_itself(name):
    task = lines(**FULL)
    method = METHODS[name]()
    tx = optax.with_extra_args_support(method.optimizer(Setting(0.01, 10, task)))
    kept = method.keep(task) if method.keep else None
    vag = jax.value_and_grad(method.loss(task, kept) if method.loss else task.scalar_loss)
    batch = next(loader(0))
    extra = {"value_and_grad_fn": vag, "batches": jax.tree.map(lambda x: x[None], batch)} if method.closure else {}
    params, state = task.params, tx.init(task.params)
    for _ in range(3):
        updates, state = tx.update(vag(params, batch)[1], state, params, **extra)
        params = optax.apply_updates(params, updates)
    assert method.points or not np.array_equal(method.eval_params(state, params)["w"], task.params["w"])


def test_all_is_what_the_task_has_what_it_needs_for():
    names = {method.name for method in chosen(lines(), None)}
    assert names == {"AdamW", "AdamW x2", "PROFIT", "one line", "SGD", "L2-SP 0.1", "WiSE-FT", "EMA 0.99"}
    assert len(chosen(lines(**FULL), None)) == len(METHODS)


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (["adamw", "adamx"], "got 'adamx'"),
        (["adamw", METHODS["adamw"]()], "'AdamW' twice"),
        (["adamw", "lwf"], r"LwF 0.3 needs Task\.outputs"),
        (["wise_ft", "adamw"], "begin with one that trains"),
        ([], "begin with one that trains"),
    ],
)
def test_a_choice_that_cannot_be_is_an_error(methods, words):
    with pytest.raises(ValueError, match=words):
        chosen(lines(), methods)


def test_a_transformation_is_no_function_of_a_rate():
    with pytest.raises(TypeError, match="lambda rate"):
        from_optimizer("mine", optax.adamw(1e-3))
    with pytest.raises(ValueError, match="gradients must be at least 1"):
        from_optimizer("mine", optax.adamw, gradients=0)
    with pytest.raises(ValueError, match=r"gradients must be n_ref \+ 1, at least 2, with closure=True, got 1"):
        from_optimizer("mine", optax.adamw, closure=True)


def test_ewc_without_old_batches_in_the_loader_says_so():
    with pytest.raises(CompareError, match="at least one batch"):
        METHODS["ewc"]().keep(lines(old_batches=lambda seed: iter(())))


def test_a_method_is_changed_by_replacing_fields():
    method = dataclasses.replace(METHODS["adamw"](), name="mine")
    assert isinstance(method, Method)
    assert (method.name, BATCH) == ("mine", 4)
