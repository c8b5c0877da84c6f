"""The page about devices that are not here, made of what was compiled for them."""

from collections.abc import Mapping
from typing import Any

from benchmarks.commands import markdown_table
from benchmarks.scale import fit
from benchmarks.scale.figures import WAYS, Figures, TooLarge
from benchmarks.scale.models import MODELS
from benchmarks.scale.targets import TARGETS

_TEXT = """\
# Steps compiled for GPUs and TPUs

Written by `make targets` (`python -m benchmarks.scale.matrix`), {done} of {planned} programs; {versions}.

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

XLA estimates operations and bytes for TPUs (they are in the JSON), but the time it gives for a v5e is negative. For
GPUs compiled ahead of time it estimates nothing, and leaves the costs of fusions empty, also with its analytical
latency estimators switched on. So no time of a step is modelled here.

What made programs leaner, and what did not, is in [LEAN.md](LEAN.md).

## Does PROFIT fit where AdamW fits?

The smallest number of devices, of those compiled for, on which a step fits, and the share of a device's memory that it
takes at its peak there. What a runtime keeps for itself, such as CUDA's context and NCCL's buffers, is not in it.

{fits}

![Peak over the number of devices]({picture})
"""


def page(found: Mapping[Any, Any], planned: int, versions: Mapping[str, str], picture: str = "TARGETS.png") -> str:
    """The page of what was compiled so far."""
    about = ", ".join(f"{name} {version}" for name, version in versions.items())
    fits = "\n".join(markdown_table(fit.table(found)))
    lines = [_TEXT.format(done=len(found), planned=planned, versions=about, fits=fits, picture=picture)]
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
    head += ["collectives", "gathered", "summed"] if count > 1 else []
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
        return [title, "", "", f"does not fit: {memory(each.peak)}", more, *[""] * (4 + 3 * (count > 1))]
    total = (lambda x: x.arguments + x.temporaries) if no_peak else (lambda x: x.peak)
    sent = each.collectives
    communication = [
        ", ".join(f"{one.times:,} {kind}" for kind, one in sorted(sent.items())),
        _gigabytes(sent["all-gather"].bytes) if "all-gather" in sent else "0",
        _gigabytes(sum(sent[kind].bytes for kind in ("all-reduce", "reduce-scatter") if kind in sent)),
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
