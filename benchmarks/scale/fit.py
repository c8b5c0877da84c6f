"""From how many devices on a step fits, as a table and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.scale.models import MODELS
from benchmarks.scale.targets import TARGETS

# What is shown, in the order of the legend.
SHOWN = {
    "adamw": ("AdamW", "tab:gray", "o"),
    "profit-1": ("profit, n_ref 1", "tab:red", "s"),
    "compact-1": ("the same, Δ in bfloat16", "tab:orange", "^"),
    "subtract-1": ("the same, subtract", "tab:green", "v"),
    "previous": ("orthogonalize_to_previous", "tab:blue", "D"),
}
PICTURED = ("1b", "1b-bf16", "8b", "8b-bf16")


def table(found: Mapping[Any, Any]) -> list[list[str]]:
    """For each kind of device and model, the smallest number of devices compiled for that each way fits on."""
    lines = [["device", "model", *(label for label, _, _ in SHOWN.values())]]
    for target in (target for target in TARGETS.values() if target.memory):
        for model in MODELS.values():
            peaks = {way: _peaks(found, target.name, model.name, way) for way in SHOWN}
            if any(peaks.values()):
                cells = [_first(by_count, target.memory or 0) for by_count in peaks.values()]
                lines.append([target.title, model.title, *cells])
    return lines


def _peaks(found: Mapping[Any, Any], target: str, model: str, way: str) -> dict[int, int]:
    return {
        program.devices: figures.peak
        for program, figures in found.items()
        if (program.target, program.model, program.way) == (target, model, way)
    }


def _first(by_count: Mapping[int, int], memory: int) -> str:
    fitting = [count for count, peak in sorted(by_count.items()) if peak <= memory]
    if not by_count:
        return "–"
    return f"{fitting[0]} ({by_count[fitting[0]] / memory:.0%})" if fitting else f"more than {max(by_count)}"


def picture(found: Mapping[Any, Any], path: Path) -> None:
    """The memory at the peak over the number of devices, beside what a device has."""
    kinds = [target for target in TARGETS.values() if target.memory]
    figure, axes = plt.subplots(
        len(kinds), len(PICTURED), figsize=(3.1 * len(PICTURED), 3.2 * len(kinds)), sharex=True, sharey=True
    )
    for row, target in zip(axes, kinds, strict=True):
        for axis, name in zip(row, PICTURED, strict=True):
            _panel(axis, found, target.name, name, target.memory or 1)
            axis.set_title(f"{MODELS[name].title}\non {target.title}", fontsize=9)
        row[0].set_ylabel("peak, share of a device's memory")
    for axis in axes[-1]:
        axis.set_xlabel("devices")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(SHOWN), fontsize=9, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis: Any, found: Mapping[Any, Any], target: str, model: str, memory: int) -> None:
    for way, (label, color, marker) in SHOWN.items():
        by_count = sorted(_peaks(found, target, model, way).items())
        shares = [peak / memory for _, peak in by_count]
        counts = [count for count, _ in by_count]
        axis.plot(counts, shares, label=label, color=color, marker=marker, markersize=4, linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlim(0.7, 366)
    axis.minorticks_off()
    axis.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    axis.axhline(1, color="black", linewidth=0.8)
    axis.axhspan(1, 100, color="black", alpha=0.06)
    axis.set_ylim(0.005, 20)
    axis.set_yticks(
        [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10], ["1 %", "5 %", "10 %", "25 %", "50 %", "100 %", "×2", "×5", "×10"]
    )
    axis.grid(visible=True, which="major", linewidth=0.3)
