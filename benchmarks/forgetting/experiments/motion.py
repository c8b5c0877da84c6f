"""A forecaster of one kind of agent that is fine-tuned on another (beside the paper's Table 5)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import typer
from flax import serialization

from benchmarks.commands import parse_names, progress_bar
from benchmarks.forgetting.command import BUDGET, Output, Quick, count_option, job, seeds_option
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, measure
from benchmarks.forgetting.experiments.whole_budget.report import Score, made_with, tables
from benchmarks.forgetting.tasks.motion.network import ENCODER
from benchmarks.forgetting.tasks.motion.task import Recipe, constant_velocity, init_params, motion, train_old
from benchmarks.forgetting.tasks.motion.windows import Split, load

# Who is new, to who is old.
DIRECTIONS = {"pedestrians": "vehicles", "vehicles": "pedestrians"}
EVALUATIONS = 4
N_REF, RATIO = 3, 10.0
SCORES = tuple(
    Score(title, name, scale=-1, places=3)
    for title, name in (("new ADE", "new"), ("new FDE", "new fde"), ("old ADE", "old"), ("old FDE", "old fde"))
)
# From cars to pedestrians over 8 s on Waymo's data: new ADE, new FDE.
PAPER = {"AdamW": "0.621, 1.242", "head only": "0.724, 1.544", "PROFIT": "0.579, 1.145"}


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    recipe: Recipe
    rates: tuple[float, ...]
    seeds: int
    gradients: int


# The paper fine-tunes at 1/100 of the old model's rate, the first of these.
FULL = Size(Recipe(), (1e-5, 1e-4, 3e-4, 1e-3, 3e-3), seeds=5, gradients=1000)
QUICK = Size(Recipe(steps=20, batch=8, width=8), (1e-3,), seeds=2, gradients=40)


def main(
    data: Annotated[Path, typer.Option(help="windows.npz: trajectories as benchmarks/forgetting/tasks/motion has it.")],
    new: Annotated[
        Any,
        typer.Option(
            parser=parse_names(DIRECTIONS), metavar="NAME,...", help="Who is new.", show_default=", ".join(DIRECTIONS)
        ),
    ] = None,
    seeds: Annotated[int | None, seeds_option(FULL.seeds, QUICK.seeds)] = None,
    gradients: Annotated[int | None, count_option(BUDGET, FULL.gradients, QUICK.gradients, 40)] = None,
    output: Output = Path("out/motion"),
    quick: Quick = False,
) -> None:
    """Train a small transformer on one kind of agent, and fine-tune it on another with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    size = QUICK if quick else FULL
    size = size._replace(seeds=seeds or size.seeds, gradients=gradients or size.gradients)
    recipe = size.recipe
    with job("motion", output, quick) as work:
        windows, outcomes = load(data), {}
        for who in new or DIRECTIONS:
            old, plan = windows[DIRECTIONS[who]], plan_for(size)
            params = _old_model(old, recipe, output / f"old {DIRECTIONS[who]} {recipe.steps} {recipe.width}.msgpack")
            tuning_task, task = (motion(who, params, old, windows[who], recipe, tuning) for tuning in (True, False))
            outcomes[who] = measure(tuning_task, task, plan, output / who), plan
            text = page(outcomes, windows, size, work.about())
            work.write(None, text)
        work.show(text)


def plan_for(size: Size) -> Plan:
    """What is run in a direction."""
    profit, baseline, one_line = arms.profit(N_REF, RATIO), arms.adamw(), arms.one_line()
    decoder = [arms.on_part(baseline, after_encoder), arms.profit(N_REF, RATIO, part=after_encoder)]
    methods = [
        baseline,
        arms.adamw_more(profit.gradients),
        profit,
        one_line,
        arms.sgd(),
        arms.lookahead(),
        arms.l2_sp(),
        arms.halfway(),
        arms.head_only(),
        *(dataclasses.replace(method, name=f"{method.name}, encoder frozen") for method in decoder),
    ]
    seeds = tuple(range(size.seeds))
    return Plan(methods, [baseline, one_line], profit, size.rates, size.gradients, seeds, EVALUATIONS)


def after_encoder(params: chex.ArrayTree) -> dict[str, bool]:
    """Which parameters are not the encoder's."""
    return {name: name not in ENCODER for name in params}


def page(
    outcomes: Mapping[str, tuple[Outcome, Plan]], windows: Mapping[str, Split], size: Size, about: Mapping[str, Any]
) -> str:
    """The report."""
    recipe = size.recipe
    text = [
        "# From one kind of agent to another: motion forecasting",
        made_with(about),
        f"The network sees 8 positions 0.4 s apart and gives six futures of 4.8 s; ADE and FDE are those of the best of"
        f" the six, in metres, less is better. Width {recipe.width}, 2 encoder and 2 decoder layers; the old model took"
        f" {recipe.steps:,} steps of AdamW at 1e-3 along a cosine. A run takes {size.gradients:,} gradients on"
        f" {recipe.batch} windows at a rate that falls along a cosine to 0. PROFIT has n_ref {N_REF} and"
        f" λ_main/λ_ref = {RATIO:g} as in the paper's Table 5, and a warm-up of {arms.WARMUP:.0%} of AdamW alone; *one"
        f" line* is `orthogonalize_to_previous` before AdamW after the same warm-up, which is ours. Means over"
        f" {size.seeds} seeds ± half of the 95 % Student-t interval; differences are paired by seed. A seed trains"
        f" on its own half of the new kind's windows, in its own order; seeds share the old model and the windows that"
        f" are scored. These are the last fifth of each source in the order of recording.",
    ]
    for who, (outcome, plan) in outcomes.items():
        errors = {kind: constant_velocity(windows[kind].test) for kind in (who, DIRECTIONS[who])}
        straight = "; ".join(f"{kind} ADE {each.ade:.3f}, FDE {each.fde:.3f}" for kind, each in errors.items())
        text += [
            f"## {DIRECTIONS[who].capitalize()}, then {who}",
            f"{len(windows[who].train) // 2:,} windows of {who} to train on, {len(windows[who].test):,} to score. At"
            f" constant velocity, one future in place of six: {straight}.",
            tables(outcome, plan, SCORES, PAPER if who == "pedestrians" else {}),
        ]
    return "\n\n".join(text) + "\n"


def _old_model(old: Split, recipe: Recipe, path: Path) -> chex.ArrayTree:
    """The old model, which is kept: a killed command has to go on from the same one."""
    if path.exists():
        like = init_params(recipe)
        return jax.tree.map(jnp.asarray, serialization.from_bytes(like, path.read_bytes()))
    with progress_bar() as progress:
        bar = progress.add_task(path.stem, total=recipe.steps)
        params = train_old(old, recipe, lambda steps: progress.update(bar, advance=steps))
    path.write_bytes(serialization.to_bytes(params))
    return params
