"""What holds of every tree, optimizer, rate and number of reference steps, on random ones.

The suite tries few examples, the same ones every time. `make properties` tries thousands, others each time, and prints
the seed; a failure prints the decorator that replays it.
"""

import functools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import (
    eval_params,
    orthogonalize,
    orthogonalize_to_previous,
    profit,
    profit_transparent,
    reject_nonfinite,
)
from tests import algorithm1, optimizers, recurrence, trees
from tests.algorithm1 import Profit, Sgd
from tests.steps import EPS

SEEDS = st.integers(0, 2**32 - 1)
N_REF = st.integers(1, trees.MOST)
# 1e-18 to 1e6.
RATES = st.integers(-60, 20).map(lambda exponent: 2.0**exponent)
TREES = trees.specs()
OPTIMIZERS = st.sampled_from(sorted(optimizers.ALONE))
# What every optimizer of Optax can train: most have not heard of complex numbers, and some not of bfloat16.
PLAIN = trees.specs(shapes=((3,), (2, 2)), dtypes=("float32",), nothing=((),)).filter(jax.tree.leaves)


def examples(count: int) -> hypothesis.settings:
    """So many examples in the suite, and as many times more as another profile says."""
    return hypothesis.settings(max_examples=count * hypothesis.settings().max_examples // 100)


def given_gradients(params: Any, batch: Any) -> Any:
    """A closure whose batches are the gradients themselves."""
    return jnp.zeros(()), batch


def draw(spec: Any, seed: int, count: int, exponent: int = 0) -> list[Any]:
    return [trees.numbers(spec, seed + i, exponent) for i in range(count)]


def stack(gradients: list[Any]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *gradients)


def whole_step(tx: Any, gradients: list[Any], params: Any, state: Any = None) -> Any:
    """One step of the closure form on given gradients."""
    state = tx.init(params) if state is None else state
    batches = stack(gradients[1:])
    return tx.update(gradients[0], state, params, value_and_grad_fn=given_gradients, batches=batches)


def calls(tx: Any, gradients: list[Any], params: Any, state: Any = None) -> Any:
    """A call for each of given gradients, and where the loop's parameters are after each of them."""
    state, seen = tx.init(params) if state is None else state, []
    for grads in gradients:
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def projection_error(g: Any) -> float:
    """How far an entry of a projected gradient may be off, as a part of the gradient's norm."""
    return 16 * EPS * trees.norm(g)


def assert_projected(found: Any, metrics: Any, g: Any, delta: algorithm1.Tree) -> None:
    """`found` is the projection of g against Δ, and the metrics are those of float64."""
    exact = algorithm1.project(trees.float64(g), delta)
    size = exact.gradient_norm * exact.displacement_norm
    # Where ω is within rounding of 0 either branch is right, and they differ by no more than that.
    for (name, x), leaf in zip(trees.float64(found).items(), jax.tree.leaves(g), strict=True):
        rounding = float(jnp.finfo(leaf.dtype).eps) * np.abs(exact.gradient[name])
        assert np.all(np.abs(x - exact.gradient[name]) <= rounding + projection_error(g))
    np.testing.assert_allclose(metrics.inner_product, exact.inner_product, rtol=0, atol=16 * EPS * size)
    np.testing.assert_allclose(metrics.cosine, exact.cosine, rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(metrics.gradient_norm, exact.gradient_norm, rtol=16 * EPS)
    np.testing.assert_allclose(metrics.displacement_norm, exact.displacement_norm, rtol=16 * EPS)
    if abs(exact.cosine) > 16 * EPS:
        assert bool(metrics.conflict) == exact.conflict


def assert_orthogonal(found: Any, delta: algorithm1.Tree, g: Any) -> None:
    """Nothing is left along Δ where the two conflicted, but what the leaves' own dtypes round."""
    rounding = (16 * EPS + trees.eps(g)) * trees.norm(g) * algorithm1.inner(delta, delta) ** 0.5
    assert algorithm1.inner(trees.float64(found), delta) >= -rounding


def assert_no_longer(found: Any, g: Any) -> None:
    assert trees.norm(found) <= (1 + 16 * EPS + trees.eps(g)) * trees.norm(g)


# The projection by itself.


@examples(40)
@hypothesis.given(TREES, SEEDS, st.integers(-60, 60), st.integers(-60, 60))
def test_a_projection_is_that_of_float64_orthogonal_and_no_longer(spec, seed, of_g, of_delta):
    g, delta = trees.numbers(spec, seed, of_g), trees.numbers(spec, seed + 1, of_delta)
    found, metrics = orthogonalize(g, delta)
    assert trees.description(found) == trees.description(g)
    assert_projected(found, metrics, g, trees.float64(delta))
    assert_orthogonal(found, trees.float64(delta), g)
    assert_no_longer(found, g)


@examples(40)
@hypothesis.given(TREES, SEEDS, st.integers(-90, 90), st.integers(-90, 90))
def test_the_scales_of_gradient_and_displacement_change_no_bit(spec, seed, of_g, of_delta):
    g, delta = trees.numbers(spec, seed), trees.numbers(spec, seed + 1)
    expected, of_expected = orthogonalize(g, delta)
    found, metrics = orthogonalize(trees.numbers(spec, seed, of_g), trees.numbers(spec, seed + 1, of_delta))
    # In float64, because what is below the normal numbers cannot be scaled back.
    for x, y in zip(trees.float64(found).values(), trees.float64(expected).values(), strict=True):
        np.testing.assert_array_equal(x, np.ldexp(y, of_g))
    assert (metrics.cosine, metrics.conflict) == (of_expected.cosine, of_expected.conflict)


@examples(40)
@hypothesis.given(TREES, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_leaves_and_the_tree_around_them_do_not_matter(spec, seed, random):
    g, delta = trees.numbers(spec, seed), trees.numbers(spec, seed + 1)
    expected, of_expected = orthogonalize(g, delta)
    order = list(range(len(jax.tree.leaves(g))))
    random.shuffle(order)
    shuffled = lambda tree: [jax.tree.leaves(tree)[i] for i in order]  # noqa: E731
    found, metrics = orthogonalize(shuffled(g), shuffled(delta))
    np.testing.assert_allclose(metrics.cosine, of_expected.cosine, rtol=0, atol=16 * EPS)
    trees.assert_near(found, shuffled(expected), projection_error(g) + trees.eps(g) * trees.norm(g))


# The forms.


@examples(40)
@hypothesis.given(TREES, SEEDS, N_REF, RATES, st.integers(-8, 3))
def test_a_step_is_that_of_algorithm_1_at_every_reference_rate(spec, seed, n_ref, rate, exponent):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1, exponent)
    updates, state = whole_step(profit(optax.identity(), optax.sgd(rate), n_ref), gradients, params)
    oracle = Profit(lambda theta, g: g, Sgd(rate), n_ref)
    # By the gradients alone: θ + Δ would lose Δ even in float64.
    zero = jax.tree.map(np.zeros_like, trees.float64(params))
    oracle.step(zero, lambda _, batch: batch, [trees.float64(g) for g in gradients])
    delta = {name: -rate * sum(trees.float64(g)[name] for g in gradients[:-1]) for name in zero}
    assert trees.description(updates) == trees.description(params)
    assert_projected(updates, state.metrics, gradients[-1], delta)
    (seen,) = oracle.projections
    np.testing.assert_allclose(state.metrics.cosine, seen.cosine, rtol=0, atol=16 * EPS)
    assert_orthogonal(updates, delta, gradients[-1])
    assert_no_longer(updates, gradients[-1])


@examples(40)
@hypothesis.given(TREES, SEEDS, N_REF, RATES, RATES)
def test_the_reference_rate_changes_no_bit_of_a_step_on_given_gradients(spec, seed, n_ref, rate, other):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1)
    (found, state), (expected, of_expected) = (
        whole_step(profit(optax.identity(), optax.sgd(each), n_ref), gradients, params) for each in (rate, other)
    )
    trees.assert_same_bits(found, expected)
    assert state.metrics.cosine == of_expected.metrics.cosine


@examples(10)
@hypothesis.given(TREES, SEEDS, N_REF, RATES, st.integers(0, 2), st.sampled_from((0.0, 0.5)))
def test_the_closure_and_the_transparent_form_agree(spec, seed, n_ref, rate, warmup_steps, momentum):
    params = trees.numbers(spec, seed + 99)
    arguments = (optax.sgd(0.25, momentum=0.5), optax.sgd(rate, momentum=momentum), n_ref)
    closure, transparent = (make(*arguments, warmup_steps=warmup_steps) for make in (profit, profit_transparent))
    state, others, held, theta = closure.init(params), transparent.init(params), params, params
    for step in range(3):
        gradients = draw(spec, seed + 10 * step, n_ref + 1)
        updates, state = whole_step(closure, gradients, theta, state)
        theta = optax.apply_updates(theta, updates)
        passed = gradients[:1] if step < warmup_steps else gradients
        seen, others = calls(transparent, passed, held, others)
        held = seen[-1]
        trees.assert_same_bits(others.metrics, state.metrics)
        trees.assert_same_bits(others.optimizer_state, state.optimizer_state)
        trees.assert_same_bits(others.reference_state, state.reference_state)
        trees.assert_same_bits(eval_params(others, held), held)
        # Coming back from afar rounds θ by one unit in the last place of θ + Δ, each time.
        far = max([trees.norm(x) for x in (params, theta, *seen)])
        trees.assert_near(held, theta, 4 * (step + 1) * trees.eps(params) * far)
    assert int(state.count) == int(others.count) == 3


@examples(40)
@hypothesis.given(TREES, SEEDS, N_REF, RATES)
def test_in_the_middle_of_a_cycle_theta_is_kept_bit_for_bit(spec, seed, n_ref, rate):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref)
    tx = profit_transparent(optax.sgd(0.25), optax.sgd(rate), n_ref)
    held, state = params, tx.init(params)
    for grads in gradients:
        trees.assert_same_bits(eval_params(state, held), params)
        updates, state = tx.update(grads, state, held)
        held = optax.apply_updates(held, updates)
        assert trees.description(updates) == trees.description(params)
    trees.assert_same_bits(eval_params(state, held), params)


def test_every_optimizer_of_optax_is_tried_or_is_known_to_need_more():
    assert optimizers.OFFERED.keys() >= optimizers.NEED_MORE
    assert len(optimizers.ALONE) >= 40
    for name in sorted(optimizers.NEED_MORE & optimizers.OFFERED.keys() - {"differentially_private_aggregate"}):
        assert name not in optimizers.ALONE


def displacement_of(name: str, gradients: list[Any], params: Any) -> tuple[algorithm1.Tree, float]:
    """Δ of a reference optimizer by hand, and the length of the way there."""
    reference = optimizers.ALONE[name]()
    state, delta, length = reference.init(params), jax.tree.map(jnp.zeros_like, params), 0.0
    for grads in gradients:
        updates, state = reference.update(grads, state, jax.tree.map(jnp.add, params, delta))
        delta, length = jax.tree.map(jnp.add, delta, updates), length + trees.norm(updates)
    return trees.float64(delta), length


@pytest.mark.parametrize("name", sorted(optimizers.ALONE))
@examples(2)
@hypothesis.given(spec=PLAIN, seed=SEEDS, n_ref=st.integers(1, 3), exponent=st.integers(-8, 8))
def test_any_optimizer_of_optax_takes_the_reference_steps_and_the_main_step(name, spec, seed, n_ref, exponent):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1, exponent)
    projected, of_projected = whole_step(profit(optax.identity(), optimizers.ALONE[name](), n_ref), gradients, params)
    delta, length = displacement_of(name, gradients[:-1], params)
    moved = algorithm1.inner(delta, delta) ** 0.5
    # Where updates cancel, rounding is what may be left of them.
    if moved >= 1e-2 * length > 0:
        exact = algorithm1.project(trees.float64(gradients[-1]), delta)
        np.testing.assert_allclose(of_projected.metrics.displacement_norm, moved, rtol=1e-3)
        np.testing.assert_allclose(of_projected.metrics.cosine, exact.cosine, rtol=0, atol=1e-3)
        assert algorithm1.inner(trees.float64(projected), delta) >= -1e-3 * trees.norm(gradients[-1]) * moved
    assert_no_longer(projected, gradients[-1])
    # The other way round: as the main optimizer it is handed what plain SGD's steps leave of the gradient, and θ.
    main, reference = optimizers.ALONE[name](), optax.sgd(2.0**-20)
    projected, _ = whole_step(profit(optax.identity(), reference, n_ref), gradients, params)
    expected, of_expected = main.update(projected, main.init(params), params)
    tx = profit(main, reference, n_ref)
    updates, state = whole_step(tx, gradients, params)
    trees.assert_same_bits(updates, expected)
    trees.assert_same_bits(state.optimizer_state, of_expected)
    assert trees.description(state) == trees.description(tx.init(params))


@examples(10)
@hypothesis.given(OPTIMIZERS, OPTIMIZERS, PLAIN, SEEDS, st.integers(1, 3))
def test_with_any_two_optimizers_the_forms_agree_and_compile_to_what_they_say(main, reference, spec, seed, n_ref):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1)
    arguments = (optimizers.ALONE[main](), optimizers.ALONE[reference](), n_ref)
    closure, transparent = profit(*arguments), profit_transparent(*arguments)
    updates, state = whole_step(closure, gradients, params)
    seen, after = calls(transparent, gradients, params)
    trees.assert_near(after.metrics, state.metrics, 1e-4 * (1 + trees.norm(state.metrics)))
    theta = optax.apply_updates(params, updates)
    trees.assert_near(seen[-1], theta, 1e-4 * (1 + trees.norm(theta)))


# Masks, warm-up, the one line, and what compiles.


@examples(10)
@hypothesis.given(TREES, SEEDS, st.integers(1, 3), RATES, st.sampled_from((profit, profit_transparent)))
def test_masked_leaves_keep_every_bit_and_the_others_train_as_if_alone(spec, seed, n_ref, rate, make):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1)
    rng = np.random.default_rng(seed)
    mask = jax.tree.map(lambda _: bool(rng.random() < 0.5), params)
    only = lambda tree: [x for x, trained in zip(*map(jax.tree.leaves, (tree, mask)), strict=True) if trained]  # noqa: E731
    arguments = (optax.sgd(0.25, momentum=0.5), optax.sgd(rate), n_ref)

    def end(tx: Any, gradients: list[Any], params: Any) -> Any:
        if make is profit_transparent:
            seen, state = calls(tx, gradients, params)
            return seen[-1], state.metrics
        updates, state = whole_step(tx, gradients, params)
        return optax.apply_updates(params, updates), state.metrics

    # What a frozen leaf holds, and what comes for it, must not matter.
    odd = jax.tree.map(lambda x, trained: x if trained else jnp.full_like(x, jnp.nan), gradients[-1], mask)
    found, metrics = end(make(*arguments, mask=mask), [*gradients[:-1], odd], params)
    expected, of_expected = end(make(*arguments), [only(g) for g in gradients], only(params))
    trees.assert_same_bits(only(found), expected)
    trees.assert_same_bits(metrics, of_expected)
    frozen = lambda tree: [x for x, trained in zip(*map(jax.tree.leaves, (tree, mask)), strict=True) if not trained]  # noqa: E731
    trees.assert_same_bits(frozen(found), frozen(params))


@examples(10)
@hypothesis.given(TREES, SEEDS, st.sampled_from((0.0, 0.25, 0.5)), st.integers(0, 2))
def test_the_one_line_follows_its_recurrence(spec, seed, decay, warmup_steps):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, 5)
    line = orthogonalize_to_previous(decay, warmup_steps=warmup_steps, dtype="float32")
    oracle = recurrence.OneLine(trees.float64(params), lambda theta, g: theta, decay, warmup_steps)
    state = line.init(params)
    for g in gradients:
        before = oracle.previous
        oracle.step(lambda _, batch: batch, trees.float64(g))
        updates, state = line.update(g, state, params)
        assert trees.description(updates) == trees.description(g)
        active = algorithm1.scale(-float(len(oracle.projections) > warmup_steps), before)
        assert_projected(updates, state.metrics, g, active)
        assert_orthogonal(updates, active, g)
        assert_no_longer(updates, g)
        for x, y in zip(trees.float64(state.previous).values(), oracle.previous.values(), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=4 * EPS)


@functools.cache
def compiled(make: Any, n_ref: int) -> Any:
    tx = make(optax.sgd(0.25, momentum=0.5), optax.sgd(2.0**-20, momentum=0.5), n_ref)
    return tx, jax.jit(lambda gradients, params: (whole_step if make is profit else calls)(tx, gradients, params))


@examples(10)
@hypothesis.given(TREES, SEEDS, st.sampled_from((1, 3)), st.sampled_from((profit, profit_transparent)))
def test_a_compiled_step_is_the_step_outside_of_programs(spec, seed, n_ref, make):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1)
    tx, step = compiled(make, n_ref)
    found = step(gradients, params)
    expected = (whole_step if make is profit else calls)(tx, gradients, params)
    assert trees.description(found) == trees.description(expected)
    trees.assert_near(found, expected, 64 * EPS + 4 * trees.eps(params) * max(1, trees.norm(params)))


@examples(10)
@hypothesis.given(TREES, SEEDS, N_REF, RATES, st.sampled_from((jnp.nan, jnp.inf, -jnp.inf)), st.data())
def test_one_number_that_is_not_finite_makes_all_updates_nan_and_the_guard_drops_the_step(
    spec, seed, n_ref, rate, bad, data
):
    params, gradients = trees.numbers(spec, seed + 99), draw(spec, seed, n_ref + 1)
    places = [i for i, x in enumerate(jax.tree.leaves(params)) if x.size]
    hypothesis.assume(places)
    which, place = data.draw(st.integers(0, n_ref)), data.draw(st.sampled_from(places))
    leaves, structure = jax.tree.flatten(gradients[which])
    entry = data.draw(st.integers(0, leaves[place].size - 1))
    leaves[place] = leaves[place].ravel().at[entry].set(bad).reshape(leaves[place].shape)
    broken = [*gradients[:which], jax.tree.unflatten(structure, leaves), *gradients[which + 1 :]]
    tx = profit(optax.sgd(0.25, momentum=0.5), optax.sgd(rate), n_ref)
    updates, state = whole_step(tx, broken, params)
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(updates))
    assert np.isnan(state.metrics.cosine)
    guard = reject_nonfinite(tx, 1)
    _, before = whole_step(guard, gradients, params)
    updates, after = whole_step(guard, broken, params, before)
    trees.assert_same_bits(optax.apply_updates(params, updates), params)
    trees.assert_same_bits(after.inner_state, before.inner_state)
    assert (int(after.notfinite_count), int(after.total_notfinite), bool(after.last_finite)) == (1, 1, False)
