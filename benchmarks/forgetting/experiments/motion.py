"""A forecaster of one kind of agent that is fine-tuned on another (beside the paper's Table 5)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import chex
import typer

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import (
    Outcome,
    Plan,
    Size,
    budget,
    experiment,
    rates_option,
    run_tasks,
)
from benchmarks.forgetting.experiments.whole_budget.report import Score, protocol, tables
from benchmarks.forgetting.report import page
from benchmarks.forgetting.tasks.arrays import kept
from benchmarks.forgetting.tasks.motion.network import ENCODER
from benchmarks.forgetting.tasks.motion.task import Recipe, constant_velocity, motion, train_old
from benchmarks.forgetting.tasks.motion.windows import Split, load
from profit_optax import compare

# Who is new, to who is old.
DIRECTIONS = {"pedestrians": "vehicles", "vehicles": "pedestrians"}
N_REF, RATIO = 3, 10.0
SCORES = tuple(
    Score(title, name, scale=-1, places=3)
    for title, name in (("new ADE", "new"), ("new FDE", "new fde"), ("old ADE", "old"), ("old FDE", "old fde"))
)
# From cars to pedestrians over 8 s on Waymo's data: new ADE, new FDE.
PAPER = {"AdamW": "0.621, 1.242", "head only": "0.724, 1.544", "PROFIT": "0.579, 1.145"}

# The paper fine-tunes at 1/100 of the old model's rate, the first of these.
FULL = Size(Recipe(), (1e-5, 1e-4, 3e-4, 1e-3, 3e-3), gradients=1000, evaluations=24)
QUICK = Size(Recipe(steps=20, batch=8, width=8), (1e-3,), gradients=40, evaluations=4)


def run(
    job: Job,
    data: Annotated[Path, typer.Option(help="windows.npz, in the format that tasks/motion/windows.py describes.")],
    gradients: Annotated[int | None, budget(FULL.gradients, QUICK.gradients, least=40)] = None,
    rates: Annotated[Any, rates_option()] = None,
) -> None:
    """Train a small transformer on one kind of agent, and fine-tune it on another with each method at its best rate.

    A task is who is new. What is done already is not done again: for that, remove the output folder.
    """
    size = (QUICK if job.quick else FULL).of(gradients, rates)
    windows, recipe = load(data), size.task

    def made(new: str) -> tuple[compare.Task, compare.Task, Plan]:
        who, old = DIRECTIONS[new], windows[DIRECTIONS[new]]
        with job.bar(recipe.steps) as bar:
            path = job.output / f"old {who} {recipe.steps} {recipe.width}.msgpack"
            params = kept(path, lambda: train_old(old, recipe, lambda steps: bar(path.stem, steps)))
        tuning_task, task = (motion(new, params, old, windows[new], recipe, tuning) for tuning in (True, False))
        return tuning_task, task, Plan.of(job, size, METHODS, ["AdamW", "one line"], ABLATIONS)

    run_tasks(job, made, lambda outcomes, about: markdown(outcomes, windows, recipe, about))


def after_encoder(params: chex.ArrayTree) -> dict[str, bool]:
    """Which parameters are not the encoder's."""
    return {name: name not in ENCODER for name in params}


def markdown(
    outcomes: Mapping[str, tuple[Outcome, Plan]], windows: Mapping[str, Split], recipe: Recipe, about: Mapping[str, Any]
) -> str:
    """The report."""
    explained = (
        f"The network sees 8 positions 0.4 s apart and gives six futures of 4.8 s; ADE and FDE are those of the best of"
        f" the six, in metres, less is better. Width {recipe.width}, 2 encoder and 2 decoder layers; the old model took"
        f" {recipe.steps:,} steps of AdamW at 1e-3 along a cosine. A seed trains on its own half of the new kind's"
        f" windows, in its own order; seeds share the old model and the windows that are scored. These are the last"
        f" fifth of each source in the order of recording. Vehicles are cyclists above all, and some cars."
    )
    text = [explained]
    for who, (outcome, plan) in outcomes.items():
        errors = {kind: constant_velocity(windows[kind].test) for kind in (who, DIRECTIONS[who])}
        straight = "; ".join(f"{kind} ADE {each.ade:.3f}, FDE {each.fde:.3f}" for kind, each in errors.items())
        text += [
            f"## {DIRECTIONS[who].capitalize()}, then {who}",
            protocol(plan, f"{recipe.batch} windows", RATIO, N_REF, " as in the paper's Table 5"),
            f"{len(windows[who].train) // 2:,} windows of {who} to train on, {len(windows[who].test):,} to score. At"
            f" constant velocity, one future in place of six: {straight}.",
            tables(outcome, plan, SCORES, PAPER if who == "pedestrians" else {}),
        ]
    return page("From one kind of agent to another: motion forecasting", about, *text)


_DECODER = [arms.on_part(arms.adamw(), after_encoder), arms.profit(N_REF, RATIO, part=after_encoder)]
METHODS = [
    arms.adamw(),
    arms.adamw_more(N_REF + 1),
    arms.profit(N_REF, RATIO),
    arms.one_line(),
    arms.sgd(),
    arms.lookahead(),
    arms.l2_sp(),
    arms.halfway(),
    arms.head_only(),
    *(dataclasses.replace(method, name=f"{method.name}, encoder frozen") for method in _DECODER),
]

ABLATIONS = [arms.adamw_slower()]
EXPERIMENT = experiment("motion", run, DIRECTIONS, METHODS, ABLATIONS, seeds=(5, 2))
