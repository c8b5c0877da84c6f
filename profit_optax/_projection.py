"""The projection of PROFIT: the one place that knows its formula."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from profit_optax import _axes, _checks


class ProfitMetrics(NamedTuple):
    """What the last projection saw; all zero (and False) before the first step.

    The dtype is float32, or float64 if any leaf of the parameters has 64 bits a real number.

    Attributes:
      inner_product: ω = ⟨Δ, g⟩ over all leaves together; complex leaves enter by the real part.
      cosine: ω / (‖Δ‖ ‖g‖), 0 where either norm is 0. Values that stay near −1 may announce a collapse: what is left of
        the gradient after projecting is then mostly noise. NaN where Δ, g or ω was not finite.
      conflict: whether ω < 0, that is, whether the projection changed the gradient.
      displacement_norm: ‖Δ‖.
      gradient_norm: ‖g‖, before projecting.
    """

    inner_product: jax.Array
    cosine: jax.Array
    conflict: jax.Array
    displacement_norm: jax.Array
    gradient_norm: jax.Array


def zero_metrics(params: chex.ArrayTree) -> ProfitMetrics:
    """The metrics before the first step of an optimizer of `params`."""
    dtype = accumulation_dtype(params)
    # One array a field: a state that holds one array twice cannot be donated.
    return ProfitMetrics(
        inner_product=jnp.zeros((), dtype),
        cosine=jnp.zeros((), dtype),
        conflict=jnp.zeros((), jnp.bool_),
        displacement_norm=jnp.zeros((), dtype),
        gradient_norm=jnp.zeros((), dtype),
    )


def orthogonalize(
    gradient: chex.ArrayTree, displacement: chex.ArrayTree, *, axis_name: Any = None
) -> tuple[chex.ArrayTree, ProfitMetrics]:
    """Removes from a gradient its component along a displacement, where the two conflict.

    With ω = ⟨Δ, g⟩, one inner product over all leaves together, the result is g − (ω / ⟨Δ, Δ⟩) Δ where ω < 0, and g as
    it came where ω ≥ 0 or Δ = 0. There is no epsilon: scaling Δ or g by any factor scales the result accordingly, as
    long as their largest entries are normal numbers of their dtype. Sums are accumulated in float32, in float64 if
    any leaf has 64 bits.

    Args:
      gradient: g, a pytree of float or complex arrays of any dtypes. Complex leaves are conjugated as Optax expects.
      displacement: Δ, a pytree of the same structure and shapes; its dtypes may differ from those of `gradient`.
      axis_name: inside `shard_map` or `pmap`, the mesh axes over which leaves are *sharded*: a name, a tuple of
        names for every leaf, or a prefix pytree of these with None for replicated leaves. Never the data axis. Under
        `check_vma=True` the types of the leaves decide, and nothing need be given.

    Returns:
      The projected gradient, in the dtypes of `gradient`, and the `ProfitMetrics`. If Δ, g or ω is not finite every
      entry of the gradient is NaN, and so is the cosine: an overflow is never dropped in silence.

    Raises:
      TypeError: if `axis_name` has a leaf that is no name.
      ValueError: if the two trees differ in structure or shapes.

    Examples:
      >>> import jax.numpy as jnp
      >>> from profit_optax import orthogonalize
      >>> g, metrics = orthogonalize({"w": jnp.array([-3.0, 1.0])}, {"w": jnp.array([2.0, 0.0])})
      >>> g["w"].tolist(), float(metrics.inner_product), bool(metrics.conflict)
      ([0.0, 1.0], -6.0, True)

    References:
      Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS 2025, Algorithm 1.
    """
    remedy = "Both are pytrees like the parameters."
    _checks.check_same_tree("displacement", displacement, "gradient", gradient, remedy)
    _checks.check_axis_name(axis_name)
    gradient, displacement = jax.tree.map(jnp.asarray, (gradient, displacement))
    products = _inner_products(gradient, displacement, axis_name)
    conflict = products.cross < 0
    finite = jnp.isfinite(products.cross) & jnp.isfinite(products.square) & jnp.isfinite(products.gradient_square)
    # Where there is no conflict, Δ may be 0: the inner `where` keeps 0/0 out of the branch that is not taken.
    coefficient = jnp.where(conflict, products.cross / jnp.where(conflict, products.square, 1), 0)
    coefficient = jnp.where(finite, coefficient, jnp.nan)

    # The products are those of s Δ and t g, and t (g − c' Δ) = t g − c (s Δ). The factors are powers of two.
    s, t, inverse = products.scale, products.gradient_scale, 1 / products.gradient_scale

    def project(g: jax.Array, d: jax.Array) -> jax.Array:
        projected = inverse * (t * _widen(g, t.dtype) - coefficient * (s * _widen(d, t.dtype)))
        # Bit for bit: subtracting 0 would turn -0 into 0, and flush what is below the normal numbers.
        return jnp.where(coefficient == 0, g, projected.astype(g.dtype))

    return jax.tree.map(project, gradient, displacement), _metrics(products, conflict, finite)


def accumulation_dtype(*trees: chex.ArrayTree) -> jnp.dtype:
    """The dtype of sums over trees: float32, or float64 if any leaf has 64 bits a real number."""
    wide = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(trees))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


class _InnerProducts(NamedTuple):
    """The three products of s Δ and t g, with the powers of two s and t.

    Attributes:
      cross: ⟨s Δ, t g⟩.
      square: ⟨s Δ, s Δ⟩.
      gradient_square: ⟨t g, t g⟩.
      scale: s.
      gradient_scale: t.
    """

    cross: jax.Array
    square: jax.Array
    gradient_square: jax.Array
    scale: jax.Array
    gradient_scale: jax.Array


def _inner_products(gradient: chex.ArrayTree, displacement: chex.ArrayTree, axis_name: Any) -> _InnerProducts:
    """The inner products to full relative accuracy, whatever the scales of Δ and g.

    A displacement of size 1e-20 squares to nothing in float32. One pass over the trees computes the products as they
    are; only if a sum comes out so small or so large that squares may have been lost does a second one rescale the
    tree in question. Steps of a usual size therefore pay for no rescaling.
    """
    dtype = accumulation_dtype(gradient, displacement)
    axes = _axes.leaf_axes(axis_name, gradient, displacement)
    pairs = list(zip(jax.tree.leaves(displacement), jax.tree.leaves(gradient), strict=True))
    one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)

    # It widens for itself: wide copies handed into the branch below would have to be written out.
    def products(s: jax.Array | None = None, t: jax.Array | None = None) -> _InnerProducts:
        # Copies that XLA cannot tell to be equal: it would write out s Δ and t g, to use them in two products each.
        s_, t_ = lax.optimization_barrier((s, t))
        cross = [_real_dot(_scaled(d, dtype, s), _scaled(g, dtype, t)) for d, g in pairs]
        squares = [_real_dot(x, x) for x in (_scaled(d, dtype, s_) for d, _ in pairs)]
        gradient_squares = [_real_dot(x, x) for x in (_scaled(g, dtype, t_) for _, g in pairs)]
        sums = list(zip(cross, squares, gradient_squares, strict=True))
        totals = _axes.sum_leaves(sums, axes, (zero,) * 3)
        return _InnerProducts(*totals, *(one if factor is None else factor for factor in (s, t)))

    plain = products()
    size = sum(g.size * math.prod(map(lax.axis_size, names)) for (_, g), names in zip(pairs, axes, strict=True))
    s, t = (_power_of_two(square, size) for square in (plain.square, plain.gradient_square))

    def rescaled() -> _InnerProducts:
        # Where XLA knows that Δ is 0, it makes Δ Δ s² of (s Δ)(s Δ), and NaN, since s² overflows: 0 is right.
        found = products(s, t)
        lost = jnp.isnan(sum(found[:3])) & jnp.isfinite(sum(plain[:3]))
        return jax.tree.map(lambda x, y: jnp.where(lost, x, y), plain, found)

    return lax.cond((s == 1) & (t == 1), lambda: plain, rescaled)


def _power_of_two(square: jax.Array, size: int) -> jax.Array:
    """The factor for a tree whose sum of squares is `square`: 1 if neither underflow nor overflow can have harmed it.

    A square below the smallest normal number may be flushed to zero. `size` of them are less than one rounding of the
    sum if the sum exceeds size · tiny / eps. The same bound then holds for ⟨Δ, g⟩ against ‖Δ‖ ‖g‖. What is smaller has
    a norm between 2^m and 2^((m + p) / 2) √size, with m the exponent of the smallest normal number and p the bits of
    precision. The middle of that, without the size, is brought to 1, and squares are then far from both ends.
    """
    info = jnp.finfo(square.dtype)
    lowest, highest = max(size, 1) * float(info.tiny) / float(info.eps), float(info.max) * float(info.eps)
    exponent = -(3 * int(info.minexp) + int(info.nmant)) // 4
    up = jnp.where(square > lowest, 1.0, 2.0**exponent)
    # What is not finite is scaled down as well.
    return lax.stop_gradient(jnp.where(square < highest, up, 2.0**-exponent).astype(square.dtype))


def _metrics(products: _InnerProducts, conflict: jax.Array, finite: jax.Array) -> ProfitMetrics:
    norm, gradient_norm = _sqrt(products.square), _sqrt(products.gradient_square)
    nonzero = (norm > 0) & (gradient_norm > 0)
    # Two divisions, because the product of two norms may leave the range that each of them is in.
    cosine = products.cross / jnp.where(nonzero, norm, 1) / jnp.where(nonzero, gradient_norm, 1)
    return ProfitMetrics(
        inner_product=products.cross / products.scale / products.gradient_scale,
        cosine=jnp.where(finite, jnp.clip(jnp.where(nonzero, cosine, 0), -1, 1), jnp.nan),
        conflict=conflict,
        displacement_norm=norm / products.scale,
        gradient_norm=gradient_norm / products.gradient_scale,
    )


def _sqrt(x: jax.Array) -> jax.Array:
    """The square root, with the derivative 0 at 0: an infinite one would make NaN of a step's derivatives."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), x)


def _real_dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """The real part of ⟨x, y⟩, the inner product of two arrays as vectors of real numbers."""
    if jnp.iscomplexobj(x) or jnp.iscomplexobj(y):
        return jnp.sum(x.real * y.real) + jnp.sum(x.imag * y.imag)
    return jnp.sum(x * y)


def _widen(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x` in the dtype of the sums, or in the complex one that belongs to it."""
    return x.astype(jnp.result_type(dtype, jnp.complex64) if jnp.iscomplexobj(x) else dtype)


def _scaled(x: jax.Array, dtype: jnp.dtype, factor: jax.Array | None) -> jax.Array:
    wide = _widen(x, dtype)
    return wide if factor is None else factor * wide
