"""The three forms side by side: every public optimizer, the loops that drive them, and optimizers that tell on them."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import profit_optax
from tests import regression


def one_line(
    optimizer: Any,
    reference_optimizer: Any = None,
    decay: Any = 0.0,
    warmup_steps: int = 0,
    displacement_dtype: Any = None,
    mask: Any = None,
    axis_name: Any = None,
) -> optax.GradientTransformation:
    """`orthogonalize_to_previous` before an optimizer, made as the forms with reference steps are."""
    del reference_optimizer
    line = profit_optax.orthogonalize_to_previous(
        decay, warmup_steps=warmup_steps, dtype=displacement_dtype, mask=mask, axis_name=axis_name
    )
    return optax.chain(line, optimizer)


class Case(NamedTuple):
    """A public optimizer: what makes it, with which arguments, and how it is driven.

    Attributes:
      factory: the public function.
      options: its arguments.
      static_args: those that `optax.inject_hyperparams` must leave alone.
      form: "closure", "transparent" or "one-line".
      at_rate: such an optimizer with one plain reference step, at a learning rate that is a number or a schedule.
    """

    factory: Callable[..., optax.GradientTransformationExtraArgs]
    options: dict[str, Any]
    static_args: tuple[str, ...]
    form: str
    at_rate: Callable[[Any], optax.GradientTransformationExtraArgs]

    def make(self) -> optax.GradientTransformationExtraArgs:
        return self.factory(**self.options)


def _pair(factory: Callable[..., Any], form: str, **counts: int) -> Case:
    options = {"optimizer": optax.adam(1e-2), "reference_optimizer": optax.sgd(1e-3, momentum=0.5)}
    at_rate = lambda rate: factory(optax.adam(rate), optax.sgd(1e-4))  # noqa: E731
    return Case(factory, options | counts, (*counts, "warmup_steps"), form, at_rate)


def _alias(factory: Callable[..., Any], form: str, **options: Any) -> Case:
    options |= {"lr_ratio": 10.0, "form": form}
    at_rate = lambda rate: factory(rate, **options)  # noqa: E731
    driven = "one-line" if form == "lagged" else form
    return Case(factory, {"learning_rate": 1e-2} | options, ("n_ref", "warmup_steps"), driven, at_rate)


def _guarded(case: Case) -> Case:
    guard = profit_optax.reject_nonfinite
    options = {"inner": case.make(), "max_consecutive_errors": 2}
    return Case(guard, options, ("max_consecutive_errors",), case.form, lambda rate: guard(case.at_rate(rate), 2))


CASES = {
    "profit": _pair(profit_optax.profit, "closure", n_ref=1),
    "transparent": _pair(profit_optax.profit_transparent, "transparent", n_ref=2),
    "one-line": _pair(one_line, "one-line"),
}
for _form in ("closure", "transparent", "lagged"):
    CASES[f"sgd_{_form}"] = _alias(profit_optax.profit_sgd, _form)
    CASES[f"adamw_{_form}"] = _alias(profit_optax.profit_adamw, _form, weight_decay=1e-6)
CASES["guarded"] = _guarded(CASES["profit"])


def with_closure(case: Case, tx: Any, objective: Callable[[Any], jax.Array]) -> Any:
    """`tx` as a transformation that needs no closure: the closure form takes its gradients of `objective`."""
    if case.form != "closure":
        return tx

    def update(grads: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        function = lambda params, _: jax.value_and_grad(objective)(params)  # noqa: E731
        return tx.update(grads, state, params, value_and_grad_fn=function, batches=(), **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update)


class Run(NamedTuple):
    """What a training loop saw, after each of its calls or main steps.

    Attributes:
      params: the parameters that the loop held.
      theta: what `eval_params` made of them.
      state: the last state of the optimizer.
      metrics: what the projection of the last main step had seen.
    """

    params: Any
    theta: Any
    state: Any
    metrics: profit_optax.ProfitMetrics


def run_calls(tx: Any, params: Any, batches: Any, loss_fn: Any = regression.loss_fn) -> Run:
    """A loop that knows nothing but `update(grads, state, params)`; batches has leaves [calls, ...]."""

    def call(carry: Any, batch: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.grad(loss_fn)(params, batch), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, profit_optax.eval_params(state, params), optax.tree.get(state, "metrics"))

    (_, state), seen = jax.jit(lambda carry: jax.lax.scan(call, carry, batches))((params, tx.init(params)))
    return Run(seen[0], seen[1], state, seen[2])


def run_steps(tx: Any, params: Any, batches: Any, loss_fn: Any = regression.loss_fn) -> Run:
    """The loop of the closure form; batches has leaves [steps, n_ref + 1, ...]."""
    value_and_grad_fn = jax.value_and_grad(loss_fn)

    def step(carry: Any, batches: Any) -> Any:
        params, state = carry
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = value_and_grad_fn(params, first)
        updates, state = tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optax.tree.get(state, "metrics"))

    (_, state), (params, metrics) = jax.jit(lambda carry: jax.lax.scan(step, carry, batches))((params, tx.init(params)))
    return Run(params, params, state, metrics)


def run_on_gradients(tx: Any, form: str, gradients: Any, params: Any, n_ref: int = 1, warmup_steps: int = 0) -> Run:
    """Main steps on given gradients [steps, n_ref + 1, ...], whatever the parameters are.

    A warm-up step takes the first gradient of its row, and so does every step of the one line.
    """

    @jax.jit
    def call(grads: Any, others: Any, state: Any, params: Any) -> Any:
        extra = {"value_and_grad_fn": lambda _, batch: (0.0, batch), "batches": others} if form == "closure" else {}
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    state, seen = tx.init(params), []
    for i in range(jax.tree.leaves(gradients)[0].shape[0]):
        row = jax.tree.map(lambda x, i=i: jnp.asarray(x[i]), gradients)
        others = jax.tree.map(lambda x: x[1:], row)
        for j in range(n_ref + 1 if form == "transparent" and i >= warmup_steps else 1):
            params, state = call(jax.tree.map(lambda x, j=j: x[j], row), others, state, params)
        seen.append((params, profit_optax.eval_params(state, params), optax.tree.get(state, "metrics")))
    params, theta, metrics = jax.tree.map(lambda *x: jnp.stack(x), *seen)
    return Run(params, theta, state, metrics)


def one_batch_a_call(batches: Any, warmup_steps: int = 0) -> Any:
    """Batches [steps, n_ref + 1, ...] as the transparent form takes them: one a warm-up step, then all of them."""

    def flatten(x: Any) -> Any:
        return np.concatenate([x[:warmup_steps, 0], x[warmup_steps:].reshape(-1, *x.shape[2:])])

    return jax.tree.map(flatten, batches)


def main_calls(steps: int, n_ref: int, warmup_steps: int = 0) -> np.ndarray:
    """Which calls of the transparent form are main steps."""
    return np.r_[0:warmup_steps, warmup_steps + n_ref + (n_ref + 1) * np.arange(steps - warmup_steps)]


def last(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[-1], tree)


def relative_error(params: Any, expected: Any, start: Any) -> float:
    """The error of a run, relative to how far the run moved."""
    flat = lambda tree: np.concatenate([np.asarray(tree[name], np.float64).ravel() for name in sorted(start)])  # noqa: E731
    return float(np.linalg.norm(flat(params) - flat(expected)) / np.linalg.norm(flat(expected) - flat(start)))


def assert_same(tree: Any, expected: Any) -> None:
    """The same structure, the same dtypes and the same bits."""
    jax.tree.map(_assert_same_array, tree, expected)


def _assert_same_array(x: Any, y: Any) -> None:
    assert jnp.result_type(x) == jnp.result_type(y)
    np.testing.assert_array_equal(x, y)


class Seen(NamedTuple):
    """What `seeing` remembers: parameters and extra argument of the last step, and how many steps there were."""

    seen: Any
    extra: Any
    steps: Any


def seeing(inner: optax.GradientTransformation, extra: str | None = None) -> optax.GradientTransformationExtraArgs:
    """An optimizer that remembers which parameters it was given, and the value of one extra argument."""
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        return Seen(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), jnp.zeros((), jnp.int32)), inner.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        updates, inner_state = inner.update(updates, state[1], params)
        value = jnp.asarray(extra_args.get(extra, state[0].extra), jnp.float32)
        return updates, (Seen(params, value, state[0].steps + 1), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def refusing_extra_args(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """An optimizer that takes extra arguments and fails when it is given any."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        assert not extra_args
        return inner.update(updates, state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def branches(program: str) -> int:
    """How many branches on values a lowered program has; those on the platform are constants, which XLA folds."""
    indices = re.findall(r'"stablehlo\.case"\((%\w+)\)', program)
    return sum(f"{index} = stablehlo.convert" in program for index in indices)
