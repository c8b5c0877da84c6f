"""The command that compiles steps for many devices, here or not, and writes down what each device would need."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from benchmarks.commands import ending_with, in_a_sentence, make_folder, parse_counts, parse_names, progress_bar
from benchmarks.scale import costs, fit, pages
from benchmarks.scale.figures import WAYS, measure
from benchmarks.scale.models import MODELS
from benchmarks.scale.plan import PLAN, planned
from benchmarks.scale.store import Store
from benchmarks.scale.targets import TARGETS
from profit_optax.compare.store import plain


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that a compiler's own code writes where it finds no such device."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@in_a_sentence
def main(
    targets: Annotated[
        Any, typer.Option(parser=parse_names(TARGETS), metavar="NAMES", help="Kinds of device.", show_default="all")
    ] = None,
    counts: Annotated[
        Any, typer.Option(parser=parse_counts(10**6), metavar="COUNTS", help="Of devices.", show_default="all")
    ] = None,
    models: Annotated[
        Any, typer.Option(parser=parse_names(MODELS), metavar="NAMES", help="What is trained.", show_default="all")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of what is compiled; a killed run goes on from it.")] = Path(
        "out/targets"
    ),
    page: Annotated[
        Path | None, typer.Option(help="The page; its picture and its JSON lie beside it.", show_default="in --output")
    ] = None,
) -> None:
    """Compile steps for many devices, GPUs and TPUs that need not be there, and write down what each would need."""
    make_folder(output)
    page = page or output / "README.md"
    make_folder(page.parent)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(PLAN["cpu"]))
    store = Store(output)
    wanted = list(planned(targets or (), counts or (), models or ()))
    missing = [program for program in wanted if store.get(program) is None]
    typer.echo(f"{len(wanted)} programs, {len(missing)} of them to be compiled.")
    with ending_with(ModuleNotFoundError), progress_bar() as bar:
        task = bar.add_task("compiling", total=len(missing))
        for program in missing:
            bar.update(task, description=" ".join(map(str, program)))
            with _quiet() if program.target == "v5e" else contextlib.nullcontext():
                figures = measure(TARGETS[program.target], program.devices, MODELS[program.model], WAYS[program.way])
            store.put(program, figures)
            bar.advance(task)
    everything = list(planned((), (), ()))
    found = {program: kept for program in everything if (kept := store.get(program)) is not None}
    fit.picture(found, page.with_name("fit.png"))
    page.write_text(pages.page(found, len(everything), store.about), encoding="utf-8")
    rows = [{"program": program, "figures": kept} for program, kept in found.items()]
    record = plain({"versions": store.about, "programs": rows})
    page.with_name("programs.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"Page: {page}")
    if wrong := costs.not_as_on_paper({program: found[program] for program in wanted}):
        for problem in wrong:
            typer.echo(f"Error: {problem}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
