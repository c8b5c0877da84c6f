"""Along what the lagged form should displace: the raw gradient, the projected one, or AdamW's momentum.

Runs the demo's task, rates and seeds, and prints old accuracy at equal new accuracy, compared with the raw gradient.
"""

from rich.console import Console
from rich.progress import Progress

from benchmarks.forgetting.demo import ANGLE, BATCH, EVALUATIONS, FULL, LEVEL, RATIO
from benchmarks.forgetting.methods.adamw import adamw
from benchmarks.forgetting.methods.profit_lagged import lagged_along, momentum, profit_lagged, projected_gradient
from benchmarks.forgetting.report import environment, table
from benchmarks.forgetting.runner import Budget, run_all
from benchmarks.forgetting.summary import summarize
from benchmarks.forgetting.tasks import digits


def main() -> None:
    """Run all directions and print the table."""
    methods = (
        profit_lagged(RATIO),
        lagged_along("along projected", projected_gradient, RATIO),
        lagged_along("along momentum", momentum, RATIO),
        adamw(),
    )
    task = digits.rotated_digits(FULL.seeds, angle=ANGLE)
    digits.check_converged(digits.old_accuracies(task))
    budget = Budget(FULL.rates, FULL.steps, batch=BATCH, evaluations=EVALUATIONS)
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=None)
        runs = run_all(task, methods, budget, lambda name, n: progress.update(bar, description=name, advance=n))
    console = Console(highlight=False)
    console.print(table(summarize(runs, LEVEL, methods[0].name), LEVEL, methods[0].name))
    console.print(f"{FULL.seeds} paired seeds; {environment()['machine']}.")


if __name__ == "__main__":
    main()
