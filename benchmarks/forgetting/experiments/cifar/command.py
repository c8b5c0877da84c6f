"""The command: an old model on CIFAR-10, the arms on CIFAR-100, and the tables."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import ending_with, make_folder, progress_bar
from benchmarks.forgetting.experiments.cifar.arms import arms
from benchmarks.forgetting.experiments.cifar.measure import TUNING_SEED, gradients, measure
from benchmarks.forgetting.experiments.cifar.report import title, write
from benchmarks.forgetting.experiments.cifar.setups import SETUPS, Setup
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.tasks import Task
from benchmarks.forgetting.tasks.cifar import task as cifar_task
from benchmarks.forgetting.tasks.cifar.archives import Archive, ArchiveError, cifar10, cifar100
from benchmarks.forgetting.tasks.cifar.base import Base, OtherRecipeError, train_base
from benchmarks.forgetting.tasks.cifar.networks import compute_dtype, network

_OF_NETWORK = "the network's"


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds the public archives, packed or unpacked.")],
    network: Annotated[str, typer.Option(metavar="|".join(SETUPS), help="What is trained.")] = "small",
    output: Annotated[Path, typer.Option(help="Folder for the model, the runs and the tables.")] = Path("out/cifar"),
    arm: Annotated[list[str] | None, typer.Option(help="An arm to run, repeatable. All by default, in order.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds are reported, from 0.")] = 3,
    level: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="New accuracy to compare old accuracies at.", show_default=_OF_NETWORK),
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="A rate to tune over, repeatable; of the Adam family.", show_default=_OF_NETWORK),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Main steps of a run.", show_default=_OF_NETWORK)] = None,
    tune_gradients: Annotated[
        int | None, typer.Option(min=1, help="Gradients of a tuning run.", show_default=_OF_NETWORK)
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images for a gradient.", show_default=_OF_NETWORK)] = None,
    train_images: Annotated[
        int | None, typer.Option(min=1, help="CIFAR-100 images to train on.", show_default=_OF_NETWORK)
    ] = None,
    test_images: Annotated[
        int | None, typer.Option(min=1, help="Images of each test set.", show_default=_OF_NETWORK)
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Evaluations of a run after its start.", show_default=_OF_NETWORK)
    ] = None,
    base_images: Annotated[
        int, typer.Option(min=10, help="CIFAR-10 images for the old model, held-out ones included.")
    ] = 50_000,
    base_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of the old model at most.", show_default=_OF_NETWORK)
    ] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Train the old model and stop.")] = False,
) -> None:
    """Train a network on CIFAR-10, fine-tune it on CIFAR-100 in several ways, and measure what it forgets.

    A killed command, given again, goes on where it was. The level at which old accuracies are compared is fixed before
    the runs that are reported: for the paper's networks, a round figure below every new accuracy in its table; for the
    small one, a round figure below what AdamW reaches on a seed that is not reported.
    """
    setup = _setup(network, base_epochs, rate, level=level, steps=steps, tune_gradients=tune_gradients, batch=batch,
                   train_images=train_images, test_images=test_images, evaluations=evaluations)  # fmt: skip
    make_folder(output)
    # A killed command that is given again compiles nothing again.
    jax.config.update("jax_compilation_cache_dir", str((output / "compiled").absolute()))
    with ending_with(ArchiveError, OtherRecipeError):
        old = cifar10(data, base_images)
        new = None if base_only else cifar100(data, setup.train_images)
        base = _base(setup, old, output)
    typer.echo(
        f"Old model: {100 * base.accuracy:.2f} % of CIFAR-10's test images after {base.epochs} epochs;"
        f" held-out loss {'flat' if base.flat else 'not flat'}{'' if base.converged else '; not converged'}."
    )
    if new is not None:
        _fine_tune(setup, base, old, new, arm, range(seeds), output)


def _setup(name: str, base_epochs: int | None, rates: list[float] | None, **others: Any) -> Setup:
    if name not in SETUPS:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SETUPS)}.", param_hint="--network")
    setup = SETUPS[name]
    if base_epochs is not None:
        setup = setup._replace(base=setup.base._replace(epochs=base_epochs))
    if rates:
        setup = setup._replace(rates=tuple(rates))
    setup = setup._replace(**{field: value for field, value in others.items() if value is not None})
    if setup.batch > setup.train_images:
        raise typer.BadParameter(f"{setup.batch} is more than {setup.train_images} images.", param_hint="--batch")
    return setup


def _base(setup: Setup, archive: Archive, output: Path) -> Base:
    """The old model, with a progress bar on standard error."""
    with progress_bar() as progress:
        bar = progress.add_task("old model", total=setup.base.epochs)

        def on_epoch(epochs: int, scores: np.ndarray) -> None:
            _, loss, accuracy = scores
            description = f"old model, epoch {epochs}: held-out loss {loss:.3f}, accuracy {100 * accuracy:.1f} %"
            progress.update(bar, completed=epochs, description=description)

        return train_base(setup.base, archive, output / "base", on_epoch)


def _fine_tune(
    setup: Setup, base: Base, old: Archive, new: Archive, keys: list[str] | None, seeds: Sequence[int], output: Path
) -> None:
    tuning_task, task = (_task(setup, base, old, new, each) for each in ([TUNING_SEED], seeds))
    catalogue = arms(task, setup.rates, setup.steps)
    keys = _known(keys, [arm.key for arm in catalogue])
    about = {
        "command": shlex.join(["python", "-m", "benchmarks.forgetting", "cifar", *sys.argv[1:]]),
        "seeds": list(seeds),
        "dtype": jnp.dtype(compute_dtype()).name,
        "parameters": sum(x.size for x in jax.tree.leaves(base.params)),
        **environment(),
    }
    outcomes = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=gradients(catalogue, keys, setup, len(seeds)))

        def on_progress(method: str, taken: int) -> None:
            progress.update(bar, description=method, advance=taken)

        for outcome in measure(tuning_task, task, catalogue, keys, setup, on_progress, output / "runs"):
            outcomes.append(outcome)
            write(output, base, outcomes, setup, about)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print((output / "cifar.md").read_text(encoding="utf-8"))
    console.print(f"{title(base, setup)}: {', '.join(str(output / f'cifar.{kind}') for kind in ('md', 'png', 'json'))}")


def _task(setup: Setup, base: Base, old: Archive, new: Archive, seeds: Sequence[int]) -> Task:
    count = setup.test_images
    old_test, new_test = (type(test)(test.pixels[:count], test.labels[:count]) for test in (old.test, new.test))
    model = f"{setup.base}, {100 * base.accuracy:.2f} %, {setup.train_images} and {count} images"
    data = cifar_task.Data(new.train, old_test, new_test)
    return cifar_task.cifar100(seeds, network(setup.base.network, compute_dtype()), base.params, data, model)


def _known(asked: list[str] | None, known: list[str]) -> list[str]:
    unknown = [key for key in asked or () if key not in known]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} is none of {', '.join(known)}.", param_hint="--arm")
    return [key for key in known if not asked or key in asked]
