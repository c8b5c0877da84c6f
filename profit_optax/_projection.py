"""The projection of PROFIT: the one place that knows its formula."""

import functools
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


class _InnerProducts(NamedTuple):
    """The three products of Δ and g.

    Attributes:
      cross: ⟨Δ, g⟩.
      square: ⟨Δ, Δ⟩.
      gradient_square: ⟨g, g⟩.
      resolved: whether the squares are large enough for underflow not to have harmed the sums.
    """

    cross: jax.Array
    square: jax.Array
    gradient_square: jax.Array
    resolved: jax.Array


def zero_metrics(params: chex.ArrayTree, axis_name: Any) -> ProfitMetrics:
    """The metrics before the first step of an optimizer of `params`."""
    dtype = accumulation_dtype(params)
    dtypes = [jnp.bool_ if name == "conflict" else dtype for name in ProfitMetrics._fields]
    # One array a field: a state that holds one array twice cannot be donated.
    return ProfitMetrics(*(_axes.like_sums(jnp.zeros((), each), axis_name, params) for each in dtypes))


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
      TypeError: if a leaf is neither float nor complex, or real in `gradient` where it is complex in `displacement`; if
        `axis_name` has a leaf that is no name.
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
    _checks.check_same_tree("displacement", displacement, "gradient", gradient, remedy=remedy)
    _checks.check_inexact("gradient", gradient, "displacement", displacement)
    _checks.check_complex_together(gradient, displacement)
    _checks.check_axis_name(axis_name)
    gradient, displacement = jax.tree.map(jnp.asarray, (gradient, displacement))
    dtype = accumulation_dtype(gradient, displacement)
    s, t = (_to_unity(_largest(tree, dtype, axis_name)) for tree in (displacement, gradient))
    scaled, scaled_displacement = _scaled(gradient, t), _scaled(displacement, s)
    products = _inner_products(scaled, scaled_displacement, dtype, axis_name)
    projected, metrics = _project(scaled, scaled_displacement, products, s, t)
    changed = metrics.conflict | jnp.isnan(metrics.cosine)
    inverse = 1 / t
    return jax.tree.map(lambda g, p: jnp.where(changed, (inverse * p).astype(g.dtype), g), gradient, projected), metrics


def project(
    gradient: chex.ArrayTree,
    displacement: chex.ArrayTree,
    *,
    axis_name: Any,
    scale: float,
    square: jax.Array | None = None,
    active: jax.Array | bool = True,
) -> tuple[chex.ArrayTree, ProfitMetrics]:
    """`orthogonalize` for steps of training, which spend no pass on finding out the scales of Δ and g.

    In float32, sums of squares are exact where the norm of a tree of a billion numbers lies between 1e-11 and 1e19:
    enough for gradients, and not for Δ, which may be smaller by any reference rate. So Δ comes multiplied by a power
    of two. What is smaller counts as 0, and what is larger as not finite.

    Args:
      gradient: g.
      displacement: Δ, times `scale`.
      axis_name: as in `orthogonalize`.
      scale: a power of two, or its negative.
      square: ‖`displacement`‖² where it is known already; None to add it up.
      active: whether there is a displacement at all; where not, the gradient stays as it is.
    """
    dtype = accumulation_dtype(gradient, displacement)
    products = _inner_products(gradient, displacement, dtype, axis_name, square)
    if active is not True:
        cross, square = (jnp.where(active, x, 0) for x in (products.cross, products.square))
        products = products._replace(cross=cross, square=square, resolved=products.resolved & active)
    return _project(gradient, displacement, products, jnp.asarray(scale, dtype), jnp.ones((), dtype))


def _project(
    gradient: chex.ArrayTree, displacement: chex.ArrayTree, products: _InnerProducts, s: jax.Array, t: jax.Array
) -> tuple[chex.ArrayTree, ProfitMetrics]:
    """The projection of t g, where the displacement is s Δ; the metrics are those of g and Δ."""
    conflict = products.resolved & (jnp.sign(s) * products.cross < 0)
    finite = jnp.isfinite(products.cross) & jnp.isfinite(products.square) & jnp.isfinite(products.gradient_square)
    # Where there is no conflict, Δ may be 0: the inner `where` keeps 0/0 out of the branch that is not taken.
    coefficient = jnp.where(conflict, products.cross / jnp.where(conflict, products.square, 1), 0)
    coefficient = jnp.where(finite, coefficient, jnp.nan)

    def project_leaf(g: jax.Array, d: jax.Array) -> jax.Array:
        projected = _widened(g, s.dtype) - coefficient * _widened(d, s.dtype)
        # Bit for bit: subtracting 0 would turn -0 into 0, and flush what is below the normal numbers.
        return jnp.where(coefficient == 0, g, _axes.sharded_like(projected.astype(g.dtype), g))

    return jax.tree.map(project_leaf, gradient, displacement), _metrics(products, conflict, finite, s, t)


def accumulation_dtype(*trees: chex.ArrayTree) -> jnp.dtype:
    """The dtype of sums over trees: float32, or float64 if any leaf has 64 bits a real number."""
    wide = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(trees))
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def _inner_products(
    gradient: chex.ArrayTree,
    displacement: chex.ArrayTree,
    dtype: jnp.dtype,
    axis_name: Any,
    square: jax.Array | None = None,
) -> _InnerProducts:
    axes = _axes.leaf_axes(axis_name, gradient, displacement)
    pairs = list(zip(*(jax.tree.leaves(_widened_tree(tree, dtype)) for tree in (displacement, gradient)), strict=True))
    sums = [(_real_dot(d, g), _real_dot(g, g), *([_real_dot(d, d)] if square is None else [])) for d, g in pairs]
    zeros = (jnp.zeros((), dtype),) * (3 if square is None else 2)
    cross, gradient_square, *of_displacement = _axes.sum_leaves(sums, axes, zeros)
    square = of_displacement[0] if square is None else square
    # A square below the smallest normal number may be flushed to zero. `size` of them are less than one rounding of a
    # sum that exceeds size · tiny / eps; the same bound holds for ⟨Δ, g⟩ against ‖Δ‖ ‖g‖.
    info = jnp.finfo(dtype)
    size = sum(g.size * math.prod(map(lax.axis_size, names)) for (_, g), names in zip(pairs, axes, strict=True))
    lowest = max(size, 1) * float(info.tiny) / float(info.eps)
    return _InnerProducts(cross, square, gradient_square, resolved=(square > lowest) & (gradient_square > lowest))


def _largest(tree: chex.ArrayTree, dtype: jnp.dtype, axis_name: Any) -> jax.Array:
    """The largest absolute value of a real or imaginary part in any leaf, on all devices that share one."""
    parts = [(x.real, x.imag) if jnp.iscomplexobj(x) else (x,) for x in jax.tree.leaves(tree)]
    values = [functools.reduce(jnp.maximum, (jnp.max(jnp.abs(p), initial=0) for p in each)) for each in parts]
    return _axes.max_leaves([x.astype(dtype) for x in values], _axes.leaf_axes(axis_name, tree), jnp.zeros((), dtype))


def _to_unity(largest: jax.Array) -> jax.Array:
    """The power of two that brings a number to about 1, itself and its inverse normal numbers."""
    lowest = int(jnp.finfo(largest.dtype).minexp)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest) & (largest > 0), largest, 1))
    return jnp.ldexp(jnp.ones((), largest.dtype), jnp.clip(-exponent, lowest, -lowest))


def _metrics(
    products: _InnerProducts, conflict: jax.Array, finite: jax.Array, s: jax.Array, t: jax.Array
) -> ProfitMetrics:
    norm, gradient_norm = _sqrt(products.square), _sqrt(products.gradient_square)
    # Two divisions, because the product of two norms may leave the range that each of them is in.
    cosine = jnp.sign(s) * products.cross / jnp.where(products.resolved, norm, 1)
    cosine /= jnp.where(products.resolved, gradient_norm, 1)
    return ProfitMetrics(
        inner_product=products.cross / s / t,
        cosine=jnp.where(finite, jnp.clip(jnp.where(products.resolved, cosine, 0), -1, 1), jnp.nan),
        conflict=conflict,
        displacement_norm=norm / jnp.abs(s),
        gradient_norm=gradient_norm / t,
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


def _scaled(tree: chex.ArrayTree, factor: jax.Array) -> chex.ArrayTree:
    return jax.tree.map(lambda x: factor * x, _widened_tree(tree, factor.dtype))


def _widened_tree(tree: chex.ArrayTree, dtype: jnp.dtype) -> chex.ArrayTree:
    return jax.tree.map(lambda x: _widened(x, dtype), tree)


def _widened(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x` in the dtype of the sums, or in the complex one that belongs to it."""
    return x.astype(jnp.result_type(dtype, jnp.complex64) if jnp.iscomplexobj(x) else dtype)
