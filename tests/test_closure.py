"""The closure form against Algorithm 1, and each of its options."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import ProfitMetrics, ProfitState, orthogonalize, profit
from tests import agreement, algorithm1, regression
from tests.algorithm1 import Sgd, float64
from tests.steps import EPS, given, norm, take_step


@pytest.mark.parametrize("n_ref", [1, 2, 3, 5])
@pytest.mark.parametrize("reference", agreement.REFERENCE)
@pytest.mark.parametrize("main", agreement.MAIN)
def test_six_steps_agree_with_algorithm_1_in_float32(main, reference, n_ref):
    agreement.assert_agrees(main, reference, n_ref, np.float32, tolerance=2e-4)


def test_a_trajectory_worked_out_by_hand():
    # L(x, y; a, b) = x²/2 − a x + 2 y² − b y, with gradient (x − a, 4 y − b). n_ref = 2, reference SGD at rate 1/4,
    # main SGD at rate 1/2 with momentum 1/2. Every number below is exact in float32.
    #
    # Step 1, θ = (0, 0)
    #   (a, b) = (4, 0):   g = (−4, 0)                        θ' = (1, 0)
    #   (a, b) = (1, −4):  g = (0, 4)                         θ' = (1, −1),  Δ = (1, −1)
    #   (a, b) = (4, −6):  g = (−3, 2)                        ω = −3 − 2 = −5 < 0,  ⟨Δ, Δ⟩ = 2
    #   g' = g + 5/2 Δ = (−1/2, −1/2)       m = (−1/2, −1/2)  θ = (1/4, 1/4)
    # Step 2, θ = (1/4, 1/4)
    #   (a, b) = (5/4, −3):  g = (−1, 4)                      θ' = (1/2, −3/4)
    #   (a, b) = (1/2, −1):  g = (0, −2)                      θ' = (1/2, −1/4),  Δ = (1/4, −1/2)
    #   (a, b) = (−1, 2):    g = (3/2, −3)                    ω = 3/8 + 3/2 = 15/8 ≥ 0: g stays
    #   m = g + (−1/4, −1/4) = (5/4, −13/4)                   θ = (1/4 − 5/8, 1/4 + 13/8) = (−3/8, 15/8)
    def loss_fn(params, batch):
        return params["x"] ** 2 / 2 - batch["a"] * params["x"] + 2 * params["y"] ** 2 - batch["b"] * params["y"]

    value_and_grad_fn = jax.value_and_grad(loss_fn)
    tx = profit(optax.sgd(0.5, momentum=0.5), optax.sgd(0.25), n_ref=2)
    params = {"x": jnp.zeros(()), "y": jnp.zeros(())}
    state = tx.init(params)
    steps = [
        ({"a": [4.0, 1, 4], "b": [0.0, -4, -6]}, (0.25, 0.25), -5, True, 2**0.5, 13**0.5),
        ({"a": [1.25, 0.5, -1], "b": [-3.0, -1, 2]}, (-0.375, 1.875), 15 / 8, False, 5**0.5 / 4, 11.25**0.5),
    ]
    for data, theta, omega, conflict, delta_norm, g_norm in steps:
        data = jax.tree.map(np.float32, data, is_leaf=lambda x: isinstance(x, list))
        first, others = jax.tree.map(lambda x: x[0], data), jax.tree.map(lambda x: x[1:], data)
        _, grads = value_and_grad_fn(params, first)
        updates, state = take_step(tx, params, grads, others, state, value_and_grad_fn)
        params = optax.apply_updates(params, updates)
        assert (params["x"], params["y"]) == theta
        assert state.metrics.inner_product == omega
        assert state.metrics.conflict == conflict
        np.testing.assert_allclose(state.metrics.displacement_norm, delta_norm, rtol=2 * EPS)
        np.testing.assert_allclose(state.metrics.gradient_norm, g_norm, rtol=2 * EPS)
        np.testing.assert_allclose(state.metrics.cosine, omega / delta_norm / g_norm, rtol=4 * EPS)


def test_the_update_is_zero_where_both_gradients_have_one_direction():
    # T3.2: Δ = −λ g₁, so nothing is left of g₂ = c g₁, for every c > 0, and something of any other.
    g1 = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
    tx = profit(optax.sgd(1.0), optax.sgd(1e-3))
    for c in (0.01, 1.0, 30.0):
        updates, _ = take_step(tx, g1, g1, {name: c * x[None] for name, x in g1.items()})
        assert norm(updates) <= 8 * EPS * c * norm(g1)
    for g2 in ({"w": [[-1.0, 2.0]], "b": [[-0.5]]}, {"w": [[1.0, -2.0]], "b": [[0.6]]}):
        g2 = jax.tree.map(np.float32, g2, is_leaf=lambda x: isinstance(x, list))
        updates, _ = take_step(tx, g1, g1, g2)
        assert norm(updates) > 0.05


@pytest.mark.parametrize("n_ref", [1, 3])
@pytest.mark.parametrize("reference", [optax.sgd(1e-2), optax.sgd(1e-2, momentum=0.9)], ids=["sgd", "momentum"])
def test_a_linear_loss_gives_a_zero_update(n_ref, reference):
    # C3.3: between θ and θ' the gradient stays the same.
    def loss_fn(params, slope):
        return jnp.sum(slope * params)

    slope = jnp.array([1.0, -3.0, 0.25])
    tx = profit(optax.sgd(1.0), reference, n_ref)
    updates, state = take_step(
        tx, jnp.ones(3), slope, jnp.tile(slope[None], (n_ref, 1)), value_and_grad_fn=jax.value_and_grad(loss_fn)
    )
    assert jnp.linalg.norm(updates) <= 8 * EPS * jnp.linalg.norm(slope)
    assert state.metrics.cosine == pytest.approx(-1, abs=4 * EPS)


@pytest.mark.parametrize("main", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)], ids=["momentum", "adam"])
def test_it_stops_where_the_main_optimizer_would_stop(main):
    # T3.4, and no 0/0 where every gradient is zero.
    zero = {"w": jnp.zeros(3)}
    updates, state = take_step(profit(main, optax.sgd(0.1), 2), zero, zero, {"w": jnp.zeros((2, 3))})
    np.testing.assert_array_equal(updates["w"], 0)
    assert [float(x) for x in state.metrics] == [0] * 5


def test_without_displacement_it_is_the_main_optimizer_on_the_last_batch():
    params, data = regression.params(), regression.data(1, 3)
    first, second, last = ({name: x[0, i] for name, x in data.items()} for i in range(3))
    gradient = jax.grad(regression.loss_fn)
    tx = profit(optax.adam(0.1), optax.sgd(0.0), n_ref=2)
    others = jax.tree.map(lambda *x: np.stack(x), second, last)
    updates, state = take_step(
        tx, params, gradient(params, first), others, value_and_grad_fn=regression.value_and_grad_fn
    )
    expected, _ = optax.adam(0.1).update(gradient(params, last), optax.adam(0.1).init(params))
    for name in params:
        np.testing.assert_allclose(updates[name], expected[name], rtol=16 * EPS)
    assert not state.metrics.conflict


def test_a_main_rate_of_zero_leaves_the_parameters_where_they_were():
    params = regression.params()
    run = agreement.run_closure(profit(optax.sgd(0.0), optax.sgd(0.1), 2), params, regression.data(3, 3))
    for name in params:
        np.testing.assert_array_equal(run.params[name], params[name])


def test_without_a_conflict_the_last_gradient_is_handed_on_bit_for_bit():
    g1, g2 = jnp.array([1.0, 0.1, -0.3]), jnp.array([-1.0, 0.7, 1e-30])
    tx = profit(optax.identity(), optax.sgd(0.1))
    updates, state = take_step(tx, g1, g1, g2[None])
    assert not state.metrics.conflict
    assert state.metrics.inner_product > 0
    assert updates.tobytes() == g2.tobytes()


NUMERICS = [(dtype, rate) for dtype in (jnp.float32, jnp.bfloat16) for rate in (1e2, 1.0, 1e-4, 1e-8, 1e-12)]
NUMERICS += [(jnp.float16, 1.0), (jnp.float16, 1e-2)]


def gradients_of_size(scale, dtype):
    """Two gradients with a positive inner product, so that Δ = −λ g₁ conflicts with g₂."""
    rng = np.random.default_rng(0)
    g1 = scale * rng.normal(size=100)
    return jnp.asarray(g1, dtype), jnp.asarray(g1 + scale * rng.normal(size=100), dtype)


def projection_error(update, g1, g2):
    """How far a projected gradient is from the exact one, relative to ‖g₂‖. It does not depend on λ."""
    exact = algorithm1.project({"x": np.asarray(g2, np.float64)}, {"x": -np.asarray(g1, np.float64)})
    assert exact.conflict
    return np.linalg.norm(np.asarray(update, np.float64) - exact.gradient["x"]) / exact.gradient_norm


@pytest.mark.parametrize(("dtype", "rate"), NUMERICS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_projected_gradient_is_exact_at_every_rate_and_gradient_size(dtype, rate):
    tx = profit(optax.identity(), optax.sgd(rate))
    step = jax.jit(lambda g1, g2: tx.update(g1, tx.init(g1), g1 / g1, value_and_grad_fn=given, batches=g2[None])[0])
    for scale in (1e-7, 1e-3, 1.0, 1e3) if dtype != jnp.float16 else (1e-1, 1.0, 1e1):
        g1, g2 = gradients_of_size(scale, dtype)
        # One rounding of each entry of Δ and of the result.
        assert projection_error(step(g1, g2), g1, g2) <= 2 * float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("dtype", "rate"), [(jnp.float32, 1e-8), (jnp.float32, 1e-12), (jnp.bfloat16, 1e-4), (jnp.bfloat16, 1e-8)]
)
def test_the_displacement_as_the_paper_writes_it_loses_the_projection_there(dtype, rate):
    g1, g2 = gradients_of_size(1.0, dtype)
    tx = profit(optax.identity(), optax.sgd(rate), displacement="subtract")
    updates, _ = take_step(tx, jnp.ones_like(g1), g1, g2[None])
    assert projection_error(updates, g1, g2) > 0.1


@pytest.mark.parametrize("n_ref", [1, 3])
def test_a_subtracted_displacement_agrees_where_rounding_is_small(n_ref):
    params, data = regression.params(), regression.data(4, n_ref + 1)
    tx = profit(optax.sgd(0.1), optax.sgd(0.05, momentum=0.5), n_ref, displacement="subtract")
    algorithm = algorithm1.Profit(Sgd(0.1), Sgd(0.05, momentum=0.5), n_ref)
    expected = agreement.run_algorithm1(algorithm, float64(params), data)
    run = agreement.run_closure(tx, params, data)
    assert agreement.relative_error(run.params, expected, float64(params)) <= 2e-5


def test_a_subtracted_displacement_is_the_difference_of_rounded_parameters():
    # In float32, 1 + 2⁻²⁵ rounds to 1: the first entry of Δ is lost, and with it the conflict.
    grads, last = -jnp.array([2.0**-25, 2.0**-20]), jnp.array([-1.0, 0.0])
    for mode, conflict, kept in (("subtract", False, [0.0, -(2.0**-20)]), ("accumulate", True, grads)):
        tx = profit(optax.sgd(1.0), optax.sgd(1.0), displacement=mode)
        _, state = take_step(tx, jnp.ones(2), grads, last[None])
        assert state.metrics.conflict == conflict
        np.testing.assert_allclose(state.metrics.displacement_norm, norm(kept), rtol=4 * EPS)


@pytest.mark.parametrize("mode", ["accumulate", "subtract"])
def test_displacement_is_kept_in_its_dtype_and_applied_as_it_is_rounded(mode):
    # Δ of the reference steps is (1 + 2⁻¹⁰, −1); bfloat16 keeps (1, −1).
    def at_displaced(params, batch):
        return jnp.zeros(()), params - batch

    params = jnp.array([4.0, 4.0])
    grads = jnp.array([-(1 + 2.0**-10), 1.0])
    tx = profit(optax.identity(), optax.sgd(1.0), displacement=mode, displacement_dtype=jnp.bfloat16)
    updates, state = take_step(tx, params, grads, jnp.array([[7.0, 3.0]]), value_and_grad_fn=at_displaced)
    assert state.metrics.displacement_norm == np.float32(2**0.5)
    if mode == "accumulate":
        # g = (5, 3) − (7, 3) = (−2, 0), ω = −2, ⟨Δ, Δ⟩ = 2, so g' = g + Δ = (−1, −1).
        np.testing.assert_array_equal(updates, [-1.0, -1.0])
    assert updates.dtype == jnp.float32


def test_what_is_rounded_is_what_is_accumulated():
    # 256 + 1 is 256 in bfloat16: three reference steps of 256, 1 and 1 leave Δ = 256.
    tx = profit(optax.identity(), optax.sgd(1.0), n_ref=3, displacement_dtype="bfloat16")
    _, state = take_step(tx, jnp.zeros(1), jnp.array([-256.0]), jnp.array([[-1.0], [-1.0], [-1.0]]))
    assert state.metrics.displacement_norm == 256
    assert state.metrics.inner_product == -256


@pytest.mark.parametrize("mode", ["accumulate", "subtract"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
def test_complex_leaves_take_the_complex_displacement_dtype(mode, dtype):
    g1 = jnp.array([1 + 2j, -1j], jnp.complex64)
    g2 = jnp.array([2 + 1j, 1 - 1j], jnp.complex64)
    tx = profit(optax.identity(), optax.sgd(0.5), displacement=mode, displacement_dtype=dtype)
    updates, state = take_step(tx, jnp.zeros(2, jnp.complex64), g1, g2[None])
    assert updates.dtype == jnp.complex64
    real = lambda x: {"x": np.stack([np.real(x), np.imag(x)]).astype(np.float64)}  # noqa: E731
    exact = algorithm1.project(real(g2), algorithm1.scale(-0.5, real(g1)))
    np.testing.assert_allclose(real(updates)["x"], exact.gradient["x"], atol=8 * EPS)
    np.testing.assert_allclose(state.metrics.cosine, exact.cosine, rtol=8 * EPS)


def test_complex_parameters_train_like_their_real_and_imaginary_parts():
    # Closures conjugate, as Optax expects; then SGD on complex numbers is SGD on pairs of real ones.
    def loss_fn(params, batch):
        return jnp.mean(jnp.abs(params["z"] ** 2 - batch) ** 2)

    def value_and_grad_fn(params, batch):
        value, grads = jax.value_and_grad(loss_fn)(params, batch)
        return value, jax.tree.map(jnp.conj, grads)

    def on_pairs(params, batch):
        return loss_fn({"z": jax.lax.complex(params["re"], params["im"])}, batch)

    rng = np.random.default_rng(0)
    z = (rng.normal(size=3) + 1j * rng.normal(size=3)).astype(np.complex64)
    batches = (rng.normal(size=(4, 3, 3)) + 1j).astype(np.complex64)
    tx = profit(optax.sgd(0.02, momentum=0.9), optax.sgd(0.01), n_ref=2)
    params, pairs = {"z": jnp.asarray(z)}, {"re": jnp.asarray(z.real), "im": jnp.asarray(z.imag)}
    state, pair_state = tx.init(params), tx.init(pairs)
    on_pairs = jax.value_and_grad(on_pairs)
    conflicts = []
    for batch in batches:
        grads, pair_grads = value_and_grad_fn(params, batch[0])[1], on_pairs(pairs, batch[0])[1]
        updates, state = take_step(tx, params, grads, batch[1:], state, value_and_grad_fn)
        pair_updates, pair_state = take_step(tx, pairs, pair_grads, batch[1:], pair_state, on_pairs)
        params, pairs = optax.apply_updates(params, updates), optax.apply_updates(pairs, pair_updates)
        conflicts.append(bool(state.metrics.conflict))
    assert True in conflicts
    np.testing.assert_allclose(params["z"], pairs["re"] + 1j * pairs["im"], rtol=64 * EPS)


def test_main_optimizer_sees_the_undisplaced_parameters():
    main = optax.stateless(lambda grads, params: params)
    updates, _ = take_step(profit(main, optax.sgd(1.0), 2), jnp.ones(2), jnp.ones(2), jnp.ones((2, 2)))
    np.testing.assert_array_equal(updates, [1.0, 1.0])


@pytest.mark.parametrize("mode", ["accumulate", "subtract"])
def test_reference_optimizer_and_closure_see_the_displaced_parameters(mode):
    # The reference state is the params of the last reference step: θ, then one update of −1/2.
    reference = optax.GradientTransformation(
        init=lambda params: jnp.zeros_like(params), update=lambda grads, state, params: (-0.5 * grads, params)
    )
    closure = lambda params, batch: (jnp.zeros(()), params)  # noqa: E731
    tx = profit(optax.identity(), reference, 2, displacement=mode)
    updates, state = take_step(tx, jnp.full(1, 4.0), jnp.ones(1), jnp.zeros((2, 0)), value_and_grad_fn=closure)
    # θ = 4, g = 1: θ' = 3.5, g = 3.5: θ' = 1.75, and there g = 1.75 with Δ = −2.25, which takes all of it.
    np.testing.assert_array_equal(state.reference_state, [3.5])
    assert state.metrics.gradient_norm == 1.75
    assert state.metrics.displacement_norm == 2.25
    np.testing.assert_allclose(updates, [0.0], atol=2 * EPS)


def test_warm_up_steps_are_the_main_optimizer_alone():
    data = regression.data(5, 3)
    params = regression.params()
    tx = profit(optax.adam(0.03), optax.sgd(0.02, momentum=0.5), 2, warmup_steps=3)
    algorithm = algorithm1.Profit(algorithm1.Adam(0.03), Sgd(0.02, momentum=0.5), 2, warmup_steps=3)
    expected = agreement.run_algorithm1(algorithm, float64(params), data)
    run = agreement.run_closure(tx, params, data)
    assert [projection is None for projection in algorithm.projections] == [True] * 3 + [False] * 2
    assert agreement.relative_error(run.params, expected, float64(params)) <= 2e-4
    np.testing.assert_array_equal(run.metrics.displacement_norm > 0, [False] * 3 + [True] * 2)


@pytest.mark.parametrize("displacement", ["accumulate", "subtract"])
def test_warm_up_hands_the_gradient_on_and_leaves_the_reference_state(displacement):
    tx = profit(optax.identity(), optax.sgd(0.1, momentum=0.9), warmup_steps=1, displacement=displacement)
    g1, g2 = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    updates, state = take_step(tx, jnp.ones(2), g1, g2[None])
    np.testing.assert_array_equal(updates, g1)
    assert state.count == 1
    np.testing.assert_array_equal(optax.tree.get(state.reference_state, "trace"), 0)
    metrics = [float(x) for x in state.metrics]
    assert metrics == [0, 0, 0, 0, pytest.approx(5**0.5)]
    _, state = take_step(tx, jnp.ones(2), g1, g2[None], state)
    assert state.count == 2
    np.testing.assert_array_equal(optax.tree.get(state.reference_state, "trace"), g1)


@pytest.mark.parametrize("reset", [True, False])
def test_reference_state_lives_on_unless_it_is_reset(reset):
    params, data = regression.params(), regression.data(4, 3)
    tx = profit(optax.sgd(0.1), optax.sgd(0.05, momentum=0.9), 2, reset_reference_state=reset)
    algorithm = algorithm1.Profit(Sgd(0.1), Sgd(0.05, momentum=0.9), 2)
    if reset:
        reference = algorithm.reference_optimizer
        theta = float64(params)
        for step in range(4):
            reference.trace = None
            batches = {name: x[step : step + 1] for name, x in data.items()}
            theta = agreement.run_algorithm1(algorithm, theta, batches)
    else:
        theta = agreement.run_algorithm1(algorithm, float64(params), data)
    run = agreement.run_closure(tx, params, data)
    assert agreement.relative_error(run.params, theta, float64(params)) <= 2e-4


def test_a_schedule_in_the_reference_optimizer_counts_reference_steps():
    # Rates 1, 2, 4, 8 at reference steps 0 to 3: two main steps of n_ref = 2 with gradients of −1 displace by 3 and 12.
    tx = profit(optax.sgd(1.0), optax.sgd(lambda count: 2.0**count), n_ref=2)
    state, norms = tx.init(jnp.zeros(1)), []
    for _ in range(2):
        _, state = take_step(tx, jnp.zeros(1), -jnp.ones(1), -jnp.ones((2, 1)), state)
        norms.append(float(state.metrics.displacement_norm))
    assert norms == [3, 12]


def test_a_schedule_in_the_main_optimizer_counts_main_steps():
    tx = profit(optax.sgd(lambda count: 2.0**count), optax.sgd(0.0), n_ref=3)
    state, updates = tx.init(jnp.zeros(1)), []
    for _ in range(3):
        update, state = take_step(tx, jnp.zeros(1), -jnp.ones(1), -jnp.ones((3, 1)), state)
        updates.append(float(update[0]))
    assert updates == [1, 2, 4]


def test_count_counts_main_steps_and_saturates():
    tx = profit(optax.sgd(1.0), optax.sgd(1.0), n_ref=2, warmup_steps=2)
    state = tx.init(jnp.zeros(1))
    assert isinstance(state, ProfitState)
    assert (state.count, state.count.dtype) == (0, jnp.int32)
    for expected in (1, 2, 3):
        _, state = take_step(tx, jnp.zeros(1), jnp.ones(1), jnp.ones((2, 1)), state)
        assert state.count == expected
    largest = jnp.iinfo(jnp.int32).max
    _, state = take_step(tx, jnp.zeros(1), jnp.ones(1), jnp.ones((2, 1)), state._replace(count=jnp.int32(largest)))
    assert state.count == largest
    assert state.metrics.displacement_norm == 2  # and the warm-up does not begin anew


def test_metrics_are_zero_before_the_first_step():
    metrics = profit(optax.sgd(1.0), optax.sgd(1.0)).init({"w": jnp.ones(2, jnp.bfloat16)}).metrics
    assert isinstance(metrics, ProfitMetrics)
    assert [float(x) for x in metrics] == [0] * 5
    assert [x.dtype for x in metrics] == [jnp.float32, jnp.float32, jnp.bool_, jnp.float32, jnp.float32]


def test_metrics_are_those_of_the_projection_of_the_last_step():
    g1, g2 = jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])
    _, state = take_step(profit(optax.adam(1.0), optax.sgd(0.5)), jnp.ones(2), g1, g2[None])
    _, expected = orthogonalize(g2, -0.5 * g1)
    for name, value in expected._asdict().items():
        assert optax.tree.get(state, name) == value


def test_updates_have_the_dtype_that_the_main_optimizer_returns():
    main = optax.stateless(lambda grads, params: jax.tree.map(lambda g: g.astype(jnp.float32), grads))
    g = jnp.ones(2, jnp.bfloat16)
    updates, _ = take_step(profit(main, optax.sgd(0.1)), g, g, g[None])
    assert updates.dtype == jnp.float32
    updates, _ = take_step(profit(optax.sgd(1.0), optax.sgd(0.1)), g, g, g[None])
    assert updates.dtype == jnp.bfloat16


def test_gradients_from_the_closure_are_cast_to_the_dtypes_of_grads():
    seen = []
    main = optax.stateless(lambda grads, params: seen.append(jax.tree.map(lambda g: g.dtype, grads)) or grads)
    closure = lambda params, batch: (0.0, {"a": batch.astype(jnp.float16), "b": batch})  # noqa: E731
    grads = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}
    tx = profit(main, optax.sgd(0.1), 2)
    updates, _ = take_step(tx, grads, grads, jnp.ones((2, 2)), value_and_grad_fn=closure)
    assert all(dtypes == {"a": jnp.float32, "b": jnp.bfloat16} for dtypes in seen)
    assert jax.tree.map(lambda u: u.dtype, updates) == {"a": jnp.float32, "b": jnp.bfloat16}


def test_values_and_aux_from_inside_are_dropped():
    def closure(params, batch):
        return (jnp.nan, {"statistics": jnp.full(3, jnp.inf), "name": "not an array"}), batch

    g1, g2 = jnp.array([3.0, 1.0]), jnp.array([1.0, 1.0])
    tx = profit(optax.sgd(1.0), optax.sgd(0.5))
    updates, _ = take_step(tx, g1, g1, g2[None], value_and_grad_fn=closure)
    expected, _ = take_step(tx, g1, g1, g2[None])
    np.testing.assert_array_equal(updates, expected)


def test_reference_steps_take_the_batches_in_order():
    # Reference SGD at rate 1 on gradients 1, 10, 100; the main optimizer gets the one of the last batch.
    tx = profit(optax.identity(), optax.sgd(1.0), n_ref=3)
    updates, state = take_step(tx, jnp.zeros(1), jnp.array([1.0]), jnp.array([[10.0], [100.0], [-1000.0]]))
    assert state.metrics.displacement_norm == 111
    np.testing.assert_array_equal(updates, [-1000.0])


@pytest.mark.parametrize("mode", ["accumulate", "subtract"])
@pytest.mark.parametrize(
    ("n_ref", "unroll", "passes"),
    [(1, None, 1), (1, False, 1), (5, None, 5), (9, None, 1), (5, True, 5), (5, False, 1), (6, 3, 3), (5, 1, 1)],
)
def test_the_model_is_traced_once_whatever_is_unrolled(n_ref, unroll, passes, mode):
    tx = profit(optax.sgd(0.1), optax.sgd(0.1), n_ref, displacement=mode, unroll=unroll)
    params, traces = jnp.ones(3), []

    def value_and_grad_fn(params, batch):
        traces.append(batch)
        return 0.0, jnp.sort(params * batch)  # XLA keeps as many sorts as there are passes in the program.

    def step(grads, state, params, batches):
        return tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=batches)

    program = jax.jit(step).lower(params, tx.init(params), params, jnp.ones((n_ref, 3))).compile().as_text()
    assert len(traces) == 1
    assert len(re.findall(r" sort\(", program)) == passes
    assert len(re.findall(r" while\(", program)) == (passes < n_ref)


def test_one_reference_step_takes_no_more_memory_than_two():
    params = [jnp.zeros((256, 256)) for _ in range(8)]

    def loss(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    def temporaries(n_ref):
        tx = profit(optax.adamw(1e-3), optax.sgd(1e-4), n_ref)

        def step(params, state, batches):
            _, grads = jax.value_and_grad(loss)(params, batches[0])
            updates, state = tx.update(
                grads, state, params, value_and_grad_fn=jax.value_and_grad(loss), batches=batches[1:]
            )
            return optax.apply_updates(params, updates), state

        shapes = jax.eval_shape(lambda: (params, tx.init(params), jnp.zeros((n_ref + 1, 2, 256))))
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes / sum(w.nbytes for w in params)

    assert temporaries(1) <= temporaries(2) + 0.1


def test_a_step_has_a_derivative_where_an_entry_of_the_gradient_is_0():
    tx = profit(optax.sgd(0.1), optax.sgd(0.1))

    @jax.jit
    def moved(scale, params):
        grads = scale * jnp.array([1.0, 0.0])
        extra = {"value_and_grad_fn": lambda p, b: (0.0, b), "batches": jnp.array([[-1.0, 2.0]])}
        return jnp.sum(tx.update(grads, tx.init(params), params, **extra)[0])

    np.testing.assert_allclose(jax.grad(moved)(1.0, jnp.ones(2)), 0, atol=1e-6)


def test_a_reference_optimizer_that_needs_more_is_named_where_no_displacement_is_kept():
    def update_fn(updates, state, params=None, *, value):
        return updates, state

    needy = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)
    tx = profit(optax.sgd(0.1), optax.chain(needy, optax.sgd(0.1)), displacement="subtract")
    with pytest.raises(TypeError, match=r"reference_optimizer must need nothing but gradients .* requires 'value'"):
        take_step(tx, jnp.ones(2), jnp.ones(2), jnp.ones((1, 2)))
