"""PROFIT in its forms, and as one line of a chain: each gradient orthogonal to the one before, or to an average."""

from typing import Any

import chex
import jax
import optax

from benchmarks.forgetting.methods import FEW_RATES, Main, Method, Setting, Stepped, ValueAndGradFn, plain_step
from benchmarks.forgetting.methods.l2_sp import pulled
from profit_optax import orthogonalize_to_previous
from profit_optax import profit as closure_form
from profit_optax import profit_transparent as transparent_form

GRID = (("rate", FEW_RATES), ("ratio", (10.0, 100.0, 1000.0)))
DECAYS = (0.0, 0.5, 0.7, 0.9)
# The strength of a pull to the start that went well with the one line.
PULL = 0.1


def profit(n_ref: int = 1, warmup_steps: int = 0, main: Main = optax.adamw, **options: Any) -> Method:
    """PROFIT around `main`, with `n_ref` SGD reference steps at 1/"ratio" of the rate, and any of its options."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        rate, ratio = setting["rate"], setting["ratio"]
        return closure_form(main(rate), optax.sgd(rate / ratio), n_ref, warmup_steps=warmup_steps, **options)

    return Method(_name("PROFIT", n_ref, warmup_steps), n_ref + 1, optimizer, closure_step, grid=GRID)


def profit_transparent(n_ref: int = 1) -> Method:
    """The transparent form around AdamW: a step is n_ref + 1 calls, each on one batch."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        rate, ratio = setting["rate"], setting["ratio"]
        return transparent_form(optax.adamw(rate), optax.sgd(rate / ratio), n_ref)

    return Method(_name("PROFIT transparent", n_ref), n_ref + 1, optimizer, _call_by_call, grid=GRID)


def one_line(warmup_steps: int = 0, main: Main = optax.adamw) -> Method:
    """`orthogonalize_to_previous` before `main`, with a moving average of the gradients where "decay" is above 0."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        line = orthogonalize_to_previous(setting["decay"], warmup_steps=warmup_steps)
        return optax.chain(line, main(setting["rate"]))

    grid = (("rate", FEW_RATES), ("decay", DECAYS[:3]))
    return Method(_name("PROFIT one line", 1, warmup_steps), 1, optimizer, grid=grid)


def one_line_at(decay: float, dtype: str | None = None) -> Method:
    """The same before AdamW at one decay, to be tuned in its rate alone; the memory may have a dtype of its own."""

    def optimizer(setting: Setting) -> optax.GradientTransformation:
        return optax.chain(orthogonalize_to_previous(decay, dtype=dtype), optax.adamw(setting["rate"]))

    return Method(f"one line {decay:g}" + ("" if dtype is None else f" {dtype}"), 1, optimizer)


def with_pull(method: Method) -> Method:
    """A method on the loss of L2-SP: with a pull to the start."""
    return method._replace(name=f"{method.name} + pull", optimizer=lambda x: pulled(method.optimizer(x), x, PULL))


def closure_step(
    tx: optax.GradientTransformationExtraArgs,
    value_and_grad_fn: ValueAndGradFn,
    params: chex.ArrayTree,
    state: optax.OptState,
    batches: Any,
) -> Stepped:
    """A step that hands the batches after the first one to the transformation, with the closure."""
    first, others = (jax.tree.map(lambda x, part=part: x[part], batches) for part in (0, slice(1, None)))
    _, grads = value_and_grad_fn(params, first)
    updates, state = tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
    return optax.apply_updates(params, updates), state


def _call_by_call(
    tx: optax.GradientTransformation,
    value_and_grad_fn: ValueAndGradFn,
    params: chex.ArrayTree,
    state: optax.OptState,
    batches: Any,
) -> Stepped:
    def call(carry: Stepped, batch: Any) -> tuple[Stepped, None]:
        alone = jax.tree.map(lambda x: x[None], batch)
        return plain_step(tx, value_and_grad_fn, *carry, alone), None

    stepped, _ = jax.lax.scan(call, (params, state), batches)
    return stepped


def _name(form: str, n_ref: int, warmup_steps: int = 0) -> str:
    """What tables call a form, with what differs from one reference step and no warm-up."""
    steps = "" if n_ref == 1 else f", n_ref {n_ref}"
    return form + steps + (f", {warmup_steps} steps of warm-up" if warmup_steps else "")
