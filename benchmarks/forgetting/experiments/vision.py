"""A converged network of CIFAR-10 and something new for it (beside the paper's Tables 2, 3, 8, 9 and 13)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.cifar.report import PAPER as RESNET18
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.arms import Ablation
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
from benchmarks.forgetting.tasks.cifar.few_examples import (
    KINDS,
    Kind,
    Sizes,
    accuracy_of,
    few_examples,
    head_and_adapters,
)
from benchmarks.forgetting.tasks.cifar.pretrained import load, logits
from profit_optax import compare

# The paper's ResNet-18 from CIFAR-10 to all of CIFAR-100 (Tables 2, 8 and 9), by what it is called there and here.
_THERE = {
    "AdamW": "adamw",
    "PROFIT": "ratio10000",
    "SGD": "sgd",
    "Lookahead": "lookahead",
    "PROFIT, n_ref 2": "n_ref2",
    "PROFIT, n_ref 5": "n_ref5",
    "PROFIT, ratio 10": "profit",
    "PROFIT, ratio 100": "ratio100",
}
PAPER = {here: "{1:.1f}, {0:.1f}".format(*RESNET18[there]) for here, there in _THERE.items()}
OF_PAPER = (
    "The paper: new, old of its ResNet-18 on all of CIFAR-100 after 100 epochs, with Adam for AdamW, and with a ratio"
    " of 10 where n_ref is 2 or 5."
)
# Tasks beside which that stands.
LIKE_PAPER = ("classes", "hundred")

FULL = Size(Sizes(), (3e-4, 1e-3, 3e-3), gradients=160, evaluations=8)
# Of tasks that have their own, in full and with --quick.
SIZES = {
    "hundred": (
        Size(Sizes(examples=40_000, test=2000), (1e-4, 3e-4, 1e-3), gradients=640, evaluations=8),
        QUICK._replace(task=QUICK.task._replace(examples=200)),
    )
}
BUDGETS = ", for ".join([str(FULL.gradients), *(f"{kind} {full.gradients}" for kind, (full, _) in SIZES.items())])


def run(
    job: Job,
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives of CIFAR, unpacked.")],
    weights: Annotated[Path, typer.Option(help="resnet20.npz, as tasks/cifar/pretrained.py makes it.")],
    gradients: Annotated[int | None, budget(BUDGETS, QUICK.gradients, least=20)] = None,
    rates: Annotated[Any, rates_option()] = None,
) -> None:
    """Fine-tune a converged ResNet-20 of CIFAR-10 on something new, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    network, ten, hundred = load(weights), cifar10(data), cifar100(data)
    # Of the network as it was loaded, which tells whether the weights are right.
    right = accuracy_of(lambda params, images: logits(params, network.statistics, images))(network.params, ten.test)

    def made(kind: str) -> tuple[compare.Task, compare.Task, Plan]:
        size = SIZES.get(kind, (FULL, QUICK))[job.quick].of(gradients, rates)
        tuning_task, task = (few_examples(kind, network, ten, hundred, size.task, tuning) for tuning in (True, False))
        methods, others = methods_for(KINDS[kind]), ablations(kind)
        return tuning_task, task, Plan.of(job, size, methods, ["AdamW", "one line"], others)

    run_tasks(job, made, lambda outcomes, about: markdown(outcomes, right, len(ten.test.labels), about))


def methods_for(kind: Kind) -> list[compare.Method]:
    """What is run on a task."""
    return arms.usual(kind.fresh_head, RATIO, _part(kind))


def ablations(kind: str) -> list[Ablation]:
    """AdamW at a lower rate, and where the task is the paper's PROFIT with something else about it."""
    slower = [arms.adamw_slower(_part(KINDS[kind]))]
    return slower + (arms.changed_profit(RATIO, (2, 5), (10.0, 100.0)) if kind == "hundred" else [])


def _part(kind: Kind) -> arms.Part | None:
    return head_and_adapters if kind.adapters else None


def markdown(outcomes: Mapping[str, tuple[Outcome, Plan]], right: float, images: int, about: Mapping[str, Any]) -> str:
    """The report."""
    text = [
        f"The network as it was loaded is right on {right:.2%} of CIFAR-10's {images:,} test images.",
        "Each seed draws training examples of its own, as many of each class, which are not augmented. Normalisation"
        " keeps the running statistics of the old task. Seeds share the old model and the test images, so intervals"
        " are of examples and order alone.",
    ]
    for kind, (outcome, plan) in outcomes.items():
        beside = (PAPER, OF_PAPER) if kind in LIKE_PAPER else ({}, "")
        text += section(KINDS[kind].title, outcome, plan, "", *beside)
    return page("Something new for a converged ResNet-20 of CIFAR-10", about, *text)


_METHODS = [method for kind in KINDS.values() for method in methods_for(kind)]
_ABLATIONS = [each for kind in KINDS for each in ablations(kind)]
EXPERIMENT = experiment("vision", run, KINDS, _METHODS, _ABLATIONS, seeds=(3, 2))
"""A whole fine-tuning of a converged model: the new task at its end, and what is left of the old one."""
