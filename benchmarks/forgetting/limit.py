"""The one-line form beside the lagged form, whose limit it is: old accuracy at equal new accuracy, demo and map."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from benchmarks.commands import make_folder, markdown_table, progress_bar
from benchmarks.forgetting import demo
from benchmarks.forgetting.gains.__main__ import EVALUATIONS
from benchmarks.forgetting.gains.digits import DIGITS, MAINS
from benchmarks.forgetting.gains.gain import level
from benchmarks.forgetting.gains.points import points
from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adamw import alone
from benchmarks.forgetting.methods.one_line import one_line
from benchmarks.forgetting.methods.profit_lagged import profit_lagged
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.runner import Run, Trial, at_rates, geometrically, run_all
from benchmarks.forgetting.summary import crossing, difference, plus_minus, short_rate
from benchmarks.forgetting.tasks import digits, start_scores

HEAD = ("place", "rate", "level (%)", "one line minus lagged", "one line minus alone", "lagged minus alone", "steps")


def main(
    demo_seeds: Annotated[int, typer.Option(min=2, help="Seeds of the demo's rates.")] = 10,
    map_seeds: Annotated[int, typer.Option(min=2, help="Seeds at each place of the map.")] = 10,
    output: Annotated[Path, typer.Option(help="Folder for limit.md and for the runs.")] = Path("out/limit"),
) -> None:
    """Compare both forms on the demo and at every place of the digits map but those of n_ref."""
    make_folder(output)
    lines: list[tuple[str, ...]] = [HEAD]
    with progress_bar() as progress:
        places = [(factor, p) for factor in DIGITS.factors if factor != "n_ref" for p in points(DIGITS, factor)]
        bar = progress.add_task("", total=len(places) + 1)
        task = digits.rotated_digits(range(demo_seeds), demo.ANGLE)
        runs = run_all(
            task, at_rates(_methods("AdamW"), demo.RATES, demo.FULL.steps, demo.EVALUATIONS, ratio=10.0, decay=0.0), 128
        )
        lines += _rows("demo", runs, demo.LEVEL)
        progress.update(bar, advance=1)
        for factor, point in places:
            value = getattr(point, factor)
            progress.update(bar, description=f"{factor} {value}", advance=1)
            here = DIGITS.task(point, range(map_seeds), output, False)
            start = start_scores(here)
            asked = level(float(np.mean(start.new)), float(np.mean(start.old)))
            rates = DIGITS.rates(point)
            trials = [
                Trial(
                    method,
                    method.setting(rate=rate, ratio=point.ratio, decay=0.0),
                    geometrically(max(1, round(DIGITS.gradients * rates[0] / rate)), EVALUATIONS),
                    until=asked,
                )
                for method in _methods(point.main)
                for rate in rates
            ]
            lines += _rows(f"{factor} {value}", run_all(here, trials, point.batch, store=output / "runs"), asked)
            (output / "limit.md").write_text("\n".join(markdown_table(lines)) + "\n", encoding="utf-8")
    text = "\n".join([*markdown_table(lines), "", f"{demo_seeds} and {map_seeds} paired seeds; {environment()}"])
    (output / "limit.md").write_text(text + "\n", encoding="utf-8")
    Console(highlight=False, markup=False, soft_wrap=True).print(text)


def _methods(main: str) -> list[Method]:
    optimizer = MAINS[main].optimizer
    return [
        alone(main, optimizer),
        profit_lagged(main=optimizer)._replace(name=f"lagged around {main}"),
        one_line(main=optimizer)._replace(name=f"one line before {main}"),
    ]


def _rows(place: str, runs: list[Run], asked: float) -> list[tuple[str, ...]]:
    rates = list(dict.fromkeys(run.rate for run in runs))
    of_rate = [[run for run in runs if run.rate == rate] for rate in rates]
    return [_row(place, rate, asked, *each) for rate, each in zip(rates, of_rate, strict=True)]


def _row(place: str, rate: float, asked: float, alone: Run, lagged: Run, one: Run) -> tuple[str, ...]:
    pairs = ((one, lagged), (one, alone), (lagged, alone))
    differences = [plus_minus(difference(*pair, asked), "+z.2f") or "not reached" for pair in pairs]
    steps = [f"{np.mean(crossing(run, asked).steps):.0f}" for run in (alone, lagged, one)]
    return place, short_rate(rate), f"{100 * asked:.1f}", *differences, " / ".join(steps)


if __name__ == "__main__":
    typer.run(main)
