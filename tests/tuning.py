"""A small fine-tuning problem, and the loop that runs it: on one device, or on eight in any way of sharding it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from profit_optax import ProfitMetrics, eval_params, profit, profit_transparent
from tests.forms import one_line

N_REF = 3
STEPS = 6
BATCH = 64
FORMS = ("closure", "transparent", "one-line")


def make(form: str, main: Any = None, reference: Any = None, **options: Any) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a form: AdamW, and plain SGD for the reference steps."""
    factory = {"closure": profit, "transparent": profit_transparent, "one-line": one_line}[form]
    counts = {} if form == "one-line" else {"n_ref": N_REF}
    main = optax.adamw(1e-2) if main is None else main
    return factory(main, optax.sgd(0.1) if reference is None else reference, **counts, **options)


def start(dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 32), "b": (32,), "v": (32,), "c": ()}
    return {name: jnp.asarray(rng.normal(size=shape) / 4, dtype) for name, shape in shapes.items()}


def data(form: str) -> dict[str, np.ndarray]:
    """Leaves [calls, batches a call, BATCH, ...]: the closure form is handed all batches of a step at once.

    The labels are so noisy that two gradients agree or conflict by chance.
    """
    calls, batches = {"closure": (STEPS, N_REF + 1), "transparent": (STEPS * (N_REF + 1), 1), "one-line": (STEPS, 1)}[
        form
    ]
    rng = np.random.default_rng(3)
    x = rng.normal(size=(STEPS * (N_REF + 1), BATCH, 8))
    y = np.sin(x.sum(axis=-1)) + 3 * rng.normal(size=x.shape[:-1])
    return {
        name: z[: calls * batches].reshape(calls, batches, *z.shape[1:]).astype(np.float32)
        for name, z in {"x": x, "y": y}.items()
    }


def loss_fn(params: Any, batch: Any) -> jax.Array:
    # No matrix product over the hidden axis: on an Explicit mesh it would have to say how its result is sharded.
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    return jnp.mean((jnp.sum(hidden * params["v"][None], axis=1) + params["c"] - batch["y"]) ** 2)


value_and_grad_fn = jax.value_and_grad(loss_fn)


def call_of(form: str, tx: Any, value_and_grad_fn: Any = value_and_grad_fn) -> Callable[..., Any]:
    """One call of the optimizer: `(params, state, batches) -> (params, state, updates)`."""

    def call(params: Any, state: Any, batches: Any) -> Any:
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = value_and_grad_fn(params, first)
        closure = {"value_and_grad_fn": value_and_grad_fn, "batches": others} if form == "closure" else {}
        updates, state = tx.update(grads, state, params, **closure)
        return optax.apply_updates(params, updates), state, updates

    return call


class Run(NamedTuple):
    """Where a run ended.

    Attributes:
      theta: what `eval_params` makes of the last parameters.
      metrics: what the projection of each main step saw, leaves [STEPS].
      params: the parameters that the loop held.
      state: the state of the optimizer.
      updates: those of the last call.
    """

    theta: Any
    metrics: ProfitMetrics
    params: Any
    state: Any
    updates: Any


def run(form: str, call: Callable[..., Any], params: Any, state: Any, data: Any) -> Run:
    """All calls of a form; a call is the same program every time."""
    metrics, updates = [], None
    for i in range(len(data["x"])):
        params, state, updates = call(params, state, jax.tree.map(lambda x: x[i], data))  # noqa: B023
        metrics.append(jax.device_get(optax.tree.get(state, "metrics")))
    main_calls = metrics[N_REF :: N_REF + 1] if form == "transparent" else metrics
    seen = jax.tree.map(lambda *x: np.stack(x), *main_calls)
    return Run(eval_params(state, params), seen, params, state, updates)


@functools.cache
def on_one_device(form: str) -> Run:
    tx = make(form)
    expected = run(form, jax.jit(call_of(form, tx)), start(), tx.init(start()), data(form))
    # Far enough from 0 that rounding cannot tip one over.
    assert np.min(np.abs(expected.metrics.cosine)[1:]) > 1e-2
    assert set(expected.metrics.conflict) == {True, False}
    return expected


def relative_error(tree: Any, expected: Any) -> float:
    """‖a − b‖ / ‖b‖ over all leaves."""
    a, b = (np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(t)]) for t in (tree, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def assert_same_run(result: Run, expected: Run, tolerance: float = 2e-6) -> None:
    """The same parameters at the end. The norms are compared too: AdamW hardly feels a gradient of a wrong scale."""
    np.testing.assert_array_equal(result.metrics.conflict, expected.metrics.conflict)
    for name in ("gradient_norm", "displacement_norm", "cosine"):
        np.testing.assert_allclose(
            getattr(result.metrics, name), getattr(expected.metrics, name), rtol=10 * tolerance, atol=10 * tolerance
        )
    assert relative_error(result.theta, expected.theta) <= tolerance


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that keeps its state, and makes its updates, in float32 whatever the parameters are in."""

    def wide(tree: Any) -> Any:
        return optax.tree.cast(tree, jnp.float32)

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        return inner.update(wide(grads), state, wide(params))

    return optax.GradientTransformation(lambda params: inner.init(wide(params)), update)


class HalfPrecision(NamedTuple):
    """A use of bfloat16.

    Attributes:
      dtype: that of the parameters.
      loss_fn: the loss, which says what is computed in bfloat16.
      options: those of `make`.
    """

    dtype: Any
    loss_fn: Callable[[Any, Any], jax.Array]
    options: dict[str, Any]


HALF_PRECISION = {
    "parameters": HalfPrecision(
        jnp.bfloat16,
        lambda params, batch: loss_fn(optax.tree.cast(params, jnp.float32), batch),
        {"main": _in_float32(optax.adamw(1e-2)), "displacement_dtype": "float32"},
    ),
    "compute": HalfPrecision(
        jnp.float32,
        lambda params, batch: loss_fn(*optax.tree.cast((params, batch), jnp.bfloat16)).astype(jnp.float32),
        {},
    ),
}


@functools.cache
def _half_precision_on_one_device(case: str, form: str) -> Run:
    dtype, loss_fn, options = HALF_PRECISION[case]
    tx = make(form, **options)
    call = jax.jit(call_of(form, tx, jax.value_and_grad(loss_fn)))
    expected = run(form, call, start(dtype), tx.init(start(dtype)), data(form))
    assert set(expected.metrics.conflict) == {True, False}
    return expected


def assert_same_in_half_precision(case: str, result: Run, form: str) -> None:
    """The run of one device, to one rounding to bfloat16: devices round their own parts of a sum."""
    expected = _half_precision_on_one_device(case, form)
    tolerance = float(jnp.finfo(jnp.bfloat16).eps)
    assert tolerance < 0.1 * relative_error(start(), expected.theta)
    assert_same_run(result, expected, tolerance)
    for name in ("mu", "nu"):
        assert {x.dtype for x in jax.tree.leaves(optax.tree.get(result.state, name))} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(result.params)} == {jnp.dtype(HALF_PRECISION[case].dtype)}


def mesh_of(shape: tuple[int, ...], names: tuple[str, ...], axis_type: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(names))
