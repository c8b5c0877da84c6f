"""The closure form together with the rest of Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import ProfitState, profit, reject_nonfinite
from tests import agreement, algorithm1, regression
from tests.algorithm1 import Sgd, float64
from tests.steps import EPS, assert_close, given, one_step, take_step

STATIC = ("n_ref", "warmup_steps", "displacement_dtype")


def factory(main_rate, reference_rate, n_ref=2, warmup_steps=0, displacement_dtype=None):
    options = {"warmup_steps": warmup_steps, "displacement_dtype": displacement_dtype}
    return profit(optax.sgd(main_rate), optax.sgd(reference_rate), n_ref, **options)


def test_a_chain_forwards_closure_and_batches():
    updates, state = one_step(optax.chain(factory(0.1, 0.02), optax.scale(0.5)))
    expected, expected_state = one_step(factory(0.1, 0.02))
    assert_close(updates, jax.tree.map(lambda u: 0.5 * u, expected))
    assert_close(optax.tree.get(state, "cosine"), expected_state.metrics.cosine)


def test_what_precedes_it_in_a_chain_touches_reference_step_1_only():
    tx = optax.chain(optax.scale(10.0), profit(optax.identity(), optax.sgd(1.0), 2))
    updates, state = take_step(tx, jnp.zeros(1), jnp.array([-1.0]), jnp.array([[-1.0], [5.0]]))
    assert optax.tree.get(state, "displacement_norm") == 11
    np.testing.assert_array_equal(updates, [5.0])


def test_clipping_inside_both_optimizers_reaches_every_gradient():
    clip = optax.clip_by_global_norm(0.1)
    updates, state = one_step(profit(optax.chain(clip, optax.sgd(0.5)), optax.chain(clip, optax.sgd(0.02)), 2))

    def clipped(optimizer):
        def step(theta, g):
            norm = algorithm1.inner(g, g) ** 0.5
            return optimizer(theta, algorithm1.scale(min(1.0, 0.1 / norm), g))

        return step

    params = regression.params()
    algorithm = algorithm1.Profit(clipped(Sgd(0.5)), clipped(Sgd(0.02)), 2)
    expected = agreement.run_algorithm1(algorithm, float64(params), regression.data(1, 3))
    assert algorithm.projections[0].gradient_norm > 0.1
    assert agreement.relative_error(optax.apply_updates(params, updates), expected, float64(params)) <= 2e-4
    np.testing.assert_allclose(state.metrics.gradient_norm, algorithm.projections[0].gradient_norm, rtol=1e-4)


def test_accumulation_goes_inside_the_closure():
    def accumulated(params, micro_batches):
        return jax.tree.map(
            lambda x: jnp.mean(x, axis=0),
            jax.lax.map(lambda batch: regression.value_and_grad_fn(params, batch), micro_batches),
        )

    def in_micro_batches(params, batch):
        halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
        return accumulated(params, halves)

    whole, _ = one_step(factory(0.1, 0.1))
    assert_close(one_step(factory(0.1, 0.1), value_and_grad_fn=in_micro_batches)[0], whole, 1e-4)


def test_wrappers_may_go_inside_both_optimizers():
    main = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))
    wrapped = profit(optax.apply_if_finite(main, 3), optax.apply_if_finite(optax.sgd(0.02), 3), 2)
    updates, state = one_step(wrapped)
    assert isinstance(state, ProfitState)
    assert_close(updates, one_step(profit(main, optax.sgd(0.02), 2))[0])


def test_hyperparameters_can_be_injected_with_static_args():
    tx = optax.inject_hyperparams(factory, static_args=STATIC)(
        main_rate=0.1, reference_rate=lambda count: 0.02 / (1 + count), displacement_dtype=jnp.bfloat16
    )
    updates, state = one_step(tx)
    assert_close(updates, one_step(factory(0.1, 0.02, displacement_dtype=jnp.bfloat16))[0])
    np.testing.assert_allclose(state.hyperparams["reference_rate"], 0.02)


def test_profit_itself_can_be_injected_with_static_args():
    tx = optax.inject_hyperparams(profit, static_args=STATIC)(
        optax.sgd(0.1), optax.sgd(0.02), n_ref=2, warmup_steps=0, displacement_dtype=jnp.float32
    )
    assert_close(one_step(tx)[0], one_step(factory(0.1, 0.02))[0])


def test_a_changed_hyperparameter_does_not_recompile():
    tx = optax.inject_hyperparams(factory, static_args=STATIC)(main_rate=0.1, reference_rate=0.02)
    g, batches = jnp.ones(2), jnp.ones((2, 2))
    update = jax.jit(lambda state: tx.update(g, state, g, value_and_grad_fn=given, batches=batches))
    norms, state = [], tx.init(g)
    for rate in (0.02, 0.04):
        state.hyperparams["reference_rate"] = jnp.asarray(rate, jnp.float32)
        _, state = update(state)
        norms.append(float(optax.tree.get(state, "displacement_norm")))
    assert update._cache_size() == 1
    np.testing.assert_allclose(norms[1], 2 * norms[0], rtol=4 * EPS)


@pytest.mark.parametrize("name", ["n_ref", "warmup_steps"])
def test_an_injected_count_names_static_args(name):
    static = [other for other in STATIC if other != name]
    tx = optax.inject_hyperparams(factory, static_args=static)(main_rate=0.1, reference_rate=0.02)
    with pytest.raises(TypeError, match=rf"(?s){name}.*inject_hyperparams\(.*static_args=.*{name}"):
        tx.init(jnp.ones(2))


def test_an_injected_dtype_object_names_static_args():
    tx = optax.inject_hyperparams(factory, static_args=("n_ref", "warmup_steps"))(
        0.1, 0.02, displacement_dtype=jnp.bfloat16
    )
    with pytest.raises(TypeError, match=r"(?s)displacement_dtype.*inject_hyperparams\(.*static_args="):
        tx.init(jnp.ones(2))


def test_an_injected_dtype_may_be_a_string():
    tx = optax.inject_hyperparams(factory, static_args=("n_ref", "warmup_steps"))(
        0.1, 0.02, displacement_dtype="bfloat16"
    )
    assert_close(one_step(tx)[0], one_step(factory(0.1, 0.02, displacement_dtype="bfloat16"))[0])


def test_further_keywords_go_to_the_main_optimizer_only():
    seen = {"main": [], "reference": []}

    def spy(name):
        def update(grads, state, params=None, **extra_args):
            seen[name].append(extra_args)
            return grads, state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    one_step(profit(spy("main"), spy("reference"), 2), value=3.0)
    assert seen["main"]
    assert all(extra_args == {"value": 3.0} for extra_args in seen["main"])
    assert seen["reference"]
    assert all(extra_args == {} for extra_args in seen["reference"])


def test_further_keywords_reach_an_optimizer_that_needs_them():
    tx = profit(optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1)), optax.sgd(0.02), 2)
    assert_close(one_step(tx, value=jnp.float32(1.0))[0], one_step(factory(0.1, 0.02))[0])


def test_further_keywords_are_ignored_where_nobody_takes_them():
    tx = factory(0.1, 0.02)
    assert_close(one_step(tx, value=3.0, unheard_of=None)[0], one_step(tx)[0], tolerance=0)


def test_tree_get_finds_the_metrics_at_any_depth():
    _, state = one_step(optax.chain(reject_nonfinite(factory(0.1, 0.02), 3)))
    metrics = state[0].inner_state.metrics
    assert metrics.gradient_norm > 0
    for name in ("inner_product", "cosine", "conflict", "displacement_norm", "gradient_norm"):
        assert optax.tree.get(state, name) == getattr(metrics, name)
