"""The closure form and Algorithm 1 side by side on the same batches."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from profit_optax import profit
from tests import regression
from tests.algorithm1 import Adam, Profit, Sgd, Tree, float64

MAIN = {
    "sgd": (lambda: optax.sgd(0.1), lambda: Sgd(0.1)),
    "momentum": (lambda: optax.sgd(0.05, momentum=0.9), lambda: Sgd(0.05, momentum=0.9)),
    "adam": (lambda: optax.adam(0.03), lambda: Adam(0.03)),
    "adamw": (lambda: optax.adamw(0.03, weight_decay=0.1), lambda: Adam(0.03, weight_decay=0.1)),
}
REFERENCE = {
    "sgd": (lambda: optax.sgd(0.02), lambda: Sgd(0.02)),
    "momentum": (lambda: optax.sgd(0.02, momentum=0.5), lambda: Sgd(0.02, momentum=0.5)),
}


class Run(NamedTuple):
    """The parameters after a run, and what the projections of its steps saw."""

    params: Any
    metrics: Any


def run_closure(tx: optax.GradientTransformationExtraArgs, params: Any, data: Any) -> Run:
    """Fine-tunes with the closure form; data has leaves [steps, n_ref + 1, ...]."""

    def step(carry: Any, batches: Any) -> Any:
        params, state = carry
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = regression.value_and_grad_fn(params, first)
        updates, state = tx.update(grads, state, params, value_and_grad_fn=regression.value_and_grad_fn, batches=others)
        return (optax.apply_updates(params, updates), state), optax.tree.get(state, "metrics")

    (params, _), metrics = jax.jit(lambda carry: jax.lax.scan(step, carry, data))((params, tx.init(params)))
    return Run(params, metrics)


def run_algorithm1(algorithm: Profit, theta: Tree, data: Any) -> Tree:
    data = float64(data)
    steps, n_batches = data["x"].shape[:2]
    for step in range(steps):
        batches = [{name: x[step, i] for name, x in data.items()} for i in range(n_batches)]
        theta = algorithm.step(theta, regression.gradient, batches)
    return theta


def relative_error(params: Any, expected: Tree, start: Tree) -> float:
    """The error of a run, relative to how far the run moved."""
    flat = lambda tree: np.concatenate([tree[name].ravel() for name in sorted(start)])  # noqa: E731
    return float(np.linalg.norm(flat(float64(params)) - flat(expected)) / np.linalg.norm(flat(expected) - flat(start)))


def assert_agrees(main: str, reference: str, n_ref: int, dtype: Any, *, tolerance: float) -> None:
    """Six steps of the closure form end where Algorithm 1 does, with both branches of the projection taken."""
    start, data = regression.params(dtype), regression.data(6, n_ref + 1, dtype)
    tx = profit(MAIN[main][0](), REFERENCE[reference][0](), n_ref)
    algorithm = Profit(MAIN[main][1](), REFERENCE[reference][1](), n_ref)
    expected = run_algorithm1(algorithm, float64(start), data)
    run = run_closure(tx, start, data)
    assert {projection.conflict for projection in algorithm.projections} == {True, False}
    assert relative_error(run.params, expected, float64(start)) <= tolerance
    for name, values in run.metrics._asdict().items():
        exact = [getattr(projection, name) for projection in algorithm.projections]
        np.testing.assert_allclose(np.asarray(values, np.float64), exact, rtol=tolerance, atol=tolerance)
