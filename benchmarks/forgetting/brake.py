"""PROFIT beside PROFIT with a brake and with a projection for each leaf, on the demo's task, rates and seeds."""

import typer
from rich.console import Console

from benchmarks.commands import progress_bar
from benchmarks.forgetting import demo
from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.methods.profit import profit
from benchmarks.forgetting.methods.profit_variants import braked, braked_by_leaf, by_leaf
from benchmarks.forgetting.report import environment, table
from benchmarks.forgetting.runner import at_rates, run_all
from benchmarks.forgetting.summary import summarize
from benchmarks.forgetting.tasks import digits


def main() -> None:
    """Print old accuracies at equal new accuracy, with differences to PROFIT, and both accuracies at the end."""
    methods = [profit(), braked(), by_leaf(), braked_by_leaf(), adamw()]
    task = digits.rotated_digits(range(demo.FULL.seeds), angle=demo.ANGLE)
    trials = at_rates(methods, demo.RATES, demo.FULL.steps, demo.EVALUATIONS, ratio=demo.RATIO)
    with progress_bar() as progress:
        total = sum(int(trial.steps[-1]) * trial.method.gradients for trial in trials) * demo.FULL.seeds
        bar = progress.add_task("", total=total)
        runs = run_all(task, trials, demo.BATCH, lambda name, n: progress.update(bar, description=name, advance=n))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table(summarize(runs, demo.LEVEL, methods[0].name), demo.LEVEL, methods[0].name))
    for run in runs:
        ends = (f"{100 * scores[:, -1].mean():.1f}" for scores in (run.old, run.new))
        console.print(f"{run.method} {run.rate:g}: at the end {' / '.join(ends)}")
    console.print(f"{demo.FULL.seeds} paired seeds; {environment()['machine']}.")


if __name__ == "__main__":
    typer.run(main)
