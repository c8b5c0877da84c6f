"""One command for every experiment: `python -m benchmarks.forgetting NAME`."""

import typer

from benchmarks.forgetting.command import command
from benchmarks.forgetting.experiments import demo, frontier, imagenet, language, motion, vision, warmup
from benchmarks.forgetting.experiments.cifar import command as cifar
from benchmarks.forgetting.experiments.map import command as map_
from benchmarks.forgetting.experiments.toy import command as toy

EXPERIMENTS = {
    each.EXPERIMENT.name: each.EXPERIMENT
    for each in (demo, frontier, map_, toy, warmup, cifar, vision, imagenet, motion, language)
}

HELP = "What is kept of an old task while a new one is learnt."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)
for experiment in EXPERIMENTS.values():
    app.command(experiment.name)(command(experiment))

if __name__ == "__main__":
    app()
