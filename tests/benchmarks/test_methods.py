"""Each method against its defining formula, written out in float64 on a small softmax regression."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import schedule_free_adamw, schedule_free_eval_params

from benchmarks.forgetting.methods import catalogue
from benchmarks.forgetting.methods.adam_spd import adam_spd, selective_projection_decay
from benchmarks.forgetting.methods.ewc import ewc, fisher
from benchmarks.forgetting.methods.ftp import DISTANCE_RATE, SMALLEST, fast_trainable_projection, row_norms
from benchmarks.forgetting.methods.head_only import HEAD_RATE, head_only, lp_ft
from benchmarks.forgetting.methods.l2_sp import l2_sp
from benchmarks.forgetting.methods.lookahead import lookahead
from benchmarks.forgetting.methods.lwf import lwf
from benchmarks.forgetting.methods.optimizers import MOMENTUM, adamw, adan, alone, schedule_free, sgd
from benchmarks.forgetting.methods.profit import (
    one_line,
    one_line_at,
    profit,
    profit_transparent,
    with_pull,
)
from benchmarks.forgetting.methods.sam import sam
from benchmarks.forgetting.methods.wise_ft import wise_ft
from benchmarks.forgetting.runner import Trial, evenly, run_all
from benchmarks.forgetting.tasks import Scores, Task
from profit_optax.compare import CompareError, distilled

STEPS, BATCH, EXAMPLES, CLASSES = 12, 4, 20, 3
RTOL = 200 * float(jnp.finfo(jnp.float32).eps)


def logits(params, x):
    return jnp.tanh(x @ params["body"]) @ params["head"]


def loss(params, batch):
    x, y = batch
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


value_and_grad_fn = jax.value_and_grad(loss)


def small_task(probe=("body", 0, 0), fresh_head=False):
    """One seed; the old score is one of the parameters, the new one the sum of all."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(EXAMPLES, 3)), jnp.float32)
    y = jnp.asarray(rng.integers(0, CLASSES, EXAMPLES))
    params = {"body": rng.normal(size=(1, 3, 4)), "head": rng.normal(size=(1, 4, CLASSES))}
    name, *place = probe
    return Task(
        name="small",
        seeds=jnp.arange(1),
        data=(x, y),
        train=jnp.arange(EXAMPLES)[None],
        held_out=jnp.zeros(1),
        params=jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params),
        batch=lambda data, indices, key: (data[0][indices], data[1][indices]),
        loss=loss,
        evaluate=lambda params, *_: Scores(params[name][tuple(place)], optax.tree.sum(params)),
        outputs=lambda params, batch: logits(params, batch[0]),
        old_batch=lambda data, indices, key: (data[0][indices], data[1][indices]),
        head={"body": False, "head": True},
        fresh_head=fresh_head,
    )


def start():
    return jax.tree.map(lambda p: p[0], small_task().params)


def batches():
    """The batches that the runner hands to every method, in order."""
    given = []
    task = small_task()._replace(batch=lambda data, indices, key: indices)
    recorder = adamw()._replace(
        optimizer=lambda setting: optax.GradientTransformation(lambda params: jnp.zeros(BATCH), None),
        step=lambda tx, value_and_grad_fn, params, state, batches: (params, batches[0].astype(float)),
        metrics=lambda state: {f"{i}": state[i] for i in range(BATCH)},
    )
    (run,) = run_all(task, [Trial(recorder, {"rate": 1.0}, evenly(STEPS, STEPS))], BATCH)
    given = np.stack([run.metrics[f"{i}"][0] for i in range(BATCH)], axis=-1).astype(int)
    x, y = task.data
    return [(x[indices], y[indices]) for indices in given]


@pytest.fixture(scope="module")
def given():
    return batches()


def turning(times):
    """One batch so many times, and then its opposite: gradients turn against the deviation that they led to."""
    x, y = small_task().data
    return [(x[:BATCH], y[:BATCH])] * times + [(x[:BATCH], (y[:BATCH] + 1) % CLASSES)] * times


def course(method, setting, probe=("body", 0, 0), fresh_head=False):
    """A parameter and the sum of all after each step."""
    task = small_task(probe, fresh_head)
    (run,) = run_all(task, [Trial(method, setting, evenly(STEPS, STEPS))], BATCH)
    return np.stack([run.old[0], run.new[0]], axis=-1)


def course_of(all_params, probe=("body", 0, 0)):
    name, *place = probe
    return np.array([[float(p[name][tuple(place)]), float(optax.tree.sum(p))] for p in all_params])


def optax_course(tx, given, grad_fn=None, eval_params=lambda state, params: params):
    """The parameters to evaluate after each step of plain Optax."""
    params, grad_fn = start(), grad_fn or jax.grad(loss)
    state = tx.init(params)
    points = [eval_params(state, params)]
    for batch in given:
        updates, state = jax.jit(tx.update)(jax.jit(grad_fn)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        points.append(eval_params(state, params))
    return points


def assert_courses_agree(found, expected):
    assert np.abs(np.diff(found, axis=0)).max() > 1e-3, "it must move for this to say anything"
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=RTOL)


def test_every_method_has_its_own_name_and_the_same_number_of_settings():
    methods = [method for group in catalogue.GROUPS.values() for method in group]
    assert len(catalogue.METHODS) == len(methods)
    assert len(methods) - len(catalogue.GROUPS["one line"]) == 17
    assert {len(method.settings()) for method in methods} == {9}


def test_a_setting_takes_what_the_method_can_be_set_to():
    assert adamw().setting(rate=0.1, ratio=3.0) == {"rate": 0.1}
    assert profit().setting(rate=0.1, ratio=3.0) == {"rate": 0.1, "ratio": 3.0}


def test_sgd_has_heavy_ball_momentum(given):
    params, momentum, points = start(), optax.tree.zeros_like(start()), [start()]
    for batch in given:
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + g, momentum, jax.grad(loss)(params, batch))
        params = jax.tree.map(lambda p, m: p - 0.1 * m, params, momentum)
        points.append(params)
    assert_courses_agree(course(sgd(), {"rate": 0.1}), course_of(points))


@pytest.mark.parametrize(
    ("method", "tx", "eval_params"),
    [
        (adan(), optax.adan(0.1), lambda state, params: params),
        (schedule_free(), schedule_free_adamw(0.1), schedule_free_eval_params),
        (alone("RMSProp", optax.rmsprop), optax.rmsprop(0.1), lambda state, params: params),
    ],
    ids=["adan", "schedule-free", "rmsprop"],
)
def test_what_optax_has_is_optaxs(method, tx, eval_params, given):
    expected = optax_course(tx, given, eval_params=eval_params)
    assert_courses_agree(course(method, {"rate": 0.1}), course_of(expected))


def test_lookahead_is_evaluated_at_slow_weights_that_follow_the_fast_ones(given):
    adam, slow, points = optax.adamw(0.1), start(), [start()]
    fast, state = slow, adam.init(slow)
    for i, batch in enumerate(given):
        updates, state = adam.update(jax.grad(loss)(fast, batch), state, fast)
        fast = optax.apply_updates(fast, updates)
        if i % 3 == 2:
            slow = jax.tree.map(lambda s, f: s + 0.4 * (f - s), slow, fast)
            fast = slow
        points.append(slow)
    found = course(lookahead(sync_period=3), {"rate": 0.1, "slow_step_size": 0.4})
    assert_courses_agree(found, course_of(points))


def test_sam_takes_the_gradient_at_the_worst_place_nearby_on_the_same_batch(given):
    def worst_gradient(params, batch):
        grads = jax.grad(loss)(params, batch)
        norm = optax.tree.norm(grads)
        return jax.grad(loss)(jax.tree.map(lambda p, g: p + 0.3 * g / norm, params, grads), batch)

    found = course(sam(), {"rate": 0.1, "rho": 0.3})
    assert_courses_agree(found, course_of(optax_course(optax.adamw(0.1), given, worst_gradient)))
    assert (sam().gradients, sam().batches) == (2, 1)


def test_l2_sp_pulls_all_weights_to_their_start(given):
    def gradient(params, batch):
        return jax.tree.map(lambda g, p, p0: g + 3.0 * (p - p0), jax.grad(loss)(params, batch), params, start())

    found = course(l2_sp(), {"rate": 0.1, "strength": 3.0})
    assert_courses_agree(found, course_of(optax_course(optax.adamw(0.1), given, gradient)))


def test_a_fresh_head_is_free_of_l2_sp_and_the_body_is_not():
    setting = {"rate": 0.1, "strength": 1e4}
    body, head = (course(l2_sp(), setting, (part, 0, 0), fresh_head=True)[:, 0] for part in ("body", "head"))
    free = course(adamw(), {"rate": 0.1}, ("head", 0, 0))[:, 0]
    held = course(l2_sp(), setting, ("head", 0, 0))[:, 0]
    # Pulled at 1e4, Adam's steps go to and fro around the start; free ones go on.
    assert np.abs(held - held[0]).max() < 0.25 < np.abs(free - free[0]).max()
    assert np.abs(body - body[0]).max() < 0.25
    assert np.abs(head - head[0]).max() > 0.25


def test_a_fresh_head_is_evaluated_as_it_is_and_the_body_between():
    setting, free = {"rate": 0.1, "alpha": 0.3}, {"rate": 0.1}
    for part, alpha in (("head", 1.0), ("body", 0.3)):
        found = course(wise_ft(), setting, (part, 0, 0), fresh_head=True)[:, 0]
        tuned = course(adamw(), free, (part, 0, 0))[:, 0]
        np.testing.assert_allclose(found - found[0], alpha * (tuned - tuned[0]), rtol=1e-4, atol=1e-6)


def test_a_fresh_head_is_free_of_selective_decay_and_the_body_is_not():
    given = turning(6)
    decays = [
        optax_course(selective_projection_decay(optax.adam(0.1), 1.0, lambda params, free=free: free), given)
        for free in ({"body": body, "head": head} for body, head in ((False, False), (False, True), (True, True)))
    ]
    first_pull = next(i for i, (p, q) in enumerate(zip(decays[0], decays[2], strict=True)) if different(p, q))
    kept, partly, free = (points[first_pull] for points in decays)
    assert not np.array_equal(kept["head"], free["head"]) or not np.array_equal(kept["body"], free["body"])
    np.testing.assert_array_equal(partly["body"], kept["body"])
    np.testing.assert_array_equal(partly["head"], free["head"])


def different(params, others):
    return any(not np.array_equal(params[name], others[name]) for name in params)


def fisher_by_hand(params, xs):
    """E_x E_y (∂ log p(y|x) / ∂θ)², from the softmax's own derivative p(y|x) − 1[y = c]."""
    body, head = (np.asarray(params[name], float) for name in ("body", "head"))
    total = {"body": np.zeros_like(body), "head": np.zeros_like(head)}
    for x in np.asarray(xs, float):
        hidden = np.tanh(x @ body)
        z = hidden @ head
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        for y in range(CLASSES):
            delta = np.eye(CLASSES)[y] - p
            total["head"] += p[y] * np.outer(hidden, delta) ** 2
            total["body"] += p[y] * np.outer(x, (head @ delta) * (1 - hidden**2)) ** 2
    return {name: sums / len(xs) for name, sums in total.items()}


def test_fisher_is_the_mean_square_of_the_scores_under_the_models_own_answers():
    task = small_task()
    found = fisher(task, start(), task.data)
    expected = fisher_by_hand(start(), task.data[0])
    jax.tree.map(lambda f, e: np.testing.assert_allclose(f, e, rtol=1e-5), found, expected)


def test_ewc_pulls_weights_by_the_fisher_information(given):
    stiffness = fisher_by_hand(start(), small_task().data[0])

    def gradient(params, batch):
        grads = jax.grad(loss)(params, batch)
        return jax.tree.map(lambda g, f, p, p0: g + 30.0 * f * (p - p0), grads, stiffness, params, start())

    found = course(ewc(), {"rate": 0.1, "strength": 30.0})
    assert_courses_agree(found, course_of(optax_course(optax.adamw(0.1), given, gradient)))


def test_lwf_adds_the_distillation_of_the_old_model_on_the_new_inputs(given):
    gradient = jax.grad(distilled(loss, small_task().outputs, start(), 0.7))

    found = course(lwf(), {"rate": 0.1, "strength": 0.7})
    assert_courses_agree(found, course_of(optax_course(optax.adamw(0.1), given, gradient)))


def test_wise_ft_is_evaluated_between_the_start_and_the_fine_tuned_weights(given):
    points = optax_course(optax.adamw(0.1), given)
    between = [jax.tree.map(lambda p, p0: 0.7 * p0 + 0.3 * p, params, start()) for params in points]
    assert_courses_agree(course(wise_ft(), {"rate": 0.1, "alpha": 0.3}), course_of(between))


def test_head_only_moves_the_head_and_nothing_else(given):
    def gradient(params, batch):
        return {**jax.grad(loss)(params, batch), "body": jnp.zeros_like(params["body"])}

    # Without weight decay in the body, which has no gradient here but would decay.
    points = [{**p, "body": start()["body"]} for p in optax_course(optax.adamw(0.1), given, gradient)]
    found = course(head_only(), {"rate": 0.1}, probe=("head", 0, 0))
    assert_courses_agree(found, course_of(points, ("head", 0, 0)))
    body = course(head_only(), {"rate": 0.1})[:, 0]
    np.testing.assert_array_equal(body, np.full(STEPS + 1, body[0]))


def test_a_task_without_a_head_cannot_have_its_head_tuned():
    task = small_task()._replace(head=None)
    with pytest.raises(CompareError, match="`head`"):
        run_all(task, [Trial(head_only(), {"rate": 0.1}, evenly(1, 1))], BATCH)


def test_the_one_line_at_a_decay_is_the_one_line_at_that_setting():
    for decay in (0.0, 0.5):
        tuned = course(one_line(), {"rate": 0.1, "decay": decay})
        assert_courses_agree(course(one_line_at(decay), {"rate": 0.1}), tuned)
    assert np.abs(course(one_line_at(0.5), {"rate": 0.1}) - course(one_line_at(0.9), {"rate": 0.1})).max() > 1e-3


def test_a_pulled_method_is_on_the_loss_of_l2_sp():
    assert_courses_agree(course(with_pull(adamw()), {"rate": 0.1}), course(l2_sp(), {"rate": 0.1, "strength": 0.1}))
    assert (
        np.abs(course(with_pull(one_line_at(0.0)), {"rate": 0.1}) - course(one_line_at(0.0), {"rate": 0.1})).max()
        > 1e-3
    )


def test_lp_ft_is_the_head_alone_and_then_adamw_from_a_fresh_state(given):
    probe = ("head", 0, 0)
    head_steps, rate = 5, 0.1
    points = [start()]
    params, tx = start(), optax.adamw(HEAD_RATE)
    state = tx.init(params["head"])
    for batch in given[:head_steps]:
        updates, state = tx.update(jax.grad(loss)(params, batch)["head"], state, params["head"])
        params = {**params, "head": params["head"] + updates}
        points.append(params)
    tx = optax.adamw(rate)
    state = tx.init(params)
    for batch in given[head_steps:]:
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        points.append(params)
    method = lp_ft()
    assert_courses_agree(course(method, {"rate": rate, "head_steps": head_steps}, probe), course_of(points, probe))


def spd_by_hand(given, rate, strength):
    params, points, tx = start(), [start()], optax.adam(rate)
    state = tx.init(params)
    pulled = 0
    for batch in given:
        grads = jax.grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        for name in params:
            g, p, p0, u = (np.asarray(tree[name], float) for tree in (grads, params, start(), updates))
            stepped = p + u
            if -np.sum(g * (p - p0)) < 0:
                after, before = np.linalg.norm(stepped - p0), np.linalg.norm(p - p0)
                share = max(0, after - before) / after
                pulled += share > 0
                stepped = stepped - strength * share * (stepped - p0)
            params = {**params, name: jnp.asarray(stepped, jnp.float32)}
        points.append(params)
    return points, pulled


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_adam_spd_takes_back_what_leads_further_away_where_the_gradient_agrees(strength):
    given = turning(6)
    points, pulled = spd_by_hand(given, 0.1, strength)
    assert pulled, "it must have an effect for this to say anything"
    found = optax_course(selective_projection_decay(optax.adam(0.1), strength), given)
    assert_courses_agree(course_of(found), course_of(points))


def test_the_adam_spd_arm_is_adam_with_that_decay(given):
    expected = optax_course(selective_projection_decay(optax.adam(0.1), 0.5), given)
    found = course(adam_spd(), {"rate": 0.1, "strength": 0.5})
    assert_courses_agree(found, course_of(expected))


def ftp_by_hand(given, rate, kappa):
    """The authors' loop: one radius a leaf, learnt by Adam from the gradient at the projected weights."""
    params, points, tx = start(), [start()], optax.adamw(rate)
    state = tx.init(params)
    radius, first, second, before = {}, {}, {}, {}
    for t, batch in enumerate(given):
        grads = jax.grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        for name in params:
            g, p, p0, u = (np.asarray(tree[name], float) for tree in (grads, params, start(), updates))
            deviation = p + u - p0
            norms = np.abs(deviation).sum(axis=0, keepdims=True) + SMALLEST
            if t == 0:
                radius[name], first[name], second[name] = SMALLEST, 0.0, 0.0
            else:
                old_deviation, old_norms = before[name]
                slope = np.sum((g * old_deviation).sum(axis=0, keepdims=True) / old_norms)
                slope = kappa * slope if slope > 0 else slope
                first[name] = 0.9 * first[name] + 0.1 * slope
                second[name] = 0.999 * second[name] + 0.001 * slope**2
                # The authors count the first step too, which learns nothing.
                m, v = first[name] / (1 - 0.9 ** (t + 1)), second[name] / (1 - 0.999 ** (t + 1))
                radius[name] = np.clip(radius[name] - DISTANCE_RATE * m / (np.sqrt(v) + 1e-8), SMALLEST, norms.max())
            before[name] = deviation, norms
            projected = p0 + np.minimum(1, radius[name] / norms) * deviation
            params = {**params, name: jnp.asarray(projected, jnp.float32)}
        points.append(params)
    return points


def test_rows_of_a_kernel_are_its_outputs_and_a_bias_is_one_row():
    np.testing.assert_allclose(row_norms(jnp.array([[1.0, -2.0], [3.0, 4.0]])), [[4.0, 6.0]], rtol=RTOL)
    np.testing.assert_allclose(row_norms(jnp.array([1.0, -2.0, 3.0])), [6.0], rtol=RTOL)
    assert row_norms(jnp.ones((3, 3, 2, 5))).shape == (1, 1, 1, 5)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_ftp_learns_how_far_rows_may_go(kappa):
    # A radius grows, and then shrinks unless kappa is 0.
    given = turning(8)
    found = course_of(optax_course(fast_trainable_projection(optax.adamw(0.1), kappa), given))
    expected = course_of(ftp_by_hand(given, 0.1, kappa))
    assert np.abs(expected - course_of(optax_course(optax.adamw(0.1), given))).max() > 1e-2
    # θ₀ + d − θ and back costs some roundings a step.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_kappa_matters_where_a_radius_would_shrink():
    given = turning(8)
    free, kept = (optax_course(fast_trainable_projection(optax.adamw(0.1), kappa), given) for kappa in (1.0, 0.0))
    assert np.abs(course_of(free) - course_of(kept)).max() > 1e-3


def test_the_transparent_arm_takes_the_closure_arms_course():
    setting = {"rate": 0.1, "ratio": 5.0}
    for n_ref in (1, 2):
        (run,) = run_all(small_task(), [Trial(profit(n_ref), setting, evenly(4, 4))], BATCH)
        (other,) = run_all(small_task(), [Trial(profit_transparent(n_ref), setting, evenly(4, 4))], BATCH)
        np.testing.assert_allclose(other.new, run.new, rtol=RTOL, atol=RTOL)
        np.testing.assert_allclose(other.metrics["cosine"], run.metrics["cosine"], rtol=1e-3, atol=1e-4)
        assert other.gradients == run.gradients == n_ref + 1


@pytest.mark.parametrize(("make", "batches_a_step"), [(profit, 2), (one_line, 1)])
def test_a_warmed_up_form_first_is_its_main_optimizer(make, batches_a_step, given):
    warm = make(warmup_steps=4)
    found = course(warm, {"rate": 0.1, "ratio": 2.0, "decay": 0.0})
    alone_course = course_of(optax_course(optax.adamw(0.1), given[::batches_a_step][:4]))
    np.testing.assert_allclose(found[:5], alone_course, rtol=RTOL, atol=RTOL)
    assert np.abs(found[5:] - course(make(), {"rate": 0.1, "ratio": 2.0, "decay": 0.0})[5:]).max() > 1e-3
    assert "4 steps of warm-up" in warm.name
