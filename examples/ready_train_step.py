"""The ready train step: any loader of single batches, any form of PROFIT, and a dictionary of metrics to log."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from profit_optax import eval_params, profit_adamw
from profit_optax.training import group_batches, make_train_step

N_REF = 1


def loss_fn(params: Any, batch: Any) -> jax.Array:
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def converged_params() -> Any:
    """The solution of the old task. Yours come from a checkpoint."""
    return {"w": jnp.linspace(-1, 1, 8)}


def loader(batches: int = 81) -> Iterator[Any]:
    """Single batches, as any loader yields them. The last one has no partner and is dropped."""
    rng = np.random.default_rng(0)
    truth = np.linspace(-1, 1, 8) + 0.3 * rng.normal(size=8)
    for _ in range(batches):
        x = rng.normal(size=(16, 8))
        yield {"x": x.astype(np.float32), "y": (x @ truth + 0.5 * rng.normal(size=16)).astype(np.float32)}


def main() -> Any:
    """The fine-tuned parameters."""
    tx = profit_adamw(1e-2, lr_ratio=10, n_ref=N_REF)  # or form="transparent", or form="lagged"
    train_step = make_train_step(loss_fn, tx)
    params = converged_params()
    opt_state = tx.init(params)
    for step, batches in enumerate(group_batches(loader(), N_REF + 1)):
        params, opt_state, metrics = train_step(params, opt_state, batches)
        if step % 10 == 0:
            print(f"step {step:2}: loss {metrics['loss']:.3f}, cosine {metrics['cosine']:+.2f}")
    return eval_params(opt_state, params)


if __name__ == "__main__":
    main()
