"""The command: an old model on CIFAR-10, the arms on CIFAR-100, and the tables."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.commands import parse_rates
from benchmarks.forgetting.command import Bar, Output, Quick, count_option, job, method_of, named, names, seeds_option
from benchmarks.forgetting.experiments.cifar.arms import KEYS, TUNING_SEED, Arm, arms, gradients, measure, own
from benchmarks.forgetting.experiments.cifar.report import write
from benchmarks.forgetting.experiments.cifar.setups import SETUPS, Setup
from benchmarks.forgetting.experiments.cifar.setups import quick as quickly
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.cifar import task as cifar_task
from benchmarks.forgetting.tasks.cifar.archives import TRAIN_IMAGES, Archive, cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.base import Base, train_base
from benchmarks.forgetting.tasks.cifar.networks import compute_dtype, network

SEEDS, QUICK_SEEDS = 3, 2
QUICK_BASE_IMAGES = 64


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives, packed or unpacked.")],
    task: Annotated[
        str, typer.Option("--task", "--network", metavar="|".join(SETUPS), help="The network that learns.")
    ] = "small",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            "--arm",
            metavar="NAME,NAME,...",
            help=f"Of {', '.join(KEYS)}, or FILE.py:NAME of a Method.",
            show_default="all, in this order",
        ),
    ] = None,
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    output: Output = Path("out/cifar"),
    level: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="New accuracy to compare old accuracies at.", show_default="the network's"),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(
            "--rates",
            "--rate",
            metavar="RATE,RATE,...",
            help="Rates to tune over, of the Adam family.",
            show_default="the network's",
        ),
    ] = None,
    steps: Annotated[int | None, count_option("Main steps of a run.", "the network's")] = None,
    tune_gradients: Annotated[int | None, count_option("Gradients of a tuning run.", "the network's")] = None,
    batch: Annotated[int | None, count_option("Images for a gradient.", "the network's")] = None,
    train_images: Annotated[int | None, count_option("CIFAR-100 images to train on.", "the network's")] = None,
    test_images: Annotated[int | None, count_option("Images of each test set.", "the network's")] = None,
    evaluations: Annotated[int | None, count_option("Evaluations of a run after its start.", "the network's")] = None,
    base_images: Annotated[
        int | None,
        count_option("CIFAR-10 images for the old model, held-out ones too.", TRAIN_IMAGES, QUICK_BASE_IMAGES, 10),
    ] = None,
    base_epochs: Annotated[int | None, count_option("Epochs of the old model at most.", "the network's")] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Train the old model and stop.")] = False,
    quick: Quick = False,
) -> None:
    """Train a network on CIFAR-10, fine-tune it on CIFAR-100 in several ways, and measure what it forgets.

    A killed command, given again, goes on where it was. The level at which old accuracies are compared is fixed before
    the runs that are reported: for the paper's networks, a round figure below every new accuracy in its table; for the
    small one, a round figure below what AdamW reaches on a seed that is not reported.
    """
    asked = {"level": level, "steps": steps, "tune_gradients": tune_gradients, "batch": batch}
    asked |= {"train_images": train_images, "test_images": test_images, "evaluations": evaluations}
    setup = _setup(task, quick, base_epochs, rate, asked)
    with job("cifar", output, quick) as work:
        # Before anything is trained: a name that is nobody's is found out at once.
        chosen = _chosen(methods, setup)
        # A killed command that is given again compiles nothing again.
        jax.config.update("jax_compilation_cache_dir", str((output / "compiled").absolute()))
        old = cifar10(data, base_images or (QUICK_BASE_IMAGES if quick else TRAIN_IMAGES))
        new = None if base_only else cifar100(data, setup.train_images)
        with work.bar(setup.base.epochs) as bar:
            base = train_base(setup.base, old, output / "base", functools.partial(_tell, bar))
        typer.echo(
            f"Old model: {100 * base.accuracy:.2f} % of CIFAR-10's test images after {base.epochs} epochs;"
            f" held-out loss {'flat' if base.flat else 'not flat'}{'' if base.converged else '; not converged'}."
        )
        if new is None:
            return
        numbers = range(seeds or (QUICK_SEEDS if quick else SEEDS))
        tuning_task, reported = (_task(setup, base, old, new, each) for each in ([TUNING_SEED], numbers))
        outcomes, text = [], ""
        with work.bar(gradients(chosen, setup, len(numbers))) as bar:
            for outcome in measure(tuning_task, reported, chosen, setup, bar, work.runs):
                outcomes.append(outcome)
                about = work.about(
                    seeds=list(numbers),
                    dtype=jnp.dtype(compute_dtype()).name,
                    parameters=sum(x.size for x in jax.tree.leaves(base.params)),
                )
                text = write(work, base, outcomes, setup, about)
        work.show(text)


def _setup(
    name: str, quick: bool, base_epochs: int | None, rates: Sequence[str] | None, others: dict[str, Any]
) -> Setup:
    if name not in SETUPS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SETUPS)}.", param_hint="--task")
    setup = quickly(SETUPS[name]) if quick else SETUPS[name]
    if base_epochs is not None:
        setup = setup._replace(base=setup.base._replace(epochs=base_epochs))
    if rates:
        setup = setup._replace(rates=parse_rates(",".join(rates), "--rates"))
    setup = setup._replace(**{field: value for field, value in others.items() if value is not None})
    if setup.batch > setup.train_images:
        raise typer.BadParameter(f"{setup.batch} is more than {setup.train_images} images.", param_hint="--batch")
    return setup


def _chosen(methods: Sequence[str] | None, setup: Setup) -> list[Arm]:
    """The arms asked for, in the order in which they are run: those out of files last."""
    known = {arm.key: arm for arm in arms(setup.rates, setup.steps)}
    if not methods:
        return list(known.values())
    found = named(names(",".join(methods)), known, lambda name: own(method_of(name), setup.rates), "--methods")
    return [arm for arm in known.values() if arm in found] + [arm for arm in found if arm.table == "own"]


def _tell(bar: Bar, epochs: int, scores: np.ndarray) -> None:
    _, loss, accuracy = scores
    bar(f"old model, epoch {epochs}: held-out loss {loss:.3f}, accuracy {100 * accuracy:.1f} %", 1)


def _task(setup: Setup, base: Base, old: Archive, new: Archive, seeds: Sequence[int]) -> Task:
    count = setup.test_images
    old_test, new_test = (type(test)(test.pixels[:count], test.labels[:count]) for test in (old.test, new.test))
    model = f"{setup.base}, {100 * base.accuracy:.2f} %, {setup.train_images} and {count} images"
    data = cifar_task.Data(new.train, old_test, new_test)
    return cifar_task.cifar100(seeds, network(setup.base.network), base.params, data, model)
