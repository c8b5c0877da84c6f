"""Stored bounds of programs for other devices, and the command that stores them anew.

    python -m tests.targets.bounds

What gets worse for a reason is stored anew with that reason in the commit; what gets better is stored to stay so.
"""

import json
from pathlib import Path

import jax

from benchmarks.scale.figures import WAYS, measure
from benchmarks.scale.models import TINY
from benchmarks.scale.targets import TARGETS

PATH = Path(__file__).with_name("bounds.json")
# Scanned layers on one device and on several, and a model without loops and with frozen leaves.
WAYS_HELD = {
    ("h100", 1, "tiny"): (
        *("norm", "profit-1", "compact-1", "subtract-1", "profit-3", "transparent-1"),
        *("previous", "previous-compact"),
    ),
    ("h100", 8, "tiny"): ("norm", "profit-1", "compact-1", "previous"),
    ("h100", 1, "tiny-lora"): ("norm", "profit-1", "transparent-1", "previous"),
    ("v5e", 8, "tiny"): ("norm", "profit-1", "previous"),
}
CASES = [(*where, way) for where, ways in WAYS_HELD.items() for way in ways]
# What must not grow, in the words of the message.
WORDS = {
    "peak": "bytes of memory at the peak",
    "kernels": "kernels a step",
    "loops": "loops",
    "passes": "passes through loops",
    "conditionals": "conditionals, for each of which a GPU's host waits",
    "unknown_loops": "loops of unknown length",
    "collectives": "collectives a step",
    "sent": "bytes that collectives return",
}


def found(target, count, model, way):
    """The figures of a program that are held."""
    figures = measure(TARGETS[target], count, TINY[model], WAYS[way])
    sent = figures.collectives.values()
    fields = {name: getattr(figures, name) for name in list(WORDS)[:6]}
    return fields | {"collectives": sum(each.times for each in sent), "sent": sum(each.bytes for each in sent)}


def key(target, count, model, way):
    """What a program is called in the file."""
    return f"{count} x {target}, {model}, {way}"


def main():
    jax.config.update("jax_platforms", "cpu")
    bounds = {}
    for case in CASES:
        bounds[key(*case)] = found(*case)
        print(key(*case), bounds[key(*case)])
    PATH.write_text(json.dumps(bounds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
