"""A converged network of CIFAR-10 and a new task of a thousand examples (beside the paper's Tables 2, 3 and 13)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.commands import parse_names
from benchmarks.forgetting.command import BUDGET, Output, Quick, count_option, job, seeds_option
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, measure
from benchmarks.forgetting.experiments.whole_budget.report import Score, made_with, tables
from benchmarks.forgetting.tasks.cifar.archives import cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.few_examples import KINDS, Kind, Sizes, few_examples, head_and_adapters
from benchmarks.forgetting.tasks.cifar.pretrained import load

# At the end alone: scoring takes as long as much training.
EVALUATIONS = 1
# The paper's for its pretrained language model, and the far end of its Table 9; its vision transformer has 10.
RATIO = 10_000.0
SCORES = (Score("new (%)", "new"), Score("old (%)", "old"))
# ResNet-18 from CIFAR-10 to all of CIFAR-100, old / new (Table 2): the nearest to the new classes here.
PAPER = {"AdamW": "73.1, 34.6 (Adam)", "PROFIT": "74.7, 35.3", "SGD": "74.6, 24.5"}


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    data: Sizes
    rates: tuple[float, ...]
    seeds: int
    gradients: int


FULL = Size(Sizes(), (3e-4, 1e-3, 3e-3), seeds=3, gradients=160)
QUICK = Size(Sizes(examples=40, held_out=20, test=30, batch=8), (1e-3,), seeds=2, gradients=20)


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives of CIFAR, unpacked.")],
    weights: Annotated[Path, typer.Option(help="resnet20.npz: arrays of akamaster/pytorch_resnet_cifar10.")],
    tasks: Annotated[
        Any,
        typer.Option(parser=parse_names(KINDS), metavar="NAME,...", help="New tasks.", show_default=", ".join(KINDS)),
    ] = None,
    seeds: Annotated[int | None, seeds_option(FULL.seeds, QUICK.seeds)] = None,
    gradients: Annotated[int | None, count_option(BUDGET, FULL.gradients, QUICK.gradients, 20)] = None,
    output: Output = Path("out/vision"),
    quick: Quick = False,
) -> None:
    """Fine-tune a converged ResNet-20 of CIFAR-10 on a thousand examples, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    size = QUICK if quick else FULL
    size = size._replace(seeds=seeds or size.seeds, gradients=gradients or size.gradients)
    with job("vision", output, quick) as work:
        network, ten, hundred = load(weights), cifar10(data), cifar100(data)
        outcomes = {}
        for kind in tasks or KINDS:
            plan = plan_for(KINDS[kind], size)
            tuning_task, task = (
                few_examples(kind, network, ten, hundred, size.data, tuning) for tuning in (True, False)
            )
            outcomes[kind] = measure(tuning_task, task, plan, output / kind), plan
            text = page(outcomes, size, work.about())
            work.write(None, text)
        work.show(text)


def plan_for(kind: Kind, size: Size) -> Plan:
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
    return Plan(
        methods, [baseline, one_line], profit, size.rates, size.gradients, tuple(range(size.seeds)), EVALUATIONS
    )


def page(outcomes: Mapping[str, tuple[Outcome, Plan]], size: Size, about: Mapping[str, Any]) -> str:
    """The report."""
    sizes, epochs = size.data, size.gradients * size.data.batch / size.data.examples
    text = [
        "# A thousand examples for a converged ResNet-20 of CIFAR-10",
        made_with(about),
        f"Each seed draws {sizes.examples:,} training examples of its own, as many of each class; a run takes"
        f" {size.gradients} gradients on {sizes.batch} of them, {epochs:.0f} epochs, without augmentation, at a rate"
        f" that falls along a cosine to 0. Normalisation keeps the running statistics of the old task. PROFIT is the"
        f" paper's with a warm-up of {arms.WARMUP:.0%} of AdamW alone, λ_main/λ_ref = {RATIO:,.0f} and n_ref 1; *one"
        f" line* is `orthogonalize_to_previous` before AdamW after the same warm-up, which is ours. Means over"
        f" {size.seeds} seeds ± half of the 95 % Student-t interval; differences are paired by seed. Seeds share"
        f" the old model and {sizes.test:,} test images for each task, so intervals are of examples and order alone.",
    ]
    for kind, (outcome, plan) in outcomes.items():
        text += [f"## {KINDS[kind].title}", tables(outcome, plan, SCORES, PAPER if kind == "classes" else {})]
    return "\n\n".join(text) + "\n"
