"""One command for every experiment: `python -m benchmarks.forgetting NAME`."""

from collections.abc import Callable

import typer

from benchmarks.forgetting.experiments import demo, frontier, language, motion, vision, warmup
from benchmarks.forgetting.experiments.cifar import command as cifar
from benchmarks.forgetting.experiments.map import command as map_
from benchmarks.forgetting.experiments.toy import command as toy

EXPERIMENTS: dict[str, Callable[..., None]] = {
    "demo": demo.main,
    "frontier": frontier.main,
    "map": map_.main,
    "toy": toy.main,
    "warmup": warmup.main,
    "cifar": cifar.main,
    "vision": vision.main,
    "motion": motion.main,
    "language": language.main,
}

HELP = "What is kept of an old task while a new one is learnt."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)
for name, main in EXPERIMENTS.items():
    app.command(name)(main)

if __name__ == "__main__":
    app()
