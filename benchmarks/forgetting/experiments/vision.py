"""A converged network of CIFAR-10 and a new task of a thousand examples (beside the paper's Tables 2, 3 and 13)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, Size, budget, experiment, run_tasks
from benchmarks.forgetting.experiments.whole_budget.report import Score, tables
from benchmarks.forgetting.report import page
from benchmarks.forgetting.tasks.cifar.archives import cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.few_examples import KINDS, Kind, Sizes, few_examples, head_and_adapters
from benchmarks.forgetting.tasks.cifar.pretrained import load
from profit_optax import compare

# The paper's for its pretrained language model, and the far end of its Table 9; its vision transformer has 10.
RATIO = 10_000.0
SCORES = (Score("new (%)", "new"), Score("old (%)", "old"))
# ResNet-18 from CIFAR-10 to all of CIFAR-100, old / new (Table 2): the nearest to the new classes here.
PAPER = {"AdamW": "73.1, 34.6 (Adam)", "PROFIT": "74.7, 35.3", "SGD": "74.6, 24.5"}

# Scored at the end alone, which takes as long as much training.
FULL = Size(Sizes(), (3e-4, 1e-3, 3e-3), gradients=160, evaluations=1)
QUICK = Size(Sizes(examples=40, held_out=20, test=30, batch=8), (1e-3,), gradients=20, evaluations=1)


def run(
    job: Job,
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives of CIFAR, unpacked.")],
    weights: Annotated[Path, typer.Option(help="resnet20.npz: arrays of akamaster/pytorch_resnet_cifar10.")],
    gradients: Annotated[int | None, budget(FULL, QUICK, least=20)] = None,
) -> None:
    """Fine-tune a converged ResNet-20 of CIFAR-10 on a thousand examples, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    size = (QUICK if job.quick else FULL).of(gradients)
    network, ten, hundred = load(weights), cifar10(data), cifar100(data)

    def made(kind: str) -> tuple[compare.Task, compare.Task, Plan]:
        tuning_task, task = (few_examples(kind, network, ten, hundred, size.task, tuning) for tuning in (True, False))
        methods = methods_for(KINDS[kind])
        return tuning_task, task, Plan.of(job, size, methods, ["AdamW", "one line"])

    run_tasks(job, made, lambda outcomes, about: markdown(outcomes, size, about))


def methods_for(kind: Kind) -> list[compare.Method]:
    """What is run on a task."""
    part = head_and_adapters if kind.adapters else None
    profit, baseline, one_line = arms.profit(1, RATIO, part=part), arms.adamw(), arms.one_line()
    twice = arms.adamw_more(profit.gradients)
    if part:
        baseline, one_line, twice = (arms.on_part(method, part) for method in (baseline, one_line, twice))
    methods = [baseline, twice, profit, one_line]
    if not part:
        methods += [arms.sgd(), arms.lookahead(), arms.l2_sp(kind.fresh_head), arms.halfway()]
    if kind.fresh_head:
        methods.append(arms.head_only())
    return methods


def markdown(outcomes: Mapping[str, tuple[Outcome, Plan]], size: Size, about: Mapping[str, Any]) -> str:
    """The report."""
    sizes, epochs = size.task, size.gradients * size.task.batch / size.task.examples
    explained = (
        f"Each seed draws {sizes.examples:,} training examples of its own, as many of each class; a run takes"
        f" {size.gradients} gradients on {sizes.batch} of them, {epochs:.0f} epochs, without augmentation, at a rate"
        f" that falls along a cosine to 0. Normalisation keeps the running statistics of the old task. PROFIT is the"
        f" paper's with a warm-up of {arms.WARMUP:.0%} of AdamW alone, λ_main/λ_ref = {RATIO:,.0f} and n_ref 1; *one"
        f" line* is `orthogonalize_to_previous` before AdamW after the same warm-up, which is ours. Means over"
        f" {about['seeds']} seeds ± half of the 95 % Student-t interval; differences are paired by seed. Seeds share"
        f" the old model and {sizes.test:,} test images for each task, so intervals are of examples and order alone."
    )
    text = [explained]
    for kind, (outcome, plan) in outcomes.items():
        text += [f"## {KINDS[kind].title}", tables(outcome, plan, SCORES, PAPER if kind == "classes" else {})]
    return page("A thousand examples for a converged ResNet-20 of CIFAR-10", about, *text)


_METHODS = [method for kind in KINDS.values() for method in methods_for(kind)]
EXPERIMENT = experiment("vision", run, KINDS, _METHODS, seeds=(3, 2))
