"""The command that writes the page: compiles a step of every form at 1 B and 8 B parameters, and allocates nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import jax
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.scale.costs import CASES, Case, Compiled, compile_case, differences, on_paper, parameters
from benchmarks.scale.models import BILLION, EIGHT
from benchmarks.scale.transformer import Config

MODELS = {"1 B": BILLION, "8 B": EIGHT}

_PAGE = Path(__file__).with_name("README.md")
_TEXT = """\
# Memory and communication of a step

Written by `python -m benchmarks.scale`: {about}. Programs are compiled
from shapes, and nothing is allocated or run. The command fails if what a program holds, gathers or sums differs from
the formulas below by more than 1 %; temporaries are read off the programs, with no formula to compare them with.

A decoder-only transformer in float32, every parameter and every leaf of the state in as many pieces as there are
devices (FSDP by `NamedSharding`). Each device has one sequence of {length} tokens: activations are small, and weights
are what counts. Blocks are scanned, gathered one at a time and computed again in the backward pass. All of it is in
float32, what is gathered too: halve the gathered bytes where weights are cast to bfloat16 before.

## On paper

N parameters, B of them in blocks, E in a tied embedding (0 if there is none), L leaves, D devices, G gradients a step.
Numbers have 4 bytes. Gathered and summed bytes are those of the results, on each device.

| | gradients G | held between steps, each device | gathered | summed | single numbers |
|---|---|---|---|---|---|
| AdamW after a global norm | 1 | 12 N / D | 4 G (N + B) | 4 G (N + E) | at most 4 L, for the norm |
| closure | n_ref + 1 | 12 N / D | the same | the same | at most 12 L |
| transparent | n_ref + 1 | 20 N / D | the same | the same | at most 12 L |
| one line | 1 | 16 N / D | the same | the same | at most 8 L |

So a step of PROFIT sends what its gradients send, and three numbers a leaf: the local parts of ⟨Δ, g⟩, ⟨Δ, Δ⟩ and ⟨g,
g⟩. XLA merges those of all leaves into one all-reduce, or adds them to one that is there; those of a leaf that it
happens to have whole on every device, it need not send. The one line knows ⟨Δ, Δ⟩ from the step before. The last
column counts the collectives that a step runs, and in brackets those of nothing but single numbers. (A leaf that is
sharded over two axes of a mesh has its numbers summed over one axis after the other.) With ring algorithms a device
sends (D - 1) / D of what is gathered, and
twice that of what is summed; once, where a compiler makes reduce-scatters of the sums, which XLA for CPU does not.

Temporaries are what a call needs besides while it runs: gradients, activations and gathered weights. PROFIT's own are
Δ and θ + Δ, which are alive while further gradients are taken: 8 bytes a parameter in D pieces (θ' alone, 4 bytes, with
`displacement="subtract"`). A single reference step has no loop, and two passes in one computation share
less memory; so do two AdamW steps in one program, the second line of the tables.
"""


def page(models: Mapping[str, Config], devices: int, length: int) -> tuple[str, list[str]]:
    """The page, and in what the programs are not what it says."""
    about = f"JAX {jax.__version__}, XLA for {jax.default_backend().upper()}, {devices} simulated devices"
    lines, wrong = [_TEXT.format(about=about, length=length)], []
    for name, config in models.items():
        found = {}
        for case in track(CASES, description=name, console=Console(stderr=True)):
            found[case] = compile_case(case, config, devices, length)
            expected = on_paper(case, config, devices)
            wrong += [f"{name}, {case.name}: {problem}" for problem in differences(found[case].cost, expected)]
        lines += _section(name, config, found, devices)
    return "\n".join(lines), wrong


def _section(name: str, config: Config, found: dict[Case, Compiled], devices: int) -> list[str]:
    size = parameters(config)
    sizes = ", ".join(
        f"{key} {value}" for key, value in config._asdict().items() if isinstance(value, int) and key != "tied"
    )
    bytes_for_each = lambda x: f"{x / size:.2f}"  # noqa: E731
    gigabytes = lambda x: f"{x / 1e9:.2f} GB"  # noqa: E731
    rows = [
        (
            case.name,
            f"{bytes_for_each(cost.held * devices)} / D = {gigabytes(cost.held)}",
            gigabytes(temporaries),
            f"{bytes_for_each(cost.gathered)} = {gigabytes(cost.gathered)}",
            f"{bytes_for_each(cost.reduced)} = {gigabytes(cost.reduced)}",
            f"{cost.numbers:.0f} B",
            f"{unusual} B",
            f"{operations:,} ({scalars})",
        )
        for case, (cost, temporaries, unusual, operations, scalars) in found.items()
    ]
    ends = "tied embedding" if config.tied else "untied embedding"
    return [
        f"## {name}: {size:,} parameters in {len(config.shapes())} leaves",
        "",
        f"{sizes}; {ends}. Bytes for each parameter of a whole step; D = {devices}.",
        "",
        "| step | held between steps | temporaries of a call | gathered | summed | single numbers | in that branch"
        " | collectives |",
        "|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def main(
    devices: Annotated[int, typer.Option(min=2, help="How many devices to compile for.")] = 64,
    length: Annotated[int, typer.Option(min=2, help="Tokens on each device.")] = 32,
    output: Annotated[Path, typer.Option(help="The page.")] = _PAGE,
) -> None:
    """Write down what a step of every form holds and sends under FSDP, and compare it with compiled programs."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    text, wrong = page(MODELS, devices, length)
    output.write_text(text, encoding="utf-8")
    typer.echo(f"Page: {output}")
    for problem in wrong:
        typer.echo(f"Error: {problem}", err=True)
    if wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
