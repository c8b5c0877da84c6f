"""The command: the sweep, the rows at the setting nearest to the paper, and its figure."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import make_folder, or_quick, parse_counts, parse_names, progress_bar
from benchmarks.forgetting.experiments.toy.picture import draw, grid
from benchmarks.forgetting.experiments.toy.report import describe, markdown, write_json
from benchmarks.forgetting.experiments.toy.sweep import Plan, Result, Setting, nearest, predictions, sweep, total
from benchmarks.forgetting.report import environment
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


def main(
    activations: Annotated[
        Any,
        typer.Option(
            parser=parse_names(ACTIVATIONS),
            metavar="NAME,NAME,...",
            help="Activations of the network.",
            show_default=or_quick(*(",".join(size.activations) for size in (FULL, QUICK))),
        ),
    ] = None,
    batches: Annotated[
        Any,
        typer.Option(
            parser=parse_counts,
            metavar="N,N,...",
            help="Examples for one gradient on the new square.",
            show_default=or_quick(*(",".join(map(str, size.batches)) for size in (FULL, QUICK))),
        ),
    ] = None,
    ratios: Annotated[
        Any,
        typer.Option(
            parser=parse_counts,
            metavar="N,N,...",
            help="Main rate divided by the reference rate.",
            show_default=or_quick(*(",".join(map(str, size.ratios)) for size in (FULL, QUICK))),
        ),
    ] = None,
    sweep_seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of every setting.", show_default=or_quick(FULL.sweep_seeds, QUICK.sweep_seeds)),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Other seeds, at the setting nearest to the paper.",
            show_default=or_quick(FULL.seeds, QUICK.seeds),
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for toy.md, toy.png and toy.json, and for what a killed command goes on from.")
    ] = Path("out/toy"),
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run on tiny models, which measures nothing.")] = False,
) -> None:
    """Run the paper's toy problem (Table 1) at every setting that the paper leaves open, and say what comes near.

    Every setting is run with few seeds. The one whose rows are nearest to the paper's is run again with other seeds,
    and drawn. What is done already is not done again: for that, remove the output folder.
    """
    begin = time.perf_counter()
    size = QUICK if quick else FULL
    n_sweep, n_final = sweep_seeds or size.sweep_seeds, seeds or size.seeds
    plan = Plan(
        activations=activations or size.activations,
        batches=batches or size.batches,
        ratios=ratios or size.ratios,
        seeds=tuple(range(SWEEP_SEEDS, SWEEP_SEEDS + n_sweep)),
        steps=size.steps,
        size=size.size,
    )
    make_folder(output)
    swept, final, setting = _measure(plan, n_final, size.pixels, output)
    about = {
        "quick": quick,
        "command": " ".join(["python -m benchmarks.forgetting toy", *sys.argv[1:]]),
        "sweep_plan": plan,
        "setting": setting,
        "wall_seconds": time.perf_counter() - begin,
        **environment(),
    }
    text = markdown(swept, final, setting, about, "toy.png")
    (output / "toy.md").write_text(text, encoding="utf-8")
    write_json(output / "toy.json", swept, final, about)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(text)
    console.print(f"Report: {output / 'toy.md'}\nPicture: {output / 'toy.png'}\nNumbers: {output / 'toy.json'}")


def _measure(plan: Plan, n_final: int, pixels: int, output: Path) -> tuple[list[Result], list[Result], Setting]:
    """The sweep, the rows at the nearest setting, that setting, and on the way the picture."""
    store = output / "runs"
    with progress_bar() as progress:
        bar = progress.add_task("", total=total(plan))

        def on_progress(text: str, examples: int) -> None:
            progress.update(bar, description=text, advance=examples)

        swept = sweep(plan, store, on_progress)
        setting = nearest(swept)
        final_plan = plan._replace(
            activations=(setting.activation,),
            batches=(setting.batch,),
            ratios=(int(setting.ratio),),
            seeds=tuple(range(n_final)),
        )
        progress.update(bar, total=total(plan) + total(final_plan))
        final = sweep(final_plan, store, on_progress)
        progress.update(bar, description="picture")
        points = grid(pixels)
        maps = {"truth": np.asarray(truth(jnp.asarray(points))), **predictions(setting, final_plan, store, points)}
    title = f"Old square (solid), new square (dashed); {describe(setting)}, seed 0"
    draw(output / "toy.png", maps, title)
    return swept, final, setting
