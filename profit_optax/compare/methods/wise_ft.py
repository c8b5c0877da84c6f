"""WiSE-FT: what lies between the old weights and the fine-tuned ones."""

from collections.abc import Iterator

import chex
import jax
import numpy as np
import optax

from profit_optax.compare.methods import Method

ALPHAS = tuple(float(alpha) for alpha in np.round(np.linspace(0.1, 1.0, 10), 1))


def interpolate(start: chex.ArrayTree, params: chex.ArrayTree, alpha: jax.typing.ArrayLike) -> chex.ArrayTree:
    """WiSE-FT: (1 − alpha) · start + alpha · params.

    Args:
      start: the parameters that fine-tuning started from.
      params: the fine-tuned ones, by any method; those of `profit_optax.eval_params` where it is PROFIT.
      alpha: how much of the way is taken: 0 for the start, 1 for the end.

    Returns:
      Parameters in the dtypes of `params`.

    Raises:
      ValueError: if the two are not trees of one structure.

    Examples:
      >>> import jax.numpy as jnp
      >>> from profit_optax.compare import interpolate
      >>> interpolate({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, 0.25)["w"].tolist()
      [0.25, 0.25]

    References:
      Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022.

    .. note::
      A layer that was fresh at the start has no old weights to go back to: take it from `params`.
    """
    return jax.tree.map(lambda p0, p: ((1 - alpha) * p0 + alpha * p).astype(p.dtype), start, params)


def wise_ft(of: Method | None = None, alphas: tuple[float, ...] = ALPHAS) -> Method:
    """All interpolations of where one run began and ended: the baseline's, or that of another method.

    It trains nothing of its own. Its curve runs along alpha, and costs the run's gradients.
    """

    def points(start: chex.ArrayTree, params: chex.ArrayTree) -> Iterator[tuple[float, chex.ArrayTree]]:
        return ((alpha, interpolate(start, params, alpha)) for alpha in alphas)

    name = f"WiSE-FT of {of.name}" if of else "WiSE-FT"
    return Method(name, lambda setting: optax.identity(), points=points, of=of)
