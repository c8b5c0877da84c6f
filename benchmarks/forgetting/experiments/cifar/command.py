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
from benchmarks.forgetting.command import Bar, Experiment, Job, count_option
from benchmarks.forgetting.experiments.cifar.arms import BASELINE, TUNING_SEED, Arm, arms, measure, own
from benchmarks.forgetting.experiments.cifar.report import write
from benchmarks.forgetting.experiments.cifar.setups import SETUPS, Setup
from benchmarks.forgetting.experiments.cifar.setups import quick as quickly
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.cifar import task as cifar_task
from benchmarks.forgetting.tasks.cifar.archives import Archive, cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.base import Base, train_base
from benchmarks.forgetting.tasks.cifar.networks import compute_dtype, network

QUICK_BASE_IMAGES = 64


def run(
    job: Job,
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives, unpacked.")],
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
) -> None:
    """Train a network on CIFAR-10, fine-tune it on CIFAR-100 in several ways, and measure what it forgets.

    A killed command, given again, goes on where it was. The level at which old accuracies are compared is fixed before
    the runs that are reported: for the paper's networks, a round figure below every new accuracy in its table; for the
    small one, a round figure below what AdamW reaches on a seed that is not reported.
    """
    (setup,) = job.tasks.values()
    setup = _asked(
        quickly(setup) if job.quick else setup, base_epochs, {"rates": rates, "steps": steps, "batch": batch}
    )
    found = job.chosen(arms(setup.rates, setup.steps)).values()
    chosen = [each if isinstance(each, Arm) else own(each, setup.rates) for each in found]
    # A killed command that is given again compiles nothing again.
    jax.config.update("jax_compilation_cache_dir", str((job.output / "compiled").absolute()))
    old, new = cifar10(data), cifar100(data)
    if job.quick:
        old = old._replace(train=old.train.first(QUICK_BASE_IMAGES))
    with job.bar(setup.base.epochs) as bar:
        base = train_base(setup.base, old, job.output / "base", functools.partial(_tell, bar))
    typer.echo(
        f"Old model: {100 * base.accuracy:.2f} % of CIFAR-10's test images after {base.epochs} epochs;"
        f" held-out loss {'flat' if base.flat else 'not flat'}{'' if base.converged else '; not converged'}."
    )
    tuning_task, reported = (_task(setup, base, old, new, each) for each in ([TUNING_SEED], range(job.seeds)))
    outcomes, text = [], ""
    with job.bar(len(chosen)) as bar:
        for outcome in measure(tuning_task, reported, chosen, setup, lambda name: bar(name, 0), job.runs):
            bar(outcome.run.method, 1)
            outcomes.append(outcome)
            about = job.about(
                dtype=jnp.dtype(compute_dtype()).name, parameters=sum(x.size for x in jax.tree.leaves(base.params))
            )
            text = write(job, base, outcomes, setup, about)
    job.show(text)


def _asked(setup: Setup, base_epochs: int | None, others: dict[str, Any]) -> Setup:
    if base_epochs is not None:
        setup = setup._replace(base=setup.base._replace(epochs=base_epochs))
    setup = setup._replace(**{field: value for field, value in others.items() if value is not None})
    if setup.batch > setup.train_images:
        raise typer.BadParameter(f"{setup.batch} is more than {setup.train_images} images.", param_hint="--batch")
    return setup


def _tell(bar: Bar, epochs: int, scores: np.ndarray) -> None:
    _, loss, accuracy = scores
    bar(f"old model, epoch {epochs}: held-out loss {loss:.3f}, accuracy {100 * accuracy:.1f} %", 1)


def _task(setup: Setup, base: Base, old: Archive, new: Archive, seeds: Sequence[int]) -> Task:
    model = f"{setup.base}, {100 * base.accuracy:.2f} %, {setup.train_images} and {setup.test_images} images"
    tests = (archive.test.first(setup.test_images) for archive in (old, new))
    data = cifar_task.Data(new.train.first(setup.train_images), *tests)
    return cifar_task.cifar100(seeds, network(setup.base.network), base.params, data, model)


EXPERIMENT = Experiment(
    name="cifar",
    run=run,
    # The network that learns.
    tasks=SETUPS,
    methods=arms((1.0,), 1),
    baseline=BASELINE,
    seeds=(3, 2),
    most_seeds=TUNING_SEED,
)
