"""The projection by itself: exact at every scale, and what it does at the edges."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from profit_optax import _projection, orthogonalize
from tests import algorithm1

project = jax.jit(orthogonalize)
EPS = float(jnp.finfo(jnp.float32).eps)


def float64(tree):
    """Leaves as float64 arrays; a complex one as its real and imaginary parts."""
    parts = lambda x: np.stack([x.real, x.imag]) if np.iscomplexobj(x) else x  # noqa: E731
    return algorithm1.float64({name: parts(np.asarray(leaf)) for name, leaf in tree.items()})


def assert_projected(result, g, delta, dtype=jnp.float32):
    """`result` is the exact projection of g, up to one rounding to `dtype` and the rounding of float32 sums."""
    g, delta, result = float64(g), float64(delta), float64(result)
    exact = algorithm1.project(g, delta)
    assert exact.conflict
    for name, expected in exact.gradient.items():
        removed = np.abs(delta[name]) / exact.displacement_norm * exact.gradient_norm
        bound = float(jnp.finfo(dtype).eps) * np.abs(expected) + 8 * EPS * (np.abs(g[name]) + removed)
        bound += float(jnp.finfo(dtype).smallest_subnormal)
        np.testing.assert_array_less(np.abs(result[name] - expected), bound)


def assert_measured(metrics, g, delta):
    """The metrics are the exact ones, up to the rounding of float32 sums."""
    exact = algorithm1.project(float64(g), float64(delta))
    size = exact.gradient_norm * exact.displacement_norm
    assert metrics.conflict == exact.conflict
    assert abs(metrics.cosine) <= 1
    np.testing.assert_allclose(metrics.inner_product, exact.inner_product, rtol=0, atol=8 * EPS * size)
    np.testing.assert_allclose(metrics.cosine, exact.cosine, rtol=0, atol=8 * EPS)
    np.testing.assert_allclose(metrics.displacement_norm, exact.displacement_norm, rtol=8 * EPS)
    np.testing.assert_allclose(metrics.gradient_norm, exact.gradient_norm, rtol=8 * EPS)


def conflicting(scale, rate, dtype, seed=0):
    """Two trees g and Δ = −rate · (another gradient of the same size) with ω < 0, in two leaves of `dtype`."""
    rng = np.random.default_rng(seed)
    first = {"w": rng.normal(size=(20, 10)), "b": rng.normal(size=10)}
    g = {name: scale * (rng.normal(size=x.shape) + x) for name, x in first.items()}
    delta = {name: -rate * scale * x for name, x in first.items()}
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), (g, delta))


def is_in_range(tree, dtype):
    """Whether the largest entry is a normal number of `dtype`."""
    largest = max(np.max(np.abs(x)) for x in float64(tree).values())
    return float(jnp.finfo(dtype).tiny) <= largest <= float(jnp.finfo(dtype).max)


RATES = [1e2, 1.0, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12]
SCALES = [1e-7, 1e-5, 1e-3, 1e-1, 1e1, 1e3]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("rate", RATES)
def test_gradient_is_exact_at_every_reference_rate_and_gradient_size(rate, dtype):
    for scale in SCALES:
        g, delta = conflicting(scale, rate, dtype)
        result, metrics = project(g, delta)
        assert_projected(result, g, delta, dtype)
        assert_measured(metrics, g, delta)


def test_gradient_is_exact_in_float16_within_its_range():
    tried = 0
    for rate in RATES:
        for scale in SCALES:
            g, delta = conflicting(scale, rate, jnp.float16)
            if is_in_range(g, jnp.float16) and is_in_range(delta, jnp.float16):
                tried += 1
                assert_projected(project(g, delta)[0], g, delta, jnp.float16)
    assert tried >= 10


@pytest.mark.parametrize(("scale", "rate"), [(1e-7, 1.0), (1e-3, 1e-4), (1.0, 1e-8), (1e3, 1e-12)])
def test_an_absolute_epsilon_loses_the_projection_where_ours_is_exact(scale, rate):
    g, delta = conflicting(scale, rate, jnp.float32)
    omega = sum(jnp.sum(g[name] * delta[name]) for name in g)
    square = sum(jnp.sum(x**2) for x in delta.values())
    with_epsilon = {name: g[name] - jnp.minimum(omega, 0) / (square + 1e-6) * delta[name] for name in g}
    assert_projected(project(g, delta)[0], g, delta)
    with pytest.raises(AssertionError):
        assert_projected(with_epsilon, g, delta)
    assert algorithm1.project(float64(with_epsilon), float64(delta)).cosine < -0.5  # nothing was removed


@pytest.mark.parametrize(
    ("dtype", "rate"), [(jnp.float32, 1e-7), (jnp.float32, 1e-9), (jnp.bfloat16, 1e-3), (jnp.bfloat16, 1e-5)]
)
def test_a_subtracted_displacement_loses_the_projection_where_ours_is_exact(dtype, rate):
    g, delta = conflicting(1.0, rate, dtype)
    theta = jax.tree.map(jnp.ones_like, g)
    subtracted = jax.tree.map(lambda t, d: (t + d) - t, theta, delta)
    assert_projected(project(g, delta)[0], g, delta, dtype)
    with pytest.raises(AssertionError):
        assert_projected(project(g, subtracted)[0], g, delta, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda dtype: dtype.__name__)
def test_the_largest_entries_may_be_the_smallest_and_the_largest_normal_numbers(dtype):
    g = np.array([-1.0, 1.0, 1.0, 1.0])
    delta = np.array([1.0, 1.0, 0.0, -1.0])  # ω = −1, so g' = g + Δ/3 for equal scales
    info = jnp.finfo(dtype)
    extremes = [float(info.tiny), 1.0, 2.0 ** (int(info.maxexp) - 2)]
    for g_scale in extremes:
        for d_scale in extremes:
            result, metrics = project(
                {"x": jnp.asarray(g_scale * g, dtype)}, {"x": jnp.asarray(d_scale * delta, dtype)}
            )
            expected = g + delta / 3
            error = np.asarray(result["x"], np.float64) / g_scale - expected
            # Beside the largest entry, one of 2/3 of the smallest normal number may be flushed to zero.
            kept = np.abs(expected) >= 1
            np.testing.assert_array_less(np.abs(error[kept]), 2 * float(info.eps))
            np.testing.assert_allclose(metrics.cosine, -1 / 12**0.5, rtol=4 * EPS)


def test_complex_entries_may_have_a_modulus_beyond_the_largest_number():
    largest = float(jnp.finfo(jnp.float32).max)
    g, delta = np.array([largest + largest * 1j, 0], np.complex64), np.array([-1 - 1j, 1], np.complex64)
    result, metrics = project({"x": g}, {"x": delta})
    # ω = −2 x and ⟨Δ, Δ⟩ = 3, so a third of g and two thirds of x along Δ's other entry are left.
    np.testing.assert_allclose(result["x"] / largest, [1 / 3 + 1j / 3, 2 / 3], rtol=4 * EPS)
    np.testing.assert_allclose(metrics.cosine, -((2 / 3) ** 0.5), rtol=4 * EPS)


def test_small_entries_beside_the_largest_of_float16_keep_their_digits():
    g, delta = {"x": np.array([60000, 1e-3], np.float16)}, {"x": np.array([-1, 0], np.float16)}
    np.testing.assert_array_equal(project(g, delta)[0]["x"], np.array([0, 1e-3], np.float16))


@pytest.mark.parametrize("exponent", [-53, -49])
def test_squares_that_may_have_been_flushed_count_as_no_conflict(exponent):
    # What is below one rounding of tiny / eps = 2⁻¹⁰³ a number may be an artefact; here that is four numbers.
    g = {"x": jnp.full(4, 2.0**exponent)}
    _, metrics = _projection.project(g, {"x": -jnp.ones(4)}, axis_name=None, scale=1.0)
    assert bool(metrics.conflict) == (exponent == -49)
    assert float(metrics.cosine) == (-1 if exponent == -49 else 0)


def test_the_bound_below_which_squares_count_as_0_is_that_of_one_number_for_one_number():
    g = jnp.array([1.5 * 2.0**-52])  # Its square lies between 2⁻¹⁰³ and 2⁻¹⁰².
    assert _projection.project(g, -g / g, axis_name=None, scale=1.0)[1].conflict


def vectors(allow_zero=True):
    """Two leaves of float32 entries ±k/64, k ≤ 64, of which one at least is not zero."""
    entry = st.integers(-64, 64).map(lambda k: k / 64) | st.just(-0.0)
    flat = st.lists(entry, min_size=8, max_size=8)
    return (flat if allow_zero else flat.filter(any)).map(
        lambda x: {"a": np.array(x[:5], np.float32), "b": np.array(x[5:], np.float32)}
    )


def norm(tree):
    return algorithm1.inner(float64(tree), float64(tree)) ** 0.5


@hypothesis.given(vectors(), vectors())
def test_after_a_conflict_the_gradient_is_orthogonal_to_the_displacement(g, delta):
    result, metrics = project(g, delta)
    hypothesis.assume(metrics.conflict)
    assert abs(algorithm1.inner(float64(result), float64(delta))) <= 8 * EPS * norm(g) * norm(delta)


@hypothesis.given(vectors(), vectors())
def test_without_a_conflict_the_gradient_is_unchanged_bit_for_bit(g, delta):
    hypothesis.assume(algorithm1.inner(float64(g), float64(delta)) >= 0)
    result, metrics = project(g, delta)
    assert not metrics.conflict
    for name in g:
        assert np.asarray(result[name]).tobytes() == g[name].tobytes()


@hypothesis.given(vectors(), vectors())
def test_projecting_twice_is_projecting_once(g, delta):
    once, _ = project(g, delta)
    twice, _ = project(once, delta)
    difference = jax.tree.map(np.subtract, float64(once), float64(twice))
    assert norm(difference) <= 8 * EPS * norm(g)


@hypothesis.given(vectors(allow_zero=False), vectors(allow_zero=False), st.integers(-119, 122), st.integers(-119, 122))
def test_scaling_either_by_a_power_of_two_scales_the_result(g, delta, g_exponent, d_exponent):
    scaled = jax.tree.map(lambda x: np.ldexp(x, g_exponent), g)
    result, metrics = project(scaled, jax.tree.map(lambda x: np.ldexp(x, d_exponent), delta))
    expected, expected_metrics = project(g, delta)
    assert metrics.conflict == expected_metrics.conflict
    for name in g:
        actual = np.asarray(result[name], np.float64) * 2.0**-g_exponent
        # An entry of the result that cancels to less than a normal number may be flushed to zero.
        smallest = float(jnp.finfo(jnp.float32).tiny) * 2.0**-g_exponent
        np.testing.assert_allclose(actual, expected[name], rtol=0, atol=8 * EPS * norm(g) + smallest)
    np.testing.assert_allclose(metrics.cosine, expected_metrics.cosine, rtol=0, atol=8 * EPS)


@hypothesis.given(vectors(), vectors())
def test_metrics_are_those_of_float64(g, delta):
    assert_measured(project(g, delta)[1], g, delta)


@pytest.mark.parametrize("sign", [-1, 1])
def test_no_rounding_brings_a_cosine_beyond_1(sign):
    cosines = []
    for seed in range(50):
        g = np.random.default_rng(seed).normal(size=7).astype(np.float32)
        cosines.append(float(project(g, sign * g)[1].cosine))
    assert max(sign * np.asarray(cosines)) == 1
    np.testing.assert_allclose(cosines, sign, rtol=8 * EPS)


def test_there_is_one_inner_product_over_all_leaves():
    # Leaf by leaf ω is −1 and +4: together 3, and no conflict.
    g = {"a": jnp.array([-1.0, 5.0]), "b": jnp.array([2.0])}
    delta = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([2.0])}
    result, metrics = project(g, delta)
    assert metrics.inner_product == 3
    np.testing.assert_array_equal(result["a"], g["a"])


def test_a_conflict_worked_out_by_hand():
    # ω = −3·2 + 4·1 + 1·(−2) = −4, ⟨Δ, Δ⟩ = 4 + 1 + 4 = 9, so g' = g + 4/9 Δ.
    g, delta = (
        {"a": jnp.array([-3.0, 4.0]), "b": jnp.array([1.0])},
        {"a": jnp.array([2.0, 1.0]), "b": jnp.array([-2.0])},
    )
    result, metrics = project(g, delta)
    np.testing.assert_allclose(result["a"], [-3 + 8 / 9, 4 + 4 / 9], rtol=4 * EPS)
    np.testing.assert_allclose(result["b"], [1 - 8 / 9], rtol=16 * EPS)
    np.testing.assert_allclose(metrics.inner_product, -4)
    np.testing.assert_allclose(metrics.cosine, -4 / (3 * 26**0.5), rtol=4 * EPS)
    np.testing.assert_allclose(metrics.displacement_norm, 3, rtol=4 * EPS)
    np.testing.assert_allclose(metrics.gradient_norm, 26**0.5, rtol=4 * EPS)


@pytest.mark.parametrize(
    ("g", "delta"),
    [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0]), ([1.0, 2.0], [2.0, -1.0])],
    ids=["zero gradient", "zero displacement", "both zero", "right angle"],
)
def test_zeros_leave_the_gradient_as_it_is(g, delta):
    result, metrics = project(jnp.array(g), jnp.array(delta))
    np.testing.assert_array_equal(result, g)
    assert metrics.cosine == 0
    assert metrics.inner_product == 0
    assert not metrics.conflict


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_what_the_compiler_knows_makes_no_difference(scale, dtype):
    # XLA computes with constants before it runs: a factor that it knows must not be squared, which overflows.
    g = jnp.asarray([1.0, -2.0, 3.0], dtype)
    known = scale * np.asarray([-1.0, 2.0, 1.0], np.dtype(dtype))
    given = jax.jit(orthogonalize)
    for function, arguments in (
        (lambda g: orthogonalize(g, jnp.asarray(known)), (g, known)),
        (lambda d: orthogonalize(jnp.asarray(known), d), (known, g)),
    ):
        (free,) = (x for x in arguments if x is g)
        found, expected = jax.jit(function)(free), given(*map(jnp.asarray, arguments))
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.all(np.isfinite(x))
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * float(scale or 1))


@pytest.mark.parametrize("tree", [{}, (), None, {"a": None}, {"a": np.zeros((0, 3), np.float32)}], ids=str)
def test_trees_without_entries_give_zero_metrics(tree):
    result, metrics = project(tree, tree)
    assert jax.tree.structure(result) == jax.tree.structure(tree)
    assert [float(x) for x in metrics] == [0] * 5


def test_none_and_size_0_leaves_are_kept_beside_others():
    g = {"a": None, "b": jnp.zeros((0,)), "c": jnp.array([-1.0, 1.0])}
    result, _ = project(g, {"a": None, "b": jnp.zeros((0,)), "c": jnp.array([1.0, 0.0])})
    assert result["a"] is None
    assert result["b"].shape == (0,)
    np.testing.assert_array_equal(result["c"], [0.0, 1.0])


def test_complex_leaves_enter_by_the_real_part():
    rng = np.random.default_rng(0)
    draw = lambda: (rng.normal(size=6) + 1j * rng.normal(size=6)).astype(np.complex64)  # noqa: E731
    first = {"z": draw(), "x": rng.normal(size=4).astype(np.float32)}
    g = {"z": draw() + first["z"], "x": first["x"]}
    delta = {name: -1e-9 * x for name, x in first.items()}
    result, metrics = project(g, delta)
    assert result["z"].dtype == jnp.complex64
    assert_projected(result, g, delta)
    np.testing.assert_allclose(metrics.cosine, algorithm1.project(float64(g), float64(delta)).cosine, rtol=8 * EPS)


def test_a_real_displacement_has_an_inner_product_with_the_real_part_alone():
    result, metrics = project(np.array([-3 + 1j, 1j], np.complex64), np.array([2.0, 0.0], np.float32))
    np.testing.assert_allclose(result, [1j, 1j], atol=4 * EPS)
    assert metrics.inner_product == -6


def test_leaves_of_mixed_dtypes_are_projected_together_and_keep_theirs():
    g, delta = conflicting(1.0, 1e-8, jnp.float32)
    g = {"w": g["w"].astype(jnp.bfloat16), "b": g["b"]}
    delta = {"w": delta["w"], "b": delta["b"].astype(jnp.bfloat16)}
    result, _ = project(g, delta)
    assert result["w"].dtype == jnp.bfloat16
    assert result["b"].dtype == jnp.float32
    exact = algorithm1.project(float64(g), float64(delta)).gradient
    np.testing.assert_allclose(float64(result)["b"], exact["b"], atol=16 * EPS)
    np.testing.assert_allclose(float64(result)["w"], exact["w"], rtol=float(jnp.finfo(jnp.bfloat16).eps), atol=16 * EPS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=lambda dtype: dtype.__name__)
def test_sums_are_accumulated_in_float32(dtype):
    # In bfloat16 a sum of ones stops at 256, and in float16 64² · 4096 overflows.
    g, delta = jnp.full(4096, 64, dtype), jnp.full(4096, -64, dtype)
    result, metrics = project(g, delta)
    assert metrics.inner_product == -(4096.0**2)
    assert metrics.gradient_norm == metrics.displacement_norm == 4096
    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_training_steps_are_accumulated_in_float32_outside_of_programs_too(dtype):
    # Within a program XLA may add up in float32 what is written in 16 bits.
    g, delta = jnp.full(4096, 65, dtype), jnp.full(4096, -63, dtype)
    result, metrics = _projection.project(g, delta, axis_name=None, scale=1.0)
    assert metrics.inner_product == -4096.0 * 65 * 63
    np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_no_dtype_is_promoted_in_silence(dtype):
    g, delta = {"x": jnp.array([-3, 1], dtype)}, {"x": jnp.array([2, 0], dtype)}
    with jax.numpy_dtype_promotion("strict"):
        np.testing.assert_array_equal(orthogonalize(g, delta)[0]["x"], jnp.array([0, 1], dtype))
        result, _ = _projection.project(g, delta, axis_name=None, scale=1.0)
        np.testing.assert_array_equal(result["x"], jnp.array([0, 1], dtype))


def test_without_a_conflict_entries_that_any_scale_would_lose_keep_every_bit():
    g = np.array([2.0**100, 2.0**-100, -0.0], np.float32)
    result, metrics = project(g, np.array([1.0, 0.0, 0.0], np.float32))
    assert not metrics.conflict
    np.testing.assert_array_equal(np.asarray(result).view(np.uint32), g.view(np.uint32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["gradient", "displacement"])
def test_a_nonfinite_entry_makes_every_leaf_and_the_cosine_nan(bad, where):
    good = {"a": np.array([1.0, 2.0], np.float32), "b": np.array([[3.0]], np.float32)}
    broken = {"a": good["a"], "b": np.array([[bad]], np.float32)}
    result, metrics = project(broken, good) if where == "gradient" else project(good, broken)
    assert all(np.all(np.isnan(x)) for x in jax.tree.leaves(result))
    assert np.isnan(metrics.cosine)


def test_a_nonfinite_gradient_is_not_hidden_by_a_zero_displacement():
    result, metrics = project(jnp.array([np.nan, 1.0]), jnp.zeros(2))
    assert np.all(np.isnan(result))
    assert np.isnan(metrics.cosine)


def test_it_accepts_numpy_arrays_and_python_numbers():
    result, metrics = orthogonalize({"a": -1.0, "b": np.ones(2, np.float32)}, {"a": 2.0, "b": np.zeros(2, np.float32)})
    assert result["a"] == 0
    assert metrics.inner_product == -2


def test_metrics_are_float32_scalars():
    _, metrics = project(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16))
    assert [x.dtype for x in metrics] == [jnp.float32, jnp.float32, jnp.bool_, jnp.float32, jnp.float32]
    assert all(x.shape == () for x in metrics)


def test_vmap_projects_each_pair_by_itself():
    g = jnp.array([[-1.0, 1.0], [1.0, 1.0], [np.nan, 1.0]])
    delta = jnp.array([[1e-20, 0.0], [1.0, 0.0], [1.0, 0.0]])
    result, metrics = jax.vmap(orthogonalize)(g, delta)
    np.testing.assert_array_equal(result[:2], [[0.0, 1.0], [1.0, 1.0]])
    assert np.all(np.isnan(result[2]))
    np.testing.assert_array_equal(metrics.conflict[:2], [True, False])


def test_each_leaf_is_summed_over_its_own_axes():
    # "s" is sharded over the axis, "r" is the same on all: ω = −(1 + 2) + 0.5, not −3 + 2 · 0.5.
    g = {"s": jnp.array([[-1.0], [-2.0]]), "r": jnp.array([[0.5], [0.5]])}
    delta = {"s": jnp.ones((2, 1)), "r": jnp.ones((2, 1))}

    def local(g, delta):
        return orthogonalize(g, delta, axis_name={"s": "shards", "r": None})

    result, metrics = jax.vmap(local, axis_name="shards")(g, delta)
    np.testing.assert_allclose(metrics.inner_product, [-2.5, -2.5])
    np.testing.assert_allclose(result["s"], g["s"] + 2.5 / 3, rtol=8 * EPS)
    np.testing.assert_allclose(result["r"], g["r"] + 2.5 / 3, rtol=8 * EPS)


X = jnp.array([[-1.0], [-2.0]])


@pytest.mark.parametrize(
    ("tree", "axis_name", "expected"),
    [
        ({"a": X, "b": [X]}, "i", [-6.0, -6.0]),
        ({"a": X, "b": [X]}, ("i",), [-6.0, -6.0]),
        ({"a": X, "b": [X]}, {"a": "i", "b": None}, [-4.0, -5.0]),
        ({"a": X, "b": [X]}, {"a": None, "b": ["i"]}, [-4.0, -5.0]),
        ({"a": X, "b": X}, None, [-2.0, -4.0]),
        ((X, X), ("i", None), [-4.0, -5.0]),
        ({"a": (X, X)}, "i", [-6.0, -6.0]),
        ({"a": (X, X), "b": X}, {"a": "i", "b": None}, [-7.0, -8.0]),
        ({"a": X, "none": None}, "i", [-3.0, -3.0]),
        ({"a": X, "none": None}, {"a": "i", "none": None}, [-3.0, -3.0]),
        ({"a": (X, X), "none": None}, "i", [-6.0, -6.0]),
    ],
)
def test_axes_may_be_a_prefix_of_the_tree(tree, axis_name, expected):
    # Every leaf is −1 on the first device and −2 on the second, and Δ is 1: −3 where summed, −1 and −2 where not.
    project = jax.vmap(lambda g: orthogonalize(g, jax.tree.map(jnp.ones_like, g), axis_name=axis_name), axis_name="i")
    _, metrics = project(tree)
    np.testing.assert_array_equal(metrics.inner_product, expected)


@pytest.mark.parametrize("delta", [0.0, 1.0], ids=["no displacement", "no conflict"])
def test_derivatives_are_finite_where_nothing_is_projected(delta):
    g, d = jnp.array([1.0, 2.0]), jnp.full(2, delta)
    of_g, of_d = jax.grad(lambda g, d: jnp.sum(orthogonalize(g, d)[0]), argnums=(0, 1))(g, d)
    np.testing.assert_array_equal(of_g, [1, 1])
    np.testing.assert_array_equal(of_d, [0, 0])


def test_sums_take_every_one_of_many_leaves():
    gradient = {f"{i}": jnp.full(1, i + 1.0) for i in range(150)}
    _, metrics = orthogonalize(gradient, jax.tree.map(jnp.negative, gradient))
    assert metrics.inner_product == -sum((i + 1) ** 2 for i in range(150))


def test_entries_far_below_the_largest_are_unchanged_bit_for_bit():
    g = jnp.array([2.0**100, 2.0**-60, -0.0])
    result, metrics = project(g, jnp.array([1.0, 0.0, -1.0]))
    assert not metrics.conflict
    np.testing.assert_array_equal(result.view(jnp.int32), g.view(jnp.int32))


def test_steps_leave_minus_0_where_nothing_is_projected():
    g = jnp.array([1.0, -0.0])
    result, _ = _projection.project(g, jnp.array([1.0, -1.0]), axis_name=None, scale=1.0)
    np.testing.assert_array_equal(jnp.signbit(result), jnp.signbit(g))


def test_a_displacement_too_large_for_the_sums_of_a_step_is_not_finite():
    result, metrics = _projection.project(jnp.array([1e-10]), jnp.array([-1e25]), axis_name=None, scale=1.0)
    assert jnp.isnan(result).all()
    assert jnp.isnan(metrics.cosine)
