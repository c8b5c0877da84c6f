"""Each form for a hundred thousand steps, and what grows or drifts meanwhile: `python -m tests.soak`."""

import argparse
import gc
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from profit_optax import eval_params, profit, profit_transparent, reject_nonfinite
from tests.forms import one_line

STEPS, WARM_UP, N_REF = 100_000, 1_000, 2
DTYPES = ("float32", "bfloat16")
FORMS: dict[str, Callable[..., Any]] = {
    "closure": lambda rate: reject_nonfinite(profit(optax.sgd(rate), optax.sgd(1e-3), N_REF), 3),
    "transparent": lambda rate: profit_transparent(optax.sgd(rate), optax.sgd(1e-3), N_REF),
    "one line": lambda rate: one_line(optax.sgd(rate), decay=0.5),
}
# Batches that take turns, so noisy that two gradients agree or conflict by chance.
BATCHES = 97


class Soak(NamedTuple):
    """What a long run left behind.

    Attributes:
      steps: how many main steps it took.
      compilations: how many programs its step was compiled to.
      arrays: how many arrays were alive at its end, less those alive after the warm-up.
      objects: the same of Python's objects.
      memory: the same of the process's resident bytes.
      count: what the state's counter says.
      theta: where it ended.
    """

    steps: int
    compilations: int
    arrays: int
    objects: int
    memory: int
    count: int
    theta: np.ndarray


def resident() -> int:
    """The resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def alive() -> tuple[int, int, int]:
    gc.collect()
    return len(jax.live_arrays()), len(gc.get_objects()), resident()


def batches(dtype: Any) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(3 * rng.normal(size=(BATCHES, 64)), dtype)


def start(dtype: Any) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=64), dtype)


def gradient(params: jax.Array, batch: jax.Array) -> jax.Array:
    """Of a bowl around the batch."""
    return jnp.linspace(0.1, 1.0, 64, dtype=params.dtype) * (params - batch)


def soak(form: str, dtype: str, steps: int = STEPS, rate: float = 0.01) -> Soak:
    """Takes so many main steps, a call of a compiled program each or, of the transparent form, n_ref + 1 of them."""
    tx, data = FORMS[form](rate), batches(dtype)

    def call(params: jax.Array, state: Any, i: jax.Array) -> Any:
        extra: dict[str, Any] = {}
        if form == "closure":
            others = data[(i + 1 + jnp.arange(N_REF)) % BATCHES]
            extra = {"value_and_grad_fn": lambda p, batch: (0.0, gradient(p, batch)), "batches": others}
        updates, state = tx.update(gradient(params, data[i % BATCHES]), state, params, **extra)
        advance = N_REF + 1 if form == "closure" else 1
        return optax.apply_updates(params, updates), state, i + advance

    compiled = jax.jit(call, donate_argnums=(0, 1, 2))
    calls = steps * (N_REF + 1 if form == "transparent" else 1)
    carry = (start(dtype), tx.init(start(dtype)), jnp.zeros((), jnp.int32))
    before = alive()
    for i in range(calls):
        carry = compiled(*carry)
        if i == min(WARM_UP, calls // 2):
            jax.block_until_ready(carry)
            before = alive()
    jax.block_until_ready(carry)
    after = alive()
    params, state, _ = carry
    theta = np.asarray(eval_params(state, params), np.float64)
    growth = (now - then for now, then in zip(after, before, strict=True))
    return Soak(steps, compiled._cache_size(), *growth, int(optax.tree.get(state, "count")), theta)


def assert_sound(seen: Soak, *, memory: int) -> None:
    """Nothing has grown: one program, the same arrays, and no more memory than an allocator's whim."""
    assert seen.compilations == 1
    assert seen.arrays == 0
    assert seen.objects < 100
    assert seen.memory < memory
    assert seen.count == seen.steps
    assert np.all(np.isfinite(seen.theta))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="main steps of each form")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    arguments = parser.parse_args()
    print(f"{'form':12} {'dtype':9} {'steps':>7} {'programs':>9} {'arrays':>7} {'objects':>8} {'memory':>10}  drift")
    for form in arguments.forms:
        for dtype in DTYPES:
            seen = soak(form, dtype, arguments.steps)
            still = soak(form, dtype, arguments.steps, rate=0.0)
            moved = np.abs(still.theta - np.asarray(start(dtype), np.float64)).max()
            print(
                f"{form:12} {dtype:9} {seen.steps:7} {seen.compilations:9} {seen.arrays:+7} {seen.objects:+8} "
                f"{seen.memory / 2**20:+6.1f} MiB  {moved:.1e} at a main rate of 0",
                flush=True,
            )
            for each in (seen, still):
                assert_sound(each, memory=32 << 20)
            assert moved <= drift_allowed(form, dtype)
    print(f"{sys.platform}, JAX {jax.__version__}: nothing has grown.")


def drift_allowed(form: str, dtype: str) -> float:
    """How far θ may be from where it started after any number of cycles whose main steps are 0."""
    # Coming back rounds to within one unit in the last place, once: errors do not build up.
    return 4 * float(jnp.finfo(dtype).eps) if form == "transparent" else 0.0


if __name__ == "__main__":
    main()
