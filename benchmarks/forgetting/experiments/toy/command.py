"""The command: the sweep, the rows at the setting nearest to the paper, and its figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.commands import or_quick, parse_counts, parse_names
from benchmarks.forgetting.command import MOST_SEEDS, Job, Output, Quick, count_option, job, seeds_option
from benchmarks.forgetting.experiments.toy.picture import draw, grid
from benchmarks.forgetting.experiments.toy.report import describe, markdown
from benchmarks.forgetting.experiments.toy.sweep import Plan, Result, Setting, nearest, predictions, sweep, total
from benchmarks.forgetting.tasks.toy import ACTIVATIONS, Size, truth

# Seeds that choose the setting are others than those that are reported at it.
SWEEP_SEEDS = 100


class Defaults(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    activations: tuple[str, ...]
    batches: tuple[int, ...]
    ratios: tuple[int, ...]
    sweep_seeds: int
    seeds: int
    steps: int
    size: Size
    pixels: int


FULL = Defaults(tuple(ACTIVATIONS), (4, 16, 64, 256), (10, 300, 10_000), 1, 5, 1_500, Size(), 141)
QUICK = Defaults(("relu",), (8,), (10, 100), 2, 2, 10, Size(200, 50, 16, 20, 16), 11)


def _list_of(parse: Callable[[str], Any], field: str, text: str) -> Any:
    shown = (",".join(map(str, getattr(size, field))) for size in (FULL, QUICK))
    return typer.Option(parser=parse, metavar="X,X,...", help=text, show_default=or_quick(*shown))


def main(
    activations: Annotated[
        Any, _list_of(parse_names(ACTIVATIONS), "activations", "Activations of the network.")
    ] = None,
    batches: Annotated[Any, _list_of(parse_counts, "batches", "Examples for one gradient on the new square.")] = None,
    ratios: Annotated[Any, _list_of(parse_counts, "ratios", "Main rate divided by the reference rate.")] = None,
    sweep_seeds: Annotated[
        int | None, count_option("Seeds of every setting.", FULL.sweep_seeds, QUICK.sweep_seeds, 1, MOST_SEEDS)
    ] = None,
    seeds: Annotated[int | None, seeds_option(FULL.seeds, QUICK.seeds)] = None,
    output: Output = Path("out/toy"),
    quick: Quick = False,
) -> None:
    """Run the paper's toy problem (Table 1) at every setting that the paper leaves open, and say what comes near.

    Every setting is run with few seeds. The one whose rows are nearest to the paper's is run again with other seeds,
    and drawn. What is done already is not done again: for that, remove the output folder.
    """
    size = QUICK if quick else FULL
    n_sweep = sweep_seeds or size.sweep_seeds
    plan = Plan(
        activations=activations or size.activations,
        batches=batches or size.batches,
        ratios=ratios or size.ratios,
        seeds=tuple(range(SWEEP_SEEDS, SWEEP_SEEDS + n_sweep)),
        steps=size.steps,
        size=size.size,
    )
    if max(plan.batches) > plan.size.examples:
        raise typer.BadParameter(
            f"a seed trains on {plan.size.examples} examples, and {max(plan.batches)} is more.", param_hint="--batches"
        )
    n_final = seeds or size.seeds
    if n_final > SWEEP_SEEDS:
        raise typer.BadParameter(
            f"{n_final} is more than {SWEEP_SEEDS}: those from there on choose the setting.", param_hint="--seeds"
        )
    with job("toy", output, quick) as work:
        swept, final, setting, maps = _measure(plan, n_final, size.pixels, work)
        about = work.about(sweep_plan=plan, setting=setting)
        text = markdown(swept, final, setting, about, "toy.png")
        title = f"Old square (solid), new square (dashed); {describe(setting)}, seed 0"
        work.write({**about, "sweep": swept, "final": final}, text, lambda path: draw(path, maps, title))
        work.show(text)


def _measure(
    plan: Plan, n_final: int, pixels: int, work: Job
) -> tuple[list[Result], list[Result], Setting, dict[str, np.ndarray]]:
    """The sweep, the rows at the nearest setting, that setting, and what there is to draw."""
    with work.bar(total(plan)) as bar:
        swept = sweep(plan, work.runs, bar)
        setting = nearest(swept)
        final_plan = plan._replace(
            activations=(setting.activation,),
            batches=(setting.batch,),
            ratios=(int(setting.ratio),),
            seeds=tuple(range(n_final)),
        )
        bar.extend(total(final_plan))
        final = sweep(final_plan, work.runs, bar)
        bar("picture", 0)
        points = grid(pixels)
        drawn = predictions(setting, final_plan, work.runs, points)
    return swept, final, setting, {"truth": np.asarray(truth(jnp.asarray(points))), **drawn}
