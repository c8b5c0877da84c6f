"""Three trainings as `plot_metrics` draws them, and how they end: `python -m docs.trainings`.

The task is the demo's, on its first seed, at two of its rates and at one that is too high for PROFIT. AdamW by itself
is trained beside it, on the first batch of each step.
"""

import json
from pathlib import Path
from typing import Any

import jax
import optax

from benchmarks.forgetting.experiments import demo
from benchmarks.forgetting.tasks import digits
from benchmarks.forgetting.tasks.catalogue import ANGLE
from profit_optax import profit
from profit_optax.recording import Recorder, plot_metrics
from profit_optax.training import make_train_step

STEPS = {"3e-4": 400, "1e-3": 400, "3e-3": 200}
HERE = Path(__file__).parent
SCORES = HERE / "trainings.json"


def train(tx: optax.GradientTransformation, steps: int, batches_in_a_step: int, recorder: Recorder | None) -> Any:
    """Accuracy in % on held-out digits at the end, old and new; a recorder is given every step."""
    task = digits.rotated_digits([0], angle=ANGLE)
    params, examples, held_out = jax.tree.map(lambda x: x[0], (task.params, task.train, task.held_out))
    train_step = make_train_step(task.loss, tx)
    opt_state = tx.init(params)
    for step, key in enumerate(jax.random.split(jax.random.key(0), steps)):
        indices = examples[jax.random.randint(key, (2, demo.BATCH), 0, len(examples))[:batches_in_a_step]]
        batches = jax.vmap(lambda i, key=key: task.batch(task.data, i, key))(indices)
        params, opt_state, metrics = train_step(params, opt_state, batches)
        if recorder:
            recorder.record(step, opt_state, params, loss=metrics["loss"])
    scores = jax.jit(task.evaluate)(params, task.data, held_out)
    return {"old": round(100 * float(scores.old), 1), "new": round(100 * float(scores.new), 1)}


def main() -> None:
    """Train, draw, and write the scores."""
    found = {}
    for rate, steps in STEPS.items():
        main_optimizer, recorder = optax.adamw(float(rate)), Recorder()
        tx = profit(main_optimizer, optax.sgd(float(rate) / demo.RATIO))
        found[rate] = {
            "steps": steps,
            "PROFIT": train(tx, steps, 2, recorder),
            "AdamW": train(main_optimizer, steps, 1, None),
        }
        print(f"rate {rate}: {found[rate]}", flush=True)
        plot_metrics(recorder.rows, HERE / f"training_{rate}.png")
    SCORES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
