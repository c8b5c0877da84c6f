"""What PROFIT sees over the steps: rows for any logger, and a picture of them."""

import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from profit_optax import profit
from profit_optax.recording import Recorder, plot_metrics
from profit_optax.training import make_train_step

N_REF = 1


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    return {"w": jnp.linspace(-1, 1, 8)}


def new_task(steps: int = 160) -> Iterator[Any]:
    """The batches of each step: leaves [N_REF + 1, 64, ...]."""
    truth = jnp.linspace(-1, 1, 8) + 0.5 * jax.random.normal(jax.random.key(0), (8,))
    for key in jax.random.split(jax.random.key(1), steps):
        inputs, noise = jax.random.split(key)
        x = jax.random.normal(inputs, (N_REF + 1, 64, 8))
        yield {"x": x, "y": x @ truth + 0.5 * jax.random.normal(noise, x.shape[:-1])}


def log(row: Any) -> None:
    """Stands for the line of your logger, such as `writer.write_scalars(row["step"], row)`."""
    if row["step"] % 20 == 0:
        print(f"step {row['step']:2}: loss {row['loss']:.2f}, {row['removed']:.0%} of the gradient removed")


def main() -> list[dict[str, Any]]:
    """The rows."""
    tx = profit(optax.adamw(3e-2), optax.sgd(3e-3), n_ref=N_REF)
    train_step = make_train_step(loss_fn, tx)
    params = converged_params()
    opt_state = tx.init(params)
    recorder = Recorder(every=2)
    for step, batches in enumerate(new_task()):
        params, opt_state, metrics = train_step(params, opt_state, batches)
        if row := recorder.record(step, opt_state, params, loss=metrics["loss"]):
            log(row)
    return recorder.rows


if __name__ == "__main__":
    rows = main()
    if len(sys.argv) > 1:  # where the picture is to be, such as metrics.png
        plot_metrics(rows, sys.argv[1])
