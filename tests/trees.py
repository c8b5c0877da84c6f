"""Random pytrees whose numbers are exact: what properties are tried on.

An entry is k/32 with |k| ≤ 32, times a power of two. Sums of six of them and their products with powers of two are
exact in bfloat16 already, so that a displacement made by SGD at such a rate is that of exact arithmetic, and tolerances
are those of the projection alone.
"""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from tests.algorithm1 import Tree

SHAPES = ((), (3,), (2, 2), (0,), (0, 2))
REAL = ("float32", "bfloat16")
DTYPES = (*REAL, "complex64")
# A cycle has n_ref + 1 gradients, and n_ref is 1 to 6.
MOST = 6


class Pair(NamedTuple):
    """A container that is neither a dictionary nor a list."""

    first: Any
    second: Any


def specs(
    shapes: tuple[tuple[int, ...], ...] = SHAPES, dtypes: tuple[str, ...] = DTYPES, nothing: Any = (None,)
) -> st.SearchStrategy[Any]:
    """Trees with shapes and dtypes for leaves, at any nesting, with `nothing` among them and maybe without any."""
    leaf = st.builds(jax.ShapeDtypeStruct, st.sampled_from(shapes), st.sampled_from(dtypes).map(jnp.dtype))
    keys = st.sampled_from(("a", "b", "c"))

    def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return (
            st.dictionaries(keys, inner, max_size=3)
            | st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.builds(Pair, inner, inner)
        )

    # None by itself stands for no parameters at all.
    return st.recursive(leaf | leaf | st.sampled_from(nothing), nested, max_leaves=5).filter(
        lambda spec: spec is not None
    )


def numbers(spec: Any, seed: int, exponent: int = 0) -> Any:
    """A tree of such numbers, a quarter of which are zeros, as `spec` says; the same ones for the same seed."""
    rng = np.random.default_rng(seed)

    def parts(shape: tuple[int, ...]) -> Any:
        return np.ldexp(rng.integers(-32, 33, shape) * (rng.random(shape) < 0.75) / 32.0, exponent)

    def leaf(x: Any) -> Any:
        entries = parts(x.shape)
        return jnp.asarray(
            entries + 1j * parts(x.shape) if jnp.issubdtype(x.dtype, jnp.complexfloating) else entries, x.dtype
        )

    return jax.tree.map(leaf, spec)


def float64(tree: Any) -> Tree:
    """The leaves in float64, by their places; a complex one as its real and its imaginary part."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    wide = lambda x: np.stack([x.real, x.imag]) if np.iscomplexobj(x) else x  # noqa: E731
    return {str(i): wide(x).astype(np.float64) for i, x in enumerate(leaves)}


def norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(x**2) for x in float64(tree).values())))


def eps(tree: Any) -> float:
    """The unit in the last place of the leaves' narrowest dtype."""
    return max((float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree)), default=0.0)


def description(tree: Any) -> Any:
    """Structure, shapes and dtypes."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x).name), tree)


def assert_same_bits(tree: Any, expected: Any) -> None:
    """The same structure, and leaves of one dtype with the same bits."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y)
        assert _bits(x) == _bits(y), (x, y)


def _bits(x: Any) -> bytes:
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()


def assert_near(tree: Any, expected: Any, tolerance: float) -> None:
    """The same structure, and entries that differ by no more than `tolerance`."""
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    found, wanted = float64(tree), float64(expected)
    for name, x in wanted.items():
        np.testing.assert_allclose(found[name], x, rtol=0, atol=tolerance)
