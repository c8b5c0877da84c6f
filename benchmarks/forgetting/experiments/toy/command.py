"""The command: the sweep, the rows at the setting nearest to the paper, and its figure."""

import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.command import Experiment, Job
from benchmarks.forgetting.experiments.toy.report import describe, draw, grid, markdown
from benchmarks.forgetting.experiments.toy.sweep import METHODS, PROFITS, Plan, nearest, predictions, sweep, total
from benchmarks.forgetting.tasks.toy import ACTIVATIONS, Size, truth

# Seeds that choose the setting are others than those that are reported at it.
SWEEP_SEEDS = 100


PLAN = Plan(tuple(ACTIVATIONS), (4, 16, 64, 256), (10, 300, 10_000), (SWEEP_SEEDS,))
QUICK_PLAN = Plan(PLAN.activations, (8,), (10, 100), (SWEEP_SEEDS, SWEEP_SEEDS + 1), 10, Size(200, 50, 16, 20, 16))
# Along each side of the figure's maps.
PIXELS, QUICK_PIXELS = 141, 11


def run(job: Job) -> None:
    """Run the paper's toy problem (Table 1) at every setting that the paper leaves open, and say what comes near.

    Every setting is run with few seeds. The one whose rows are nearest to the paper's is run again with other seeds,
    and drawn. What is done already is not done again: for that, remove the output folder.
    """
    plan, pixels = (QUICK_PLAN, QUICK_PIXELS) if job.quick else (PLAN, PIXELS)
    plan, methods = plan._replace(activations=tuple(job.tasks)), list(job.methods.values())
    with job.bar(total(plan)) as bar:
        swept = sweep(plan, methods, job.runs, bar)
    setting = nearest(swept)
    at_setting = plan._replace(
        activations=(setting.activation,),
        batches=(setting.batch,),
        ratios=(int(setting.ratio),),
        seeds=tuple(range(job.seeds)),
    )
    with job.bar(total(at_setting)) as bar:
        final = sweep(at_setting, methods, job.runs, bar)
    points = grid(pixels)
    drawn = predictions(setting, at_setting, methods, job.runs, points)
    maps = {"truth": np.asarray(truth(jnp.asarray(points))), **drawn}
    about = job.about(sweep_plan=plan, setting=setting)
    text = markdown(swept, final, setting, about, "toy.png")
    title = f"Old square (solid), new square (dashed); {describe(setting)}, seed 0"
    job.write(text, {**about, "sweep": swept, "final": final}, lambda path: draw(path, maps, title))
    job.show(text)


EXPERIMENT = Experiment(
    name="toy",
    run=run,
    # The paper leaves the activation open: each makes a task.
    tasks=ACTIVATIONS,
    methods=METHODS,
    baseline=PROFITS[0],
    seeds=(5, 2),
    together=True,
    most_seeds=SWEEP_SEEDS,
)
