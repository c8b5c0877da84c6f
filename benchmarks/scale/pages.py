"""The page about what a step holds and sends, made of what was compiled."""

from collections.abc import Mapping
from typing import Any

from benchmarks.commands import markdown_table
from benchmarks.scale import fit
from benchmarks.scale.figures import WAYS, Figures, TooLarge
from benchmarks.scale.models import MODELS
from benchmarks.scale.targets import TARGETS

_TEXT = """\
# What a step holds and sends, on GPUs, TPUs and many devices

Written by `make targets ARGS="--page benchmarks/scale/README.md"` (`python -m benchmarks.scale`), {done} of {planned}
programs; {versions}. For CPUs alone, `python -m benchmarks.scale --targets cpu` needs no compiler of another kind.

JAX compiles ahead of time for devices that are not there. Nothing here was run: memory, kernels, loops, branches and
collectives are those of the optimized programs, and no time is measured but that of compiling. User code is what it
would be on the device. For H100s the compiler cannot try out kernels, and takes its defaults; convolutions are calls of
cuDNN, whose workspaces are not in the figures.

P is the size of all parameters. The transformers have scanned layers that are computed again in the backward pass,
every leaf in as many pieces as there are devices (FSDP by `NamedSharding`), and a sequence of 32 tokens on each device,
unless a title says otherwise: weights are what counts. ResNet-18 and LoRA are whole on every device. Memory is that of
one call on one device. Kernels, loops, branches and collectives are those of a whole step, of which
`profit_transparent` with n_ref 1 takes two calls; fusions in brackets stand in branches. Loops are given as loops /
passes through their bodies: lengths are known beforehand unless there is an asterisk, and a GPU's host waits for none
of them. It waits for every conditional. XLA for CPUs gives no peak: there arguments and temporaries are compared.

XLA estimates operations and bytes for TPUs (they are in [the JSON](programs.json), with the seconds that each program
took to compile), but the time it gives for a v5e is negative. For GPUs compiled ahead of time it estimates nothing, and
leaves the costs of fusions empty, also with its analytical latency estimators switched on. So no time of a step is
modelled here.

What made programs leaner, and what did not, is in [LEAN.md](LEAN.md).

## Does PROFIT fit where AdamW fits?

The smallest number of devices, of those compiled for, on which a step fits, and the share of a device's memory that it
takes at its peak there. What a runtime keeps for itself, such as CUDA's context and NCCL's buffers, is not in it.

{fits}

![Peak over the number of devices](fit.png)

## What is sent, counted on paper

N parameters, B of them in blocks, E in a tied embedding (0 if there is none), L leaves, D devices, G gradients a step.
This is for models in float32, whose numbers have 4 bytes. Gathered and summed bytes are those of the results, on each
device.

| | gradients G | held between steps, each device | gathered | summed | single numbers |
|---|---|---|---|---|---|
| AdamW after a global norm | 1 | 12 N / D | 4 G (N + B) | 4 G (N + E) | at most 4 L, for the norm |
| `profit` | n_ref + 1 | 12 N / D | the same | the same | at most 12 L |
| `profit_transparent` | n_ref + 1 | 20 N / D | the same | the same | at most 12 L |
| `orthogonalize_to_previous` | 1 | 16 N / D | the same | the same | at most 8 L |
| the same with its memory in bfloat16 | 1 | 14 N / D | the same | the same | at most 12 L |

So a step of PROFIT sends what its gradients send, and three numbers a leaf: the local parts of ⟨Δ, g⟩, ⟨Δ, Δ⟩ and ⟨g,
g⟩. The one line knows ⟨Δ, Δ⟩ from the step before, unless it keeps Δ in fewer bits. XLA merges those of all leaves into
one all-reduce, or adds them to one that is there; those of a leaf that it happens to have whole on every device, it
need not send. (A leaf that is sharded over two axes of a mesh has its numbers summed over one axis after the other.)
With ring algorithms a device sends (D - 1) / D of what is gathered, and twice that of what is summed; once, where a
compiler makes reduce-scatters of the sums, which XLA for CPUs does not. What these sum is counted whole in the tables,
though a device keeps a D-th. For accelerators compilers also put several collectives into one, gather narrower copies,
or gather once for two passes; on one v5e chip and one GPU nothing is sent.

The command fails if what a program in float32 for several CPUs holds or sums differs from this by over 1 %, or if it
gathers or sends more.
"""


def page(found: Mapping[Any, Any], planned: int, versions: Mapping[str, str]) -> str:
    """The page of what was compiled so far."""
    about = ", ".join(f"{name} {version}" for name, version in versions.items())
    fits = "\n".join(markdown_table(fit.table(found)))
    lines = [_TEXT.format(done=len(found), planned=planned, versions=about, fits=fits)]
    for target in TARGETS.values():
        for count in sorted({program.devices for program in found if program.target == target.name}):
            lines += [f"## {count} x {target.title}", ""]
            for model in MODELS.values():
                ways = {
                    program.way: figures
                    for program, figures in found.items()
                    if (program.target, program.devices, program.model) == (target.name, count, model.name)
                }
                if ways:
                    lines += _section(model.title, {way: ways[way] for way in WAYS if way in ways}, count, target.name)
    return "\n".join(lines)


def _section(title: str, found: Mapping[str, Figures | TooLarge], count: int, target: str) -> list[str]:
    first = next(iter(found.values()))
    head = ["step", "arguments", "temporaries", "peak", "of AdamW's", "fusions", "kernels", "loops", "conditionals"]
    head += ["collectives", "gathered", "summed", "single numbers"] if count > 1 else []
    base = found.get("adamw")
    # XLA for CPUs has no peak: what is compared is then the sum of arguments and temporaries.
    rows = [_row(WAYS[way].title, each, base, count, no_peak=target == "cpu") for way, each in found.items()]
    sizes = f"P = {_gigabytes(first.parameters)}, {first.leaves} trained leaves."
    return [f"### {title}", "", sizes, "", *markdown_table([head, *rows]), ""]


def _row(title: str, each: Figures | TooLarge, base: Any, count: int, *, no_peak: bool) -> list[str]:
    def memory(size: int) -> str:
        return f"{size / each.parameters:.2f} P = {_gigabytes(size)}"

    if isinstance(each, TooLarge):
        more = f"{each.peak / base.peak:.2f}" if base else ""
        return [title, "", "", f"does not fit: {memory(each.peak)}", more, *[""] * (4 + 4 * (count > 1))]
    total = (lambda x: x.arguments + x.temporaries) if no_peak else (lambda x: x.peak)
    sent = each.collectives
    summed = {
        "all-reduce": sent["all-reduce"].bytes - each.numbers if "all-reduce" in sent else 0,
        # On each device there is one piece of as many as there are devices.
        "reduce-scatter": count * sent["reduce-scatter"].bytes if "reduce-scatter" in sent else 0,
    }
    communication = [
        ", ".join(f"{one.times:,} {kind}" for kind, one in sorted(sent.items())),
        _gigabytes(sent["all-gather"].bytes) if "all-gather" in sent else "0",
        _gigabytes(sum(summed.values())),
        f"{each.numbers:,} B",
    ]
    return [
        title,
        memory(each.arguments),
        memory(each.temporaries),
        "" if no_peak else memory(each.peak),
        f"{total(each) / total(base):.2f}" if base and (not no_peak or isinstance(base, Figures)) else "",
        f"{each.fusions:,}" + (f" ({each.branch_fusions:,})" if each.branch_fusions else ""),
        f"{each.kernels:,}",
        f"{each.loops} / {each.passes}" + "*" * bool(each.unknown_loops),
        str(each.conditionals),
        *(communication if count > 1 else []),
    ]


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
