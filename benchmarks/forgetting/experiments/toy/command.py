"""The command: the sweep, the rows at the setting nearest to the paper, and its figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.commands import or_quick, parse_counts, parse_names
from benchmarks.forgetting.command import MOST_SEEDS, Output, Quick, count_option, job, seeds_option
from benchmarks.forgetting.experiments.toy.report import describe, draw, grid, markdown
from benchmarks.forgetting.experiments.toy.sweep import Plan, nearest, predictions, sweep, total
from benchmarks.forgetting.tasks.toy import ACTIVATIONS, Size, truth

# Seeds that choose the setting are others than those that are reported at it.
SWEEP_SEEDS = 100


class Defaults(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    plan: Plan
    seeds: int
    pixels: int


FULL = Defaults(Plan(tuple(ACTIVATIONS), (4, 16, 64, 256), (10, 300, 10_000), (100,)), 5, 141)
QUICK = Defaults(Plan(("relu",), (8,), (10, 100), (100, 101), 10, Size(200, 50, 16, 20, 16)), 2, 11)


def _list_of(parse: Callable[[str], Any], field: str, text: str) -> Any:
    shown = (",".join(map(str, getattr(defaults.plan, field))) for defaults in (FULL, QUICK))
    return typer.Option(parser=parse, metavar="X,X,...", help=text, show_default=or_quick(*shown))


def main(
    activations: Annotated[
        Any, _list_of(parse_names(ACTIVATIONS), "activations", "Activations of the network.")
    ] = None,
    batches: Annotated[Any, _list_of(parse_counts, "batches", "Examples for one gradient on the new square.")] = None,
    ratios: Annotated[Any, _list_of(parse_counts, "ratios", "Main rate divided by the reference rate.")] = None,
    sweep_seeds: Annotated[int | None, count_option("Seeds of every setting.", 1, 2, 1, MOST_SEEDS)] = None,
    seeds: Annotated[int | None, seeds_option(FULL.seeds, QUICK.seeds)] = None,
    output: Output = Path("out/toy"),
    quick: Quick = False,
) -> None:
    """Run the paper's toy problem (Table 1) at every setting that the paper leaves open, and say what comes near.

    Every setting is run with few seeds. The one whose rows are nearest to the paper's is run again with other seeds,
    and drawn. What is done already is not done again: for that, remove the output folder.
    """
    plan, n_final, pixels = QUICK if quick else FULL
    chosen = tuple(range(SWEEP_SEEDS, SWEEP_SEEDS + sweep_seeds)) if sweep_seeds else None
    given = {"activations": activations, "batches": batches, "ratios": ratios, "seeds": chosen}
    plan = plan._replace(**{name: value for name, value in given.items() if value})
    n_final = seeds or n_final
    if max(plan.batches) > plan.size.examples:
        raise typer.BadParameter(
            f"a seed trains on {plan.size.examples} examples, and {max(plan.batches)} is more.", param_hint="--batches"
        )
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
