"""Long runs, made short: `make soak` takes fifty times as many steps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import orthogonalize_to_previous, profit, profit_transparent, reject_nonfinite
from tests import soak

STEPS = 2_000
MOST = np.iinfo(np.int32).max


@pytest.mark.parametrize("dtype", soak.DTYPES)
@pytest.mark.parametrize("form", soak.FORMS)
def test_nothing_grows_in_a_long_run(form, dtype):
    soak.assert_sound(soak.soak(form, dtype, STEPS), memory=32 << 20)


@pytest.mark.parametrize("dtype", soak.DTYPES)
@pytest.mark.parametrize("form", soak.FORMS)
def test_theta_does_not_drift_where_main_steps_are_0(form, dtype):
    start = np.asarray(soak.start(dtype), np.float64)
    few, many = (soak.soak(form, dtype, steps, rate=0.0).theta for steps in (10, STEPS))
    assert np.abs(many - start).max() <= soak.drift_allowed(form, dtype)
    assert np.abs(few - start).max() <= soak.drift_allowed(form, dtype)


def test_a_leak_is_noticed():
    kept = []
    sound = soak.Soak(2, 1, 0, 0, 0, 2, np.zeros(1))
    soak.assert_sound(sound, memory=1)
    for broken in ({"compilations": 2}, {"arrays": 1}, {"objects": 100}, {"memory": 1}, {"count": 1}):
        with pytest.raises(AssertionError):
            soak.assert_sound(sound._replace(**broken), memory=1)
    before = soak.alive()
    kept = [jnp.ones(2) for _ in range(3)]
    assert soak.alive()[0] == before[0] + len(kept)


def full(state):
    """A state whose counters are as large as they get."""
    names = {"count", "notfinite_count", "total_notfinite"}
    return state._replace(**{name: jnp.int32(MOST) for name in names & set(state._fields)})


@pytest.mark.parametrize("form", ["closure", "transparent", "one line"])
def test_counters_stay_at_the_largest_number_and_steps_go_on(form):
    make = {
        "closure": lambda: profit(optax.sgd(0.5), optax.sgd(0.25), warmup_steps=2),
        "transparent": lambda: profit_transparent(optax.sgd(0.5), optax.sgd(0.25), warmup_steps=2),
        "one line": lambda: orthogonalize_to_previous(warmup_steps=2),
    }[form]
    tx = make()
    params, grads = jnp.ones(2), jnp.array([1.0, -1.0])
    state = full(tx.init(params))
    closure = {"value_and_grad_fn": lambda p, batch: (0.0, batch), "batches": jnp.array([[-2.0, 1.0]])}
    for _ in range(4):
        updates, state = tx.update(grads, state, params, **(closure if form == "closure" else {}))
        # A counter that began anew would bring the warm-up back.
        assert int(state.count) == MOST
        assert np.all(np.isfinite(updates))
    assert float(state.metrics.displacement_norm) > 0


def test_counters_of_the_guard_stay_at_the_largest_number():
    tx = reject_nonfinite(optax.sgd(1.0), 3)
    state = full(tx.init(jnp.ones(2)))
    for _ in range(3):
        _, state = tx.update(jnp.array([jnp.nan, 1.0]), state)
        assert (int(state.notfinite_count), int(state.total_notfinite)) == (MOST, MOST)
    _, state = tx.update(jnp.ones(2), state)
    assert (int(state.notfinite_count), int(state.total_notfinite)) == (0, MOST)
