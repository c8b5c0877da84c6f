"""What `profit_optax.compare` costs beside the training itself: AdamW in it, and in a plain jitted loop."""

import itertools
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import optax
import typer

from benchmarks.cost.cases.transformer import transformer_8
from profit_optax.compare import METHODS, Task
from profit_optax.compare.runner import Program, train

RATE = 1e-4


def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each kind, in turns.")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model, which measures nothing.")] = False,
) -> None:
    """Time AdamW in `compare` and in a user's plain loop, in turns, and print the ratio."""
    case = transformer_8(quick)
    batches = [np.asarray(batch) for batch in case.batches(steps)]
    task = Task(
        case.params,
        lambda params, batch: case.loss(params, case.frozen, batch),
        lambda seed: iter(batches),
        lambda params: {"old": 0.0, "new": 0.0},
    )
    plain, compared = _plain_loop(task, batches), _compared(task, steps)
    plain(), compared()
    seconds = np.array([[_seconds(plain), _seconds(compared)] for _ in range(repeats)])
    ratios = seconds[:, 1] / seconds[:, 0]
    print(
        f"{case.title}, {case.batch}: {steps} steps take {np.median(seconds[:, 0]):.3f} s in a plain loop; in compare "
        f"{np.median(ratios):.3f} times as long (median of {repeats} pairs, {ratios.min():.3f} to {ratios.max():.3f})."
    )


def _plain_loop(task: Task, batches: list[Any]) -> Callable[[], None]:
    tx = optax.adamw(RATE)

    def step(params: Any, state: Any, batch: Any) -> Any:
        loss, grads = jax.value_and_grad(task.loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    jitted = jax.jit(step, donate_argnums=(0, 1))

    def run() -> None:
        params = jax.tree.map(lambda p: p.copy(), task.params)
        state, loss = tx.init(params), None
        for batch in batches:
            params, state, loss = jitted(params, state, batch)
        jax.block_until_ready((params, state, loss))

    return run


def _compared(task: Task, steps: int) -> Callable[[], None]:
    method = METHODS["adamw"]()
    program = Program(task, method, RATE, steps, None, next(iter(itertools.islice(task.batches(0), 1))))
    program.compile()

    def run() -> None:
        train(task, method, program, RATE, 0, np.array([0, steps]), {"old": 0.0, "new": 0.0})

    return run


def _seconds(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    typer.run(main)
