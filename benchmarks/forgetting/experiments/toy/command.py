"""The command: the sweep, the rows at the setting nearest to the paper, and its figure."""

from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.forgetting.command import Output, Quick, job, seeds_option
from benchmarks.forgetting.experiments.toy.report import describe, draw, grid, markdown
from benchmarks.forgetting.experiments.toy.sweep import Plan, nearest, predictions, sweep, total
from benchmarks.forgetting.tasks.toy import ACTIVATIONS, Size, truth

# Seeds that choose the setting are others than those that are reported at it.
SWEEP_SEEDS = 100


PLAN = Plan(tuple(ACTIVATIONS), (4, 16, 64, 256), (10, 300, 10_000), (SWEEP_SEEDS,))
QUICK_PLAN = Plan(("relu",), (8,), (10, 100), (SWEEP_SEEDS, SWEEP_SEEDS + 1), 10, Size(200, 50, 16, 20, 16))
SEEDS, QUICK_SEEDS = 5, 2
# Along each side of the figure's maps.
PIXELS, QUICK_PIXELS = 141, 11


def main(
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    output: Output = Path("out/toy"),
    quick: Quick = False,
) -> None:
    """Run the paper's toy problem (Table 1) at every setting that the paper leaves open, and say what comes near.

    Every setting is run with few seeds. The one whose rows are nearest to the paper's is run again with other seeds,
    and drawn. What is done already is not done again: for that, remove the output folder.
    """
    plan, pixels = (QUICK_PLAN, QUICK_PIXELS) if quick else (PLAN, PIXELS)
    n_final = seeds or (QUICK_SEEDS if quick else SEEDS)
    if n_final > SWEEP_SEEDS:
        raise typer.BadParameter(
            f"{n_final} is more than {SWEEP_SEEDS}: those from there on choose the setting.", param_hint="--seeds"
        )
    with job("toy", output, quick) as work:
        with work.bar(total(plan)) as bar:
            swept = sweep(plan, work.runs, bar)
        setting = nearest(swept)
        at_setting = plan._replace(
            activations=(setting.activation,),
            batches=(setting.batch,),
            ratios=(int(setting.ratio),),
            seeds=tuple(range(n_final)),
        )
        with work.bar(total(at_setting)) as bar:
            final = sweep(at_setting, work.runs, bar)
        points = grid(pixels)
        drawn = predictions(setting, at_setting, work.runs, points)
        maps = {"truth": np.asarray(truth(jnp.asarray(points))), **drawn}
        about = work.about(sweep_plan=plan, setting=setting)
        text = markdown(swept, final, setting, about, "toy.png")
        title = f"Old square (solid), new square (dashed); {describe(setting)}, seed 0"
        work.write({**about, "sweep": swept, "final": final}, text, lambda path: draw(path, maps, title))
        work.show(text)
