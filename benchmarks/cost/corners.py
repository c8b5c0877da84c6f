"""What a step costs where programs are unusual: `python -m benchmarks.cost.corners`.

Outside of jit, under vmap, with convolutions in a warm-up's branch, and in many leaves. It uses nothing but public
names, so that the package of another commit can be measured by the same file: `PYTHONPATH=OTHER python FILE`.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from rich.console import Console
from rich.table import Table

import profit_optax
from profit_optax import profit, profit_transparent, reject_nonfinite

MAIN, REFERENCE = optax.adamw(1e-4), optax.sgd(1e-5)
AFTER_NORM = optax.chain(optax.clip_by_global_norm(1e9), MAIN)
ADAMW, AFTER_A_NORM = "AdamW", "AdamW after a norm"


class Sizes(NamedTuple):
    """How much is measured: the rounds, the seeds under vmap, the width of a layer, images in a batch, the leaves."""

    rounds: int
    seeds: int
    width: int
    images: int
    leaves: int


FULL = Sizes(rounds=15, seeds=10, width=256, images=32, leaves=500)
QUICK = Sizes(rounds=1, seeds=2, width=4, images=2, leaves=2)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, which measure nothing.")] = False,
) -> None:
    """Print four tables of ratios, each within one run on this machine."""
    size, console = QUICK if quick else FULL, Console()
    for title, measured, places in (
        (f"A call of update outside of jit, over {ADAMW}'s", outside_of_jit(size), 1),
        (f"A step of {size.seeds} models under vmap, over {AFTER_A_NORM}'s on as many gradients", vmapped(size), 2),
        (f"A step with convolutions, over {AFTER_A_NORM}'s on as many gradients", with_convolutions(size), 2),
        (f"CPU time until a step in {size.leaves} leaves is compiled, over {AFTER_A_NORM}'s", in_leaves(size), 1),
    ):
        table = Table("", "", title=title, title_justify="left")
        for name, value in measured.items():
            table.add_row(name, f"{value:.{places}f}")
        console.print(table)


def outside_of_jit(size: Sizes) -> dict[str, float]:
    """Medians of a call, over that of AdamW; the gradients themselves cost nothing."""
    params = perceptron(8)
    grads = jax.tree.map(jnp.ones_like, params)
    one_line = getattr(profit_optax, "orthogonalize_to_previous", None)
    # With the reference steps of those that take a closure.
    forms: dict[str, tuple[Any, int | None]] = {
        ADAMW: (MAIN, None),
        "profit, n_ref 1": (profit(MAIN, REFERENCE), 1),
        "profit, n_ref 3": (profit(MAIN, REFERENCE, 3), 3),
        "profit, subtract": (profit(MAIN, REFERENCE, displacement="subtract"), 1),
        "profit, after its warm-up": (profit(MAIN, REFERENCE, warmup_steps=1), 1),
        "reject_nonfinite(profit)": (reject_nonfinite(profit(MAIN, REFERENCE), 3), 1),
        "profit_transparent, a call": (profit_transparent(MAIN, REFERENCE), None),
    }
    if one_line is not None:
        forms["one line before AdamW"] = optax.chain(one_line(), MAIN), None

    def stepper(tx: Any, n_ref: int | None) -> Callable[[], Any]:
        extra = {"value_and_grad_fn": lambda p, b: (0.0, grads), "batches": jnp.zeros(n_ref)} if n_ref else {}
        state = tx.init(params)

        def step() -> Any:
            nonlocal state
            updates, state = tx.update(grads, state, params, **extra)
            return updates, state

        return step

    return over(ADAMW, medians({name: stepper(*form) for name, form in forms.items()}, size.rounds))


def vmapped(size: Sizes) -> dict[str, float]:
    """Medians of a jitted step of independent models side by side."""
    x = jax.random.normal(jax.random.key(0), (size.seeds, 2, 64, size.width))
    params = jax.vmap(lambda key: perceptron(size.width, key))(jax.random.split(jax.random.key(1), size.seeds))
    return over(AFTER_A_NORM, medians(steps_of_forms(params, x, jax.vmap, loss_of_perceptron), size.rounds))


def with_convolutions(size: Sizes) -> dict[str, float]:
    """Medians of a jitted step of a small convolutional network, with a warm-up that is over and without one."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 32), (3, 3, 32, 32)]
    params = [0.1 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]
    images = jax.random.normal(jax.random.key(1), (2, size.images, 32, 32, 3))

    def loss(params: Any, images: jax.Array) -> jax.Array:
        x = images
        for kernel in params:
            x = jax.nn.relu(
                jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return jnp.mean(x**2)

    return over(AFTER_A_NORM, medians(steps_of_forms(params, images, lambda f: f, loss, warm=True), size.rounds))


def steps_of_forms(
    params: Any, batches: jax.Array, mapped: Callable[[Any], Any], loss: Any, *, warm: bool = False
) -> dict[str, Callable[[], Any]]:
    """Jitted steps on two batches: AdamW on their mean gradient, and PROFIT."""
    forms = {
        AFTER_A_NORM: (AFTER_NORM, on_mean),
        "profit, n_ref 1": (profit(MAIN, REFERENCE), with_closure),
        "profit_transparent, both calls": (profit_transparent(MAIN, REFERENCE), call_by_call),
    }
    if warm:
        forms["profit, after its warm-up"] = (profit(MAIN, REFERENCE, warmup_steps=1), with_closure)

    def stepper(tx: Any, step_of: Any) -> Callable[[], Any]:
        step, state = jax.jit(mapped(step_of(tx, jax.value_and_grad(loss)))), mapped(tx.init)(params)
        held = (params, state)

        def run() -> Any:
            nonlocal held
            held = step(*held, batches)
            return held

        return run

    return {name: stepper(*form) for name, form in forms.items()}


def in_leaves(size: Sizes) -> dict[str, float]:
    """CPU seconds to trace, lower and compile, over those of AdamW after a norm on one gradient."""
    params = {f"{i}": jnp.ones(16) for i in range(size.leaves)}
    value_and_grad_fn = jax.value_and_grad(
        lambda params, batch: sum(jnp.sum((p - batch) ** 2) for p in params.values())
    )

    def seconds(tx: Any, step_of: Any, batches: int) -> float:
        state, started = tx.init(params), time.process_time()
        jax.jit(step_of(tx, value_and_grad_fn)).lower(params, state, jnp.ones((batches, 16))).compile()
        return time.process_time() - started

    forms = {
        AFTER_A_NORM: (AFTER_NORM, call_by_call, 1),
        "profit, n_ref 1": (profit(MAIN, REFERENCE), with_closure, 2),
    }
    return over(AFTER_A_NORM, {name: seconds(*form) for name, form in forms.items()})


def on_mean(tx: Any, value_and_grad_fn: Any) -> Any:
    """A step on the mean of two gradients."""

    def step(params: Any, state: Any, batches: jax.Array) -> Any:
        (_, first), (_, second) = (value_and_grad_fn(params, batch) for batch in batches)
        updates, state = tx.update(jax.tree.map(lambda x, y: (x + y) / 2, first, second), state, params)
        return optax.apply_updates(params, updates), state

    return step


def with_closure(tx: Any, value_and_grad_fn: Any) -> Any:
    """A step that hands the batches after the first one on."""

    def step(params: Any, state: Any, batches: jax.Array) -> Any:
        _, grads = value_and_grad_fn(params, batches[0])
        extra = {"value_and_grad_fn": value_and_grad_fn, "batches": batches[1:]}
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def call_by_call(tx: Any, value_and_grad_fn: Any) -> Any:
    """A step of as many calls as there are batches."""

    def step(params: Any, state: Any, batches: jax.Array) -> Any:
        for batch in batches:
            _, grads = value_and_grad_fn(params, batch)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params, state

    return step


def perceptron(width: int, key: Any = None) -> dict[str, jax.Array]:
    """Parameters of three layers."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, 3)
    layers = {f"w{i}": jax.random.normal(key, (width, width)) / np.sqrt(width) for i, key in enumerate(keys)}
    return layers | {f"b{i}": jnp.zeros(width) for i in range(3)}


def loss_of_perceptron(params: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    """How large its outputs are."""
    for i in range(3):
        x = jnp.tanh(x @ params[f"w{i}"] + params[f"b{i}"][None])
    return jnp.mean(x**2)


def medians(steps: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of a step, taken in turns after two untimed ones."""
    for step in steps.values():
        jax.block_until_ready((step(), step()))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.perf_counter()
            jax.block_until_ready((step(), step()))
            seconds[name].append((time.perf_counter() - started) / 2)
    return {name: float(np.median(each)) for name, each in seconds.items()}


def over(base: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Ratios to one of them."""
    return {name: each / seconds[base] for name, each in seconds.items() if name != base}


if __name__ == "__main__":
    typer.run(main)
