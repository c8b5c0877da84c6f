"""Checkpoint and resume with Orbax: parameters and state are saved together, also in the middle of a cycle."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from profit_optax import profit_transparent

N_REF, STOP = 2, 31  # 31 calls are ten cycles of three, and one call

tx = profit_transparent(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=N_REF)


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    return {"w": jnp.linspace(-1, 1, 8)}


def new_task(batches: int = 60) -> list[Any]:
    """Single batches of 16."""
    rng = np.random.default_rng(0)
    truth = np.linspace(-1, 1, 8) + 0.3 * rng.normal(size=8)
    x = rng.normal(size=(batches, 16, 8))
    y = x @ truth + 0.5 * rng.normal(size=(batches, 16))
    return [{"x": x[i].astype(np.float32), "y": y[i].astype(np.float32)} for i in range(batches)]


@jax.jit
def train_step(params: Any, opt_state: Any, batch: Any) -> Any:
    updates, opt_state = tx.update(jax.grad(loss_fn)(params, batch), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def train(params: Any, opt_state: Any, batches: Sequence[Any]) -> Any:
    for batch in batches:
        params, opt_state = train_step(params, opt_state, batch)
    return params, opt_state


def save(directory: Path, step: int, params: Any, opt_state: Any) -> None:
    with ocp.CheckpointManager(directory) as manager:
        manager.save(step, args=ocp.args.StandardSave({"params": params, "opt_state": opt_state}))
        manager.wait_until_finished()


def restore(directory: Path, params: Any, opt_state: Any) -> Any:
    """The step, parameters and state of the last checkpoint, on the devices of the initial ones given here."""
    like = {"params": params, "opt_state": opt_state}
    with ocp.CheckpointManager(directory) as manager:
        step = manager.latest_step()
        restored = manager.restore(step, args=ocp.args.StandardRestore(like))
    return step, restored["params"], restored["opt_state"]


def main() -> tuple[Any, Any]:
    """Parameters and state of a run that was interrupted, and of one that was not. Evaluate `eval_params` of them."""
    batches, params = new_task(), converged_params()
    opt_state = tx.init(params)
    with tempfile.TemporaryDirectory() as directory:
        save(Path(directory), STOP, *train(params, opt_state, batches[:STOP]))
        step, last_params, last_state = restore(Path(directory), params, opt_state)
    resumed = train(last_params, last_state, batches[step:])
    uninterrupted = train(params, opt_state, batches)
    same = jax.tree.all(jax.tree.map(jnp.array_equal, resumed, uninterrupted))
    print(f"resumed after batch {step} of {len(batches)}: {'bit for bit' if same else 'not'} the uninterrupted run")
    return resumed, uninterrupted


if __name__ == "__main__":
    main()
