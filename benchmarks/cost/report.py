"""The Markdown table, the picture and the JSON file of what was measured."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.commands import markdown_table, plain, versions
from benchmarks.cost.cases import Case, Sizes
from benchmarks.cost.measure import Measured
from benchmarks.cost.summary import Goal, Interval, Row

# Okabe and Ito's colours, which colour-blind readers can tell apart.
_OURS, _OTHERS, _BOUND = "#0072B2", "#E69F00", "#D55E00"
_FAMILIES_OF_OURS = ("profit", "subtract", "compact", "transparent", "one-line")

_COLUMNS = """
Step times in milliseconds; medians over rounds, in brackets the 95 % interval from order statistics. *floor*: a step of
AdamW after a global norm (`adamw-norm`) and as many gradients more (`gradient`) as the arm takes, timed as programs of
their own in the same round. *line*: Algorithm 1 written line by line in JAX. *compile*: tracing, lowering and XLA, from
empty caches. *temporaries*, *beyond norm* (temporaries beyond `adamw-norm`), *arguments* (parameters, state, batches)
and *faulted in* (memory newly got from the system during a step) are in units of P. XLA's *GFLOP* and *GB* count the
body of a loop once, however often it runs; a step of `transparent` calls its program n_ref + 1 times.
""".strip()


class Result(NamedTuple):
    """All that is known of one case.

    Attributes:
      case: what was trained.
      sizes: P and its like.
      measured: as it was measured.
      rows: the same, summarised.
      goals: what was asked for.
    """

    case: Case
    sizes: Sizes
    measured: Sequence[Measured]
    rows: Sequence[Row]
    goals: Sequence[Goal]


def environment() -> dict[str, Any]:
    """Machine, versions and date, without which times mean nothing."""
    packages = ("profit-optax", "jax", "jaxlib", "optax", "flax", "torch")
    device = jax.devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} x {_processor()}",
        "device": f"{device.platform}: {device.device_kind}",
        "versions": versions(packages),
        "precision": f"float32, matmul precision {jax.config.values['jax_default_matmul_precision'] or 'default'}",
    }


def markdown(results: Sequence[Result], about: dict[str, Any], picture: str) -> str:
    """The whole report."""
    lines = [
        "# What a step costs",
        "",
        *headline(about),
        "",
        f"![time over the floor, and temporaries]({picture})",
        "",
        "## Goals",
        "",
        *goal_table([goal for result in results for goal in result.goals]),
    ]
    for result in results:
        lines += ["", *_case_section(result)]
    return "\n".join([*lines, "", _COLUMNS, ""])


def headline(about: dict[str, Any]) -> list[str]:
    """Where, when and with what it was measured; and whether it means anything."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    line = (
        f"{about['date']}; {about['device']}; {about['machine']}; {versions}; {about['precision']};"
        f" {about['rounds']} rounds, {about['wall_seconds']:.0f} s."
    )
    note = "**A quick run shows that everything works. Its numbers mean nothing.**"
    return [note, "", line] if about["quick"] else [line]


def goal_table(goals: Sequence[Goal]) -> list[str]:
    """A line for each goal of each arm, a column for each case."""
    cases = list(dict.fromkeys(goal.case for goal in goals))
    found = {(goal.goal, goal.arm, goal.case): goal for goal in goals}
    lines = [["goal", "arm", *cases]]
    for goal, arm in dict.fromkeys((goal.goal, goal.arm) for goal in goals):
        cells = [found.get((goal, arm, case)) for case in cases]
        lines.append([goal, arm, *(_verdict(cell) if cell else "" for cell in cells)])
    return markdown_table(lines)


def write_json(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """All that was measured, round by round, and what follows from it."""
    cases = [
        {
            "case": result.case.name,
            "title": result.case.title,
            "batch": result.case.batch,
            "bytes": result.sizes,
            "arms": result.rows,
            "measured": result.measured,
        }
        for result in results
    ]
    goals = [goal for result in results for goal in result.goals]
    content = plain({**about, "goals": goals, "cases": cases})
    path.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def plot(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Time over the floor, and temporaries in P, of every arm in every case, as a PNG."""
    arms = list(dict.fromkeys(row.arm for result in results for row in result.rows if row.arm != "gradient"))
    size = (2.2 + 2.6 * len(results), 2.2 + 0.42 * len(arms))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(2, len(results), sharey=True, squeeze=False)
    for result, (upper, lower) in zip(results, panels.T, strict=True):
        rows = {row.arm: row for row in result.rows}
        for place, arm in enumerate(arms):
            if arm in rows:
                _draw(upper, lower, place, rows[arm])
        upper.axvline(1, color="0.3", linewidth=1)
        for bound in {goal.bound for goal in result.goals if goal.goal == "time / floor"}:
            upper.axvline(bound, color=_BOUND, linewidth=1, linestyle="--")
        upper.set_title(f"{result.case.name}\nP = {_mega(result.sizes.params)} MB", fontsize=10)
        upper.set_xlabel("time / floor")
        lower.set_xlabel("temporary memory / P")
        lower.set_xlim(0, 1.08 * max((row.temporaries or 0 for row in result.rows), default=1) or 1)
    for panel in panels.flat:
        panel.set_yticks(range(len(arms)), arms)
        panel.grid(axis="x", alpha=0.25)
    panels[0, 0].set_ylim(len(arms) - 0.5, -0.5)
    ours, others = (Line2D([], [], linestyle="none", **_style(arm)) for arm in ("profit", ""))
    goal = Line2D([], [], color=_BOUND, linestyle="--")
    labels = ("this package", "others", "goal")
    figure.legend((ours, others, goal), labels, loc="outside lower center", ncols=3, frameon=False)
    title = "A quick run: these numbers mean nothing" if about["quick"] else "What a step costs"
    figure.suptitle(f"{title} ({about['device']}, jax {about['versions']['jax']}, {about['date'][:10]})")
    figure.savefig(path, dpi=120)


def show(value: Interval | float | None, form: str = ".2f") -> str:
    """A number with its interval, as far as there are any."""
    if value is None:
        return ""
    if not isinstance(value, Interval):
        return format(value, form)
    if value.low is None or value.high is None or value.low == value.high:
        return format(value.median, form)
    return f"{value.median:{form}} [{value.low:{form}}, {value.high:{form}}]"


def _case_section(result: Result) -> list[str]:
    sizes = result.sizes
    trained = "" if sizes.trained == sizes.params else f", of which {_mega(sizes.trained)} MB are trained"
    head = ["arm", "grads", "ms", "/ floor", "/ line", "compile s", "/ AdamW's"]
    head += ["temporaries", "beyond norm", "arguments", "faulted in", "GFLOP", "GB"]
    return [
        f"## {result.case.name}: {result.case.title}",
        "",
        f"P = {_mega(sizes.params)} MB of parameters{trained}; batch of {result.case.batch};"
        f" {_mega(sizes.activations)} MB of activations.",
        "",
        *markdown_table([head, *(_cells(row) for row in result.rows)]),
    ]


def _cells(row: Row) -> list[str]:
    if row.absent:
        return [row.arm, str(row.gradients), f"absent: {row.absent}", *[""] * 10]
    return [
        row.arm,
        str(row.gradients),
        show(row.milliseconds, ".1f"),
        show(row.over_floor),
        show(row.over_line),
        show(row.compile_seconds),
        show(row.compile_over_adamw),
        show(row.temporaries),
        show(row.extra_temporaries, "+.2f"),
        show(row.arguments),
        show(row.fresh),
        show(row.flops and row.flops / 1e9, ".3g"),
        show(row.bytes_accessed and row.bytes_accessed / 1e9, ".3g"),
    ]


def _verdict(goal: Goal) -> str:
    return f"{goal.verdict}: {show(goal.value)} (≤ {goal.bound:g})"


def _draw(upper: Axes, lower: Axes, place: int, row: Row) -> None:
    style = _style(row.arm)
    if row.over_floor:
        median, low, high = row.over_floor
        upper.plot(median, place, **style)
        upper.plot([low or median, high or median], [place, place], color=style["color"], linewidth=1.5)
    if row.temporaries is not None:
        lower.plot(row.temporaries, place, **style)
    if row.absent:
        upper.text(0.5, place, "absent", transform=upper.get_yaxis_transform(), ha="center", va="center", fontsize=8)


def _style(arm: str) -> dict[str, Any]:
    ours = arm.startswith(_FAMILIES_OF_OURS)
    return {"color": _OURS if ours else _OTHERS, "marker": "o" if ours else "s", "markersize": 5}


def _mega(size: int) -> str:
    return f"{size / 1e6:.3g}"


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
