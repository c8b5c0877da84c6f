"""One number that is not finite, at every place of a run: what guards it drops the step, as if it had not been."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, orthogonalize_to_previous, profit, profit_transparent, reject_nonfinite
from tests.forms import assert_same

N_REF, STEPS = 2, 4
BAD = [np.nan, np.inf, -np.inf]
MAIN = optax.adamw(0.1)


def params():
    return {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([1.0])}


def gradients(rows, columns, seed=0):
    """Leaves [rows, columns, ...], which agree and conflict by chance."""
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(rows, columns, 2, 2)), "b": rng.normal(size=(rows, columns, 1))}


# The optimizer, and how many gradients a call takes.
GUARDED = {
    "closure": (reject_nonfinite(profit(MAIN, optax.sgd(1e-3, momentum=0.5), N_REF), 1), N_REF + 1),
    "subtract": (reject_nonfinite(profit(MAIN, optax.sgd(1e-3), N_REF, displacement="subtract"), 1), N_REF + 1),
    "transparent": (reject_nonfinite(profit_transparent(MAIN, optax.sgd(1e-3, momentum=0.5), N_REF), 1), 1),
    "one line": (reject_nonfinite(optax.chain(orthogonalize_to_previous(), MAIN), 1), 1),
    "average": (reject_nonfinite(optax.chain(orthogonalize_to_previous(0.5), MAIN), 1), 1),
    "transparent, by Optax": (optax.apply_if_finite(profit_transparent(MAIN, optax.sgd(1e-3), N_REF), 1), 1),
    "one line, by Optax": (optax.apply_if_finite(optax.chain(orthogonalize_to_previous(), MAIN), 1), 1),
}


@functools.cache
def call_of(name):
    tx, count = GUARDED[name]

    @jax.jit
    def call(params, state, row):
        others = jax.tree.map(lambda x: x[1:], row)
        extra = {"value_and_grad_fn": lambda _, batch: (0.0, batch), "batches": others} if count > 1 else {}
        updates, state = tx.update(jax.tree.map(lambda x: x[0], row), state, params, **extra)
        return optax.apply_updates(params, updates), state

    return call


def run(name, rows):
    """Calls on rows of gradients: the parameters after each of them, and the last state."""
    tx, _ = GUARDED[name]
    held, state, seen = params(), tx.init(params()), []
    for row in rows:
        held, state = call_of(name)(held, state, row)
        seen.append(held)
    return seen, state


def rows_of(name):
    _, count = GUARDED[name]
    # Two whole cycles of the transparent form.
    data = gradients(STEPS if count > 1 else 2 * (N_REF + 1), count)
    return [jax.tree.map(lambda x, i=i: np.float32(x[i]), data) for i in range(len(data["b"]))]


@pytest.mark.parametrize("name", GUARDED)
def test_a_run_with_a_broken_step_is_the_run_without_that_step_bit_for_bit(name):
    _, count = GUARDED[name]
    rows = rows_of(name)
    for step in range(len(rows)):
        without, expected = run(name, rows[:step] + rows[step + 1 :])
        for which, leaf, bad in itertools.product(range(count), ("w", "b"), BAD):
            broken = jax.tree.map(np.copy, rows[step])
            broken[leaf][which].flat[-1] = bad
            seen, state = run(name, [*rows[:step], broken, *rows[step + 1 :]])
            assert_same(seen[step], seen[step - 1] if step else params())
            assert_same(seen[-1], without[-1])
            assert_same(state.inner_state, expected.inner_state)
            assert int(state.total_notfinite) == 1
            assert int(state.notfinite_count) == (1 if step == len(rows) - 1 else 0)
            assert_same(eval_params(state, seen[-1]), eval_params(expected, without[-1]))


@pytest.mark.parametrize("name", GUARDED)
def test_a_run_that_stays_broken_is_seen_to_be_so(name):
    _, count = GUARDED[name]
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), rows_of(name)[0])
    seen, state = run(name, [broken] * (2 if count > 1 else N_REF + 2))
    # One is dropped, and the next one is let through.
    assert_same(seen[0], params())
    assert not np.any(np.isfinite(seen[-1]["w"]))
    assert int(state.total_notfinite) >= 2


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("which", range(N_REF + 1))
def test_with_optax_guards_inside_both_optimizers_the_parameters_stay_finite(which, bad):
    guard = lambda tx: optax.apply_if_finite(tx, 3)  # noqa: E731
    tx = profit(guard(MAIN), guard(optax.sgd(1e-3)), N_REF)
    rows = gradients(1, N_REF + 1)
    rows["b"][0, which, 0] = bad
    first, others = (jax.tree.map(lambda x, at=at: jnp.float32(x[0, at]), rows) for at in (0, slice(1, None)))
    updates, state = tx.update(
        first, tx.init(params()), params(), value_and_grad_fn=lambda _, batch: (0.0, batch), batches=others
    )
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))
    dropped = (int(state.optimizer_state.total_notfinite), int(state.reference_state.total_notfinite))
    # A reference step that is dropped moves nothing, and the step goes on without it.
    assert dropped == ((1, 0) if which == N_REF else (0, 1))
    assert np.any(np.asarray(updates["w"]) != 0) == (which < N_REF)


def test_the_guard_inside_a_reference_step_leaves_the_displacement_of_the_others():
    guarded = profit(optax.identity(), optax.apply_if_finite(optax.sgd(1e-3), 3), 2)
    fewer = profit(optax.identity(), optax.sgd(1e-3), 1)
    closure = lambda _, batch: (0.0, batch)  # noqa: E731
    good, bad, last = jnp.array([1.0, -2.0]), jnp.array([jnp.nan, 1.0]), jnp.array([1.0, 1.0])
    start = jnp.zeros(2)
    expected, _ = fewer.update(good, fewer.init(start), start, value_and_grad_fn=closure, batches=last[None])
    for gradients in ((good, bad, last), (bad, good, last)):
        updates, _ = guarded.update(
            gradients[0], guarded.init(start), start, value_and_grad_fn=closure, batches=jnp.stack(gradients[1:])
        )
        np.testing.assert_array_equal(updates, expected)
