"""The Markdown report: a table for each task, and how often the paper's pattern is found."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.commands import markdown_table
from benchmarks.forgetting.experiments.warmup.arms import methods, warm_steps
from benchmarks.forgetting.experiments.warmup.summary import Row
from benchmarks.forgetting.report import headline
from profit_optax.compare.formats import plus_minus, short_rate


def markdown(rows: Sequence[Row], starts: Mapping[str, float], about: dict[str, Any]) -> str:
    """The whole report.

    Args:
      rows: of all tasks.
      starts: the new accuracy of the old models on each task.
      about: numbers of steps and seeds, the command, versions and machine.
    """
    lines = ["# Warm-up outside of proximity (Table 3)", "", *headline(about), "", _explained(about)]
    for task, start in starts.items():
        lines += ["", f"## {task} (the old models get {100 * start:.1f} %)", ""]
        lines += _table([row for row in rows if row.task == task])
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences(rows)), ""])


def sentences(rows: Sequence[Row]) -> list[str]:
    """Where PROFIT fails as it is, where warmed up, and how often the paper's pattern is found."""
    lines = []
    shown = {row.method for row in rows}
    for naive, warm in (methods(1)[i : i + 2] for i in (1, 3)):
        if not {naive.name, warm.name} <= shown:
            continue
        fails = {(row.task, row.rate, row.method): row.fails for row in rows}
        places = [(task, rate) for task, rate, method in fails if method == naive.name]
        alone = [place for place in places if fails[*place, naive.name]]
        both = [place for place in alone if fails[*place, warm.name]]
        only_warm = [place for place in places if fails[*place, warm.name] and place not in alone]
        lines.append(
            f"{naive.name} gets less than half of AdamW's new accuracy in {len(alone)} of {len(places)} cases"
            f"{_places(alone)}; in {len(both)} of these also when warmed up{_places(both)}; warmed up alone, in"
            f" {len(only_warm)}{_places(only_warm)}."
        )
    return lines


def _explained(about: Mapping[str, Any]) -> str:
    return (
        "Accuracy in %, means over {seeds} seeds ± 95 % Student-t intervals, from models converged on scikit-learn's"
        " digits; batch {batch}, ratio {ratio:g}, constant rates. *Equal steps*: after {steps} main steps; *equal"
        " gradients*: after {gradients} gradients (a step of PROFIT counts as two, in the warm-up too). Warmed up:"
        " AdamW alone for the first {warm} steps.".format(
            **about, gradients=2 * about["steps"], warm=warm_steps(about["steps"])
        )
    )


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        ["rate", "method", "new, equal steps", "minus AdamW", "new, equal gradients", "old, equal steps", "cosine"]
    ]
    for rate in dict.fromkeys(row.rate for row in rows):
        for row in (row for row in rows if row.rate == rate):
            lines.append(
                [
                    short_rate(rate),
                    row.method,
                    plus_minus(row.new, 100) + (" (fails)" if row.fails else ""),
                    plus_minus(row.difference, 100, "+"),
                    plus_minus(row.new_at_gradients, 100),
                    plus_minus(row.old, 100),
                    "" if row.cosine is None else f"{row.cosine:+.2f}",
                ]
            )
    return markdown_table(lines)


def _places(places: Sequence[tuple[str, float]]) -> str:
    rates: dict[str, list[str]] = {}
    for task, rate in places:
        rates.setdefault(task, []).append(short_rate(rate))
    named = "; ".join(f"{task} at {', '.join(at)}" for task, at in rates.items())
    return f" ({named})" if named else ""
