"""Two trainings as `plot_metrics` draws them: `python -m docs.trainings`.

The task is the demo's, at two of its rates, on its first seed.
"""

from pathlib import Path
from typing import Any

import jax
import optax

from benchmarks.forgetting.experiments import demo
from benchmarks.forgetting.tasks import digits
from profit_optax import profit
from profit_optax.recording import Recorder, plot_metrics
from profit_optax.training import make_train_step

STEPS = {"3e-4": 400, "1e-3": 400}
HERE = Path(__file__).parent


def rows(rate: float, steps: int) -> list[dict[str, Any]]:
    """What a training of PROFIT around AdamW saw, with its scores on held-out digits now and then."""
    task = digits.rotated_digits([0], angle=demo.ANGLE)
    params, train, held_out = jax.tree.map(lambda x: x[0], (task.params, task.train, task.held_out))
    tx = profit(optax.adamw(rate), optax.sgd(rate / demo.RATIO))
    train_step = make_train_step(task.loss, tx)
    opt_state, recorder = tx.init(params), Recorder()
    evaluate = jax.jit(task.evaluate)
    for step, key in enumerate(jax.random.split(jax.random.key(0), steps)):
        indices = train[jax.random.randint(key, (2, demo.BATCH), 0, len(train))]
        batches = jax.vmap(lambda i, key=key: task.batch(task.data, i, key))(indices)
        params, opt_state, metrics = train_step(params, opt_state, batches)
        recorder.record(step, opt_state, params, loss=metrics["loss"])
        if step % 50 == 49:
            scores = evaluate(params, task.data, held_out)
            print(f"rate {rate:g}, step {step + 1}: old {100 * scores.old:.1f} %, new {100 * scores.new:.1f} %")
    return recorder.rows


if __name__ == "__main__":
    for rate, steps in STEPS.items():
        plot_metrics(rows(float(rate), steps), HERE / f"training_{rate}.png")
