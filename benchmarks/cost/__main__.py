"""The command: every arm in every case, as a Markdown table, a picture and a JSON file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import typer
from rich.console import Console

from benchmarks.commands import (
    MOST_N_REF,
    MOST_ROUNDS,
    in_a_sentence,
    make_folder,
    or_quick,
    parse_counts,
    parse_names,
    progress_bar,
)
from benchmarks.cost.cases import sizes
from benchmarks.cost.catalogue import CASES, CHOICES, EAGER, chosen
from benchmarks.cost.measure import UNOPTIMIZED, Plan, measure, units
from benchmarks.cost.report import Result, environment, markdown, plot, write_json
from benchmarks.cost.summary import goal_compilations, goals, summarize


class Size(NamedTuple):
    """What makes a run long: its defaults depend on --quick."""

    n_refs: tuple[int, ...]
    rounds: int
    compilations: int


FULL = Size((1, 3), rounds=9, compilations=6)
QUICK = Size((1,), rounds=2, compilations=1)


@in_a_sentence
def main(
    cases: Annotated[
        Any,
        typer.Option(
            parser=parse_names(CASES), metavar="CASE,CASE,...", help="What to train.", show_default=",".join(CASES)
        ),
    ] = None,
    arms: Annotated[
        Any,
        typer.Option(
            parser=parse_names(CHOICES),
            metavar="ARM,ARM,...",
            help="What to compare, besides AdamW, AdamW after a global norm, and a gradient alone.",
            show_default=",".join(CHOICES),
        ),
    ] = None,
    n_ref: Annotated[
        Any,
        typer.Option(
            parser=parse_counts(MOST_N_REF),
            metavar="N,N,...",
            help="Reference steps in a step of Algorithm 1.",
            show_default=or_quick(*(",".join(map(str, size.n_refs)) for size in (FULL, QUICK))),
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_ROUNDS,
            help="How often each arm is timed. An interval takes six.",
            show_default=or_quick(FULL.rounds, QUICK.rounds),
        ),
    ] = None,
    compilations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_ROUNDS,
            help="How often AdamW and `profit` are compiled, whose compile times are compared; the others once.",
            show_default=or_quick(FULL.compilations, QUICK.compilations),
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for cost.md, cost.png and cost.json.")] = Path("out/cost"),
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run on tiny models, which measures nothing.")] = False,
) -> None:
    """Measure what a step of PROFIT costs, beside what a user would pick instead.

    All arms run in one process and in interleaved rounds, each on parameters and state of its own that every call
    donates.
    """
    begin = time.perf_counter()
    size = QUICK if quick else FULL
    n_refs, names = n_ref or size.n_refs, arms or CHOICES
    plan = Plan(
        arms=chosen(names, n_refs),
        eager_n_refs=n_refs if EAGER in names else (),
        rounds=rounds or size.rounds,
        compilations=compilations or size.compilations,
        recompiled=goal_compilations(n_refs),
        compiler_options=UNOPTIMIZED if quick else {},
    )
    make_folder(output)
    # A program out of the cache would have taken no time to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    about = environment()
    results = _measure(cases or tuple(CASES), plan, quick)
    about |= {
        "quick": quick,
        "n_ref": n_refs,
        "rounds": plan.rounds,
        "compilations": plan.compilations,
        "wall_seconds": time.perf_counter() - begin,
    }
    text = markdown(results, about, "cost.png")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # Before it is written: a full disk loses none of it.
    console.print(text)
    (output / "cost.md").write_text(text, encoding="utf-8")
    plot(output / "cost.png", results, about)
    write_json(output / "cost.json", results, about)
    console.print(f"Table: {output / 'cost.md'}\nPicture: {output / 'cost.png'}\nNumbers: {output / 'cost.json'}")


def _measure(cases: Sequence[str], plan: Plan, quick: bool) -> list[Result]:
    results = []
    with progress_bar() as progress:
        bar = progress.add_task("", total=len(cases) * units(plan))
        for name in cases:
            case = CASES[name](quick)
            measured = measure(case, plan, lambda text, done: progress.update(bar, description=text, advance=done))
            size = sizes(case)
            rows = summarize(measured, size.params)
            results.append(Result(case, size, measured, rows, goals(name, rows)))
    return results


if __name__ == "__main__":
    typer.run(main)
