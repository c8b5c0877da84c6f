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
from benchmarks.forgetting.experiments.cifar.arms import KEYS, TUNING_SEED, Arm, arms, measure, own
from benchmarks.forgetting.experiments.cifar.report import write
from benchmarks.forgetting.experiments.cifar.setups import SETUPS, Setup
from benchmarks.forgetting.experiments.cifar.setups import quick as quickly
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.cifar import task as cifar_task
from benchmarks.forgetting.tasks.cifar.archives import Archive, cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.base import Base, train_base
from benchmarks.forgetting.tasks.cifar.networks import compute_dtype, network

SEEDS, QUICK_SEEDS = 3, 2
QUICK_BASE_IMAGES = 64


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives, unpacked.")],
    task: Annotated[str, typer.Option(metavar="|".join(SETUPS), help="The network that learns.")] = "small",
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help=f"Of {', '.join(KEYS)}, or FILE.py:NAME of a Method.",
            show_default="all, in this order",
        ),
    ] = None,
    seeds: Annotated[int | None, seeds_option(SEEDS, QUICK_SEEDS)] = None,
    rates: Annotated[
        Any,
        typer.Option(
            parser=parse_rates,
            metavar="RATE,RATE,...",
            help="Rates to tune over, of the Adam family.",
            show_default="the network's",
        ),
    ] = None,
    steps: Annotated[int | None, count_option("Main steps of a run.", "the network's")] = None,
    batch: Annotated[int | None, count_option("Images for a gradient.", "the network's")] = None,
    base_epochs: Annotated[int | None, count_option("Epochs of the old model at most.", "the network's")] = None,
    output: Output = Path("out/cifar"),
    quick: Quick = False,
) -> None:
    """Train a network on CIFAR-10, fine-tune it on CIFAR-100 in several ways, and measure what it forgets.

    A killed command, given again, goes on where it was. The level at which old accuracies are compared is fixed before
    the runs that are reported: for the paper's networks, a round figure below every new accuracy in its table; for the
    small one, a round figure below what AdamW reaches on a seed that is not reported.
    """
    setup = _setup(task, quick, base_epochs, {"rates": rates, "steps": steps, "batch": batch})
    with job("cifar", output, quick) as work:
        # Before anything is trained: a name that is nobody's is found out at once.
        chosen = _chosen(methods, setup)
        # A killed command that is given again compiles nothing again.
        jax.config.update("jax_compilation_cache_dir", str((output / "compiled").absolute()))
        old, new = cifar10(data), cifar100(data)
        if quick:
            old = old._replace(train=old.train.first(QUICK_BASE_IMAGES))
        with work.bar(setup.base.epochs) as bar:
            base = train_base(setup.base, old, output / "base", functools.partial(_tell, bar))
        typer.echo(
            f"Old model: {100 * base.accuracy:.2f} % of CIFAR-10's test images after {base.epochs} epochs;"
            f" held-out loss {'flat' if base.flat else 'not flat'}{'' if base.converged else '; not converged'}."
        )
        numbers = range(seeds or (QUICK_SEEDS if quick else SEEDS))
        tuning_task, reported = (_task(setup, base, old, new, each) for each in ([TUNING_SEED], numbers))
        outcomes, text = [], ""
        with work.bar(len(chosen)) as bar:
            for outcome in measure(tuning_task, reported, chosen, setup, lambda name: bar(name, 0), work.runs):
                bar(outcome.run.method, 1)
                outcomes.append(outcome)
                about = work.about(
                    seeds=list(numbers),
                    dtype=jnp.dtype(compute_dtype()).name,
                    parameters=sum(x.size for x in jax.tree.leaves(base.params)),
                )
                text = write(work, base, outcomes, setup, about)
        work.show(text)


def _setup(name: str, quick: bool, base_epochs: int | None, others: dict[str, Any]) -> Setup:
    if name not in SETUPS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SETUPS)}.", param_hint="--task")
    setup = quickly(SETUPS[name]) if quick else SETUPS[name]
    if base_epochs is not None:
        setup = setup._replace(base=setup.base._replace(epochs=base_epochs))
    setup = setup._replace(**{field: value for field, value in others.items() if value is not None})
    if setup.batch > setup.train_images:
        raise typer.BadParameter(f"{setup.batch} is more than {setup.train_images} images.", param_hint="--batch")
    return setup


def _chosen(methods: str | None, setup: Setup) -> list[Arm]:
    """The arms asked for, in the order in which they are run: those out of files last."""
    known = {arm.key: arm for arm in arms(setup.rates, setup.steps)}
    if not methods:
        return list(known.values())
    found = named(names(methods), known, lambda name: own(method_of(name), setup.rates), "--methods")
    return [arm for arm in known.values() if arm in found] + [arm for arm in found if arm.table == "own"]


def _tell(bar: Bar, epochs: int, scores: np.ndarray) -> None:
    _, loss, accuracy = scores
    bar(f"old model, epoch {epochs}: held-out loss {loss:.3f}, accuracy {100 * accuracy:.1f} %", 1)


def _task(setup: Setup, base: Base, old: Archive, new: Archive, seeds: Sequence[int]) -> Task:
    model = f"{setup.base}, {100 * base.accuracy:.2f} %, {setup.train_images} and {setup.test_images} images"
    tests = (archive.test.first(setup.test_images) for archive in (old, new))
    data = cifar_task.Data(new.train.first(setup.train_images), *tests)
    return cifar_task.cifar100(seeds, network(setup.base.network), base.params, data, model)
