"""What PROFIT saw over the steps of a training, as plain rows for any logger, and a picture of them.

Nothing here is needed to train, and no form knows of it: it reads the metrics that every state carries.
"""

import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from profit_optax import _checks
from profit_optax._evaluation import eval_params, states_in
from profit_optax._previous import OrthogonalizeToPreviousState
from profit_optax._projection import ProfitMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where so much of the gradient's square is removed, over as many rows, the picture is shaded.
_NEARLY_ALL = 0.9
_ROWS = 10


def read_metrics(opt_state: optax.OptState, params: chex.ArrayTree) -> dict[str, jax.Array]:
    """What the last step saw, as scalars with a name each: for every form, at any depth of chains and wrappers.

    It may be called anywhere, inside of `jax.jit` too, and costs one pass over the parameters.

    Args:
      opt_state: the state of an optimizer with one form of PROFIT in it.
      params: the parameters that the training loop holds together with that state.

    Returns:
      A dictionary of float32 scalars (float64 if any leaf has 64 bits), none of which shares memory with the state:

      * `cosine`, `conflict` (0 or 1), `displacement_norm`, `gradient_norm`: see `ProfitMetrics`.
      * `removed`: the share of ‖g‖² that the projection removed, cosine² where there was a conflict and 0 elsewhere.
      * `params_norm`: ‖θ‖ over all float and complex leaves, frozen ones too.
      * `relative_displacement`: ‖Δ‖ / ‖θ‖. Left out for `orthogonalize_to_previous`, which displaces nothing: its
        `displacement_norm` is that of the gradient before.

    Raises:
      TypeError: if `params` have a leaf that is no array.
      ValueError: if there is no state of PROFIT in `opt_state` or several of them, or if `params` belong to another.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from profit_optax import orthogonalize_to_previous
      >>> from profit_optax.recording import read_metrics
      >>> tx = optax.chain(orthogonalize_to_previous(), optax.sgd(0.1))
      >>> params = {"w": jnp.array([3.0, 4.0])}
      >>> state = tx.init(params)
      >>> for grads in ({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([3.0, 4.0])}):
      ...     _, state = tx.update(grads, state, params)
      >>> {name: round(float(value), 2) for name, value in read_metrics(state, params).items()}  # doctest: +ELLIPSIS
      {'cosine': -0.6, 'conflict': 1.0, 'removed': 0.36, 'displacement_norm': 1.0, 'gradient_norm': 5.0, ...}

    References:
      This project's own.
    """
    state = _state_in(opt_state)
    _check_params(params)
    theta = eval_params(opt_state, params)
    # Wrapped arrays, as nnx.Optimizer has them, are unwrapped.
    metrics = ProfitMetrics(*jax.tree.leaves(state.metrics))
    dtype = metrics.cosine.dtype
    params_norm = _norm(theta, dtype)
    scalars = {
        "cosine": metrics.cosine,
        "conflict": metrics.conflict,
        "removed": jnp.where(metrics.conflict | jnp.isnan(metrics.cosine), metrics.cosine**2, 0),
        "displacement_norm": metrics.displacement_norm,
        "gradient_norm": metrics.gradient_norm,
        "params_norm": params_norm,
    }
    if not isinstance(state, OrthogonalizeToPreviousState):
        nonzero = jnp.where(params_norm == 0, 1, params_norm)
        scalars["relative_displacement"] = metrics.displacement_norm / nonzero
    # Copies: the state itself is donated to the next step.
    return {name: jnp.array(value, dtype) for name, value in scalars.items()}


def _state_in(opt_state: optax.OptState) -> Any:
    states = states_in(opt_state)
    if len(states) > 1:
        raise ValueError(
            f"opt_state must hold one form of PROFIT, got {len(states)} with metrics of their own. Pass the state of "
            "one of them, such as opt_state.inner_states[LABEL] of optax.partition, and the parameters that it has."
        )
    return states[0]


def _check_params(params: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.number, np.bool_, numbers.Number)):
            raise TypeError(
                f"params must have arrays as leaves, got {leaf!r} of type {type(leaf).__name__} at "
                f"params{jax.tree_util.keystr(path)}."
            )


def _is_real(value: Any) -> bool:
    dtype = np.asarray(value).dtype
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def _norm(tree: chex.ArrayTree, dtype: Any) -> jax.Array:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.asarray(optax.tree.norm([x.astype(jnp.promote_types(x.dtype, dtype)) for x in leaves]), dtype)


_read = jax.jit(read_metrics)
_NAMES = (
    "cosine",
    "conflict",
    "removed",
    "displacement_norm",
    "gradient_norm",
    "params_norm",
    "relative_displacement",
)


class Recorder:
    """Keeps the metrics of every so many steps as a plain list of dictionaries.

    Args:
      every: a row is kept at steps that are multiples of this.
      rows: rows to go on from, such as those of a run before it was interrupted.

    Raises:
      TypeError: if `every` is no int, or `rows` are no dictionaries with `step`.
      ValueError: if `every` is below 1.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from profit_optax import profit
      >>> from profit_optax.recording import Recorder
      >>> from profit_optax.training import make_train_step
      >>> tx = profit(optax.adamw(1e-2), optax.sgd(1e-3))
      >>> train_step = make_train_step(lambda w, x: jnp.mean((x @ w - 1) ** 2), tx)
      >>> params = jnp.ones(3)
      >>> opt_state = tx.init(params)
      >>> recorder = Recorder(every=2)
      >>> for step, batches in enumerate(jax.random.normal(jax.random.key(0), (5, 2, 8, 3))):
      ...     params, opt_state, metrics = train_step(params, opt_state, batches)
      ...     row = recorder.record(step, opt_state, params, loss=metrics["loss"])
      >>> [row["step"] for row in recorder.rows], sorted(recorder.rows[0])[:3]
      ([0, 2, 4], ['conflict', 'cosine', 'displacement_norm'])

    References:
      This project's own.

    .. note::
      Reading a row waits for its step, and costs one pass over the parameters: with `every` at 10 or more neither is
      felt. With `profit_transparent` record after the last call of a cycle, as with `every` at a multiple of n_ref + 1.
    """

    def __init__(self, every: int = 1, rows: Iterable[Mapping[str, Any]] = ()):
        self._every = _checks.check_count("every", every, minimum=1)
        self.rows: list[dict[str, Any]] = list(map(dict, _checked(rows)))

    def record(
        self, step: int, opt_state: optax.OptState, params: chex.ArrayTree, **values: Any
    ) -> dict[str, Any] | None:
        """Keep a row, if it is the turn of this step.

        Args:
          step: which step this was.
          opt_state: the state after it, with one form of PROFIT in it.
          params: the parameters after it.
          **values: further scalars, such as `loss=loss`.

        Returns:
          The row, numbers of Python by name: `step`, those of `read_metrics`, and `values`. None between the turns.

        Raises:
          TypeError: as `read_metrics` does, and if `step` is no whole number or one of `values` no number.
          ValueError: as `read_metrics` does, for what is no scalar, such as the metrics of a vmapped optimizer, and for
            `values` with a name that `read_metrics` has.
        """
        try:
            step = operator.index(step)
        except TypeError:
            raise TypeError(f"step must be a whole number, got {step!r} of type {type(step).__name__}.") from None
        if taken := [name for name in values if name in _NAMES]:
            raise ValueError(f"{taken[0]} is what read_metrics measures: give a value of your own another name.")
        if step % self._every:
            return None
        _state_in(opt_state)  # Before JAX speaks of what it cannot trace.
        _check_params(params)
        row = {"step": step}
        # In the order of `read_metrics`: JAX sorts the names of dictionaries.
        read = _read(opt_state, params)
        named = [(name, read[name]) for name in _NAMES if name in read] + list(values.items())
        for (name, _), value in zip(named, jax.device_get([value for _, value in named]), strict=True):
            if not _is_real(value):
                raise TypeError(f"{name} must be a real number, got {value!r} of type {type(value).__name__}.")
            if np.size(value) != 1:
                raise ValueError(
                    f"{name} must be a scalar, got shape {np.shape(value)}. Of runs under vmap record one: "
                    "jax.tree.map(lambda x: x[0], (opt_state, params))."
                )
            row[name] = np.asarray(value).item()
        self.rows.append(row)
        return row


def plot_metrics(rows: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> "Figure":
    """Draw the rows of a training: loss, cosine, conflicts, what was removed, and how far the weights were displaced.

    Shaded are the steps around which, over ten rows, at least 90 % of the gradient's square was removed. What is left
    there is mostly noise and curvature, which optimizers such as Adam rescale to full steps. It may announce a
    collapse and need not: with large batches PROFIT may also learn slowly like that, and keep the old task. If the loss
    rises as well, lower the main rate or use smaller batches.

    Args:
      rows: dictionaries with `step` and what `read_metrics` names, as `Recorder.rows` or a log file has them. `loss`
        is drawn where it is there, and what a row lacks is left out. At least one row.
      path: where the picture is written, in the format that its ending names; None to write none.

    Returns:
      The matplotlib figure, which notebooks show.

    Raises:
      ImportError: if matplotlib is not installed: it comes with the extra `compare`.
      TypeError: if `rows` are no dictionaries with `step`.
      ValueError: if there is no row, or none with a cosine.

    Examples:
      >>> from profit_optax.recording import plot_metrics
      >>> rows = [{"step": i, "cosine": -0.5, "conflict": 1.0, "removed": 0.25} for i in range(30)]
      >>> [axes.get_ylabel() for axes in plot_metrics(rows).axes]
      ['cosine of Δ and g', 'share']

    References:
      This project's own.
    """
    rows = _checked(rows)
    if all(row.get("cosine") is None for row in rows):
        raise ValueError(
            f"rows must be dictionaries with step and cosine, got {len(rows)} rows without one. Pass Recorder.rows."
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot_metrics draws with matplotlib, which is not installed. Run pip install 'profit-optax[compare]'."
        ) from error
    panels = [panel for panel in _PANELS if any(_known(rows, name)[0].size for name, *_ in panel[1])]
    figure = Figure(figsize=(8, 0.9 + 1.75 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    spans = _spans(rows)
    for axes, (label, lines, limits, scale) in zip(grid, panels, strict=True):
        for name, colour, title in lines:
            _draw(axes, *_known(rows, name), colour, title if len(lines) > 1 else None)
        for first, last in spans:
            axes.axvspan(first, last, color="#D55E00", alpha=0.13, linewidth=0)
        axes.set_ylabel(label)
        axes.set_yscale(scale)
        axes.set_ylim(*limits) if limits else None
        axes.grid(alpha=0.25)
        axes.legend(loc="upper right", frameon=False, ncols=2) if len(lines) > 1 else None
    grid[-1].set_xlabel("step")
    if spans:
        grid[0].set_title(
            f"shaded: {_NEARLY_ALL:.0%} or more of the gradient is removed, noise and curvature are left.\n"
            "If the loss rises here, this is a collapse: lower the main rate or use smaller batches.",
            fontsize="medium",
            loc="left",
        )
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _checked(rows: Any) -> list[Mapping[str, Any]]:
    """Rows as a list, or an error unless all of them are dictionaries with a step."""
    if isinstance(rows, (str, bytes, Mapping, np.ndarray, jax.Array)) or not isinstance(rows, Iterable):
        raise TypeError(f"rows must be a list of dictionaries, got {type(rows).__name__}. Pass Recorder.rows.")
    rows = list(rows)
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("step"), (numbers.Real, np.generic)):
            raise TypeError(f"rows must be dictionaries with step, got {row!r} at place {place}. Pass Recorder.rows.")
    return rows


# A panel: its label, (name, colour, title) of each line, the limits and the scale of its axis.
_PANELS: Sequence[tuple[str, Sequence[tuple[str, str, str]], tuple[float, float] | None, str]] = (
    ("loss", (("loss", "#000000", ""),), None, "log"),
    ("cosine of Δ and g", (("cosine", "#0072B2", ""),), (-1.05, 1.05), "linear"),
    (
        "share",
        (("conflict", "#009E73", "steps in conflict"), ("removed", "#D55E00", "of ‖g‖² removed")),
        (-0.03, 1.25),
        "linear",
    ),
    ("‖Δ‖ / ‖θ‖", (("relative_displacement", "#CC79A7", ""),), None, "log"),
)


def _known(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the rows that have it."""
    pairs = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    steps, values = np.asarray(pairs, np.float64).reshape(-1, 2).T
    return steps, values


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Means over windows around each value, shorter at the ends; a NaN stays within its windows."""
    half = window // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(values.size)])


def _draw(axes: "Axes", steps: np.ndarray, values: np.ndarray, colour: str, title: str | None) -> None:
    """Every value, lightly, and their running mean."""
    axes.plot(steps, values, ".", color=colour, alpha=0.25, markersize=3, markeredgewidth=0)
    axes.plot(steps, _running_mean(values, max(5, values.size // 40)), color=colour, linewidth=1.5, label=title)


def _spans(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """The first and last step of each stretch in which nearly all of the gradient is removed."""
    steps, removed = _known(rows, "removed")
    spans: list[tuple[float, float]] = []
    if removed.size < _ROWS:
        return spans
    high = _running_mean(removed, _ROWS) >= _NEARLY_ALL
    edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]]).astype(int)))
    for first, after in zip(edges[::2], edges[1::2], strict=True):
        spans.append((steps[first], steps[after - 1]))
    return spans
