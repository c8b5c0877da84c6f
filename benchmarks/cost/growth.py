"""How costs grow: with the parameters, with the leaves that they come in, and with n_ref.

Each curve is drawn beside the line that it should follow. A program that is expected to take XLA longer than a limit
is traced only: on the way to thousands of leaves XLA's time grows faster than their number.
"""

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rich.console import Console

from benchmarks.commands import (
    MOST_N_REF,
    MOST_ROUNDS,
    in_a_sentence,
    make_folder,
    markdown_table,
    parse_counts,
    progress_bar,
)
from benchmarks.cost.cases import Case, tree_bytes
from benchmarks.cost.cases.mlp import perceptron
from benchmarks.cost.catalogue import by_name
from benchmarks.cost.measure import UNOPTIMIZED, program, time_steps
from benchmarks.cost.report import environment, headline, show
from benchmarks.cost.stepper import lower_step, prepare
from benchmarks.cost.summary import Interval, exact, interval
from profit_optax.compare.store import plain

_BATCH = 8
_LEAF = 16


class Sizes(NamedTuple):
    """How far each curve goes, and the layers of the MLP in it: the defaults depend on --quick."""

    parameters: tuple[int, ...]
    leaves: tuple[int, ...]
    n_refs: tuple[int, ...]
    layers: int
    width: int
    rounds: int


FULL = Sizes(
    parameters=(1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000),
    leaves=(10, 30, 100, 300, 1000, 5000),
    n_refs=(1, 2, 4, 8, 16),
    layers=8,
    width=1024,
    rounds=7,
)
QUICK = Sizes(parameters=(1_000, 10_000), leaves=(3, 10), n_refs=(1, 2), layers=2, width=16, rounds=2)


class Point(NamedTuple):
    """One arm at one size. What was not measured, since it was only traced, is None.

    Attributes:
      milliseconds: of a step.
      trace_seconds: for tracing and lowering.
      compile_seconds: for XLA.
      temporaries: bytes of temporary memory over those of the parameters.
    """

    milliseconds: Interval | None
    trace_seconds: float
    compile_seconds: float | None
    temporaries: float | None


class Sweep(NamedTuple):
    """All arms over all sizes of one kind.

    Attributes:
      x: what grows.
      sizes: how large it was.
      points: for each size a point of each arm. An arm that has n_ref in its name goes by its family.
    """

    x: str
    sizes: Sequence[int]
    points: Sequence[dict[str, Point]]


class Curve(NamedTuple):
    """What grows, and the line that it should follow.

    Attributes:
      title: what it is, for readers.
      x: what it grows with.
      sizes: along the axis.
      values: of each arm, at each size; None where there is none.
      line: what the line is, for readers.
      expected: the line, at each size.
    """

    title: str
    x: str
    sizes: Sequence[int]
    values: dict[str, list[Interval | None]]
    line: str
    expected: list[float | None]


_CaseOf = Callable[[int], Case]
_ArmsOf = Callable[[int], Sequence[str]]
_OnProgress = Callable[[str, int], None]


def scattered(leaves: int) -> Case:
    """Next to no arithmetic on that many small leaves: what is left is what every leaf costs."""

    def loss(params: chex.ArrayTree, frozen: chex.ArrayTree, batch: jax.Array) -> jax.Array:
        del frozen
        return sum((jnp.mean((leaf * batch) ** 2) for leaf in params.values()), jnp.zeros(())) / leaves

    return Case(
        name="scattered",
        title=f"{leaves} leaves of {_LEAF}",
        params={f"{leaf:04d}": jnp.ones(_LEAF) for leaf in range(leaves)},
        frozen={},
        loss=loss,
        batches=lambda n: jax.random.normal(jax.random.key(1), (n, _LEAF)),
        batch="1 example",
    )


def sweep(
    x: str,
    sizes: Sequence[int],
    case_of: _CaseOf,
    arms_of: _ArmsOf,
    rounds: int,
    limit: float,
    compiler_options: dict[str, Any],
    on_progress: _OnProgress,
) -> Sweep:
    """Measure the arms at every size.

    Args:
      x: what grows.
      sizes: how large it becomes.
      case_of: the case of a size.
      arms_of: names of the arms at a size.
      rounds: how often steps are timed.
      limit: seconds that XLA may be expected to take.
      compiler_options: for XLA.
      on_progress: is told what is going on, and how many programs are done with since last time.
    """
    points: list[dict[str, Point]] = []
    expected: dict[str, float] = {}
    for size, following in zip(sizes, [*sizes[1:], sizes[-1]], strict=True):
        case = case_of(size)
        found: dict[str, Point] = {}
        steppers = {}
        for name in arms_of(size):
            on_progress(f"{size} {x}: {name}", 0)
            family, arm = _family(name), by_name(name)
            lowering = lower_step(case, arm)
            found[family] = Point(None, lowering.seconds, None, None)
            if expected.get(family, 0.0) <= limit:
                start = time.perf_counter()
                executable = lowering.lowered.compile(compiler_options)
                seconds = time.perf_counter() - start
                # Quadratic, as it was seen to grow with the leaves.
                expected[family] = seconds * (following / size) ** 2
                temporaries = program(executable).temporary_bytes / tree_bytes(case.params)
                found[family] = Point(None, lowering.seconds, seconds, temporaries)
                steppers[family] = prepare(case, arm, executable)
            on_progress(f"{size} {x}: {name}", 1)
        for family, times in time_steps(steppers, rounds).items():
            found[family] = found[family]._replace(milliseconds=interval(1e3 * times.seconds))
        points.append(found)
    return Sweep(x, sizes, points)


def curves(parameters: Sweep, leaves: Sweep, n_refs: Sweep) -> list[Curve]:
    """What to look at in the three sweeps."""
    floor, more = "floor: AdamW after a norm, and n_ref gradients", "AdamW's after a norm, and P"
    least = n_refs.points[0]["profit"].compile_seconds
    return [
        _curve("step (ms)", parameters, "milliseconds", floor, lambda _, points: _floor(1, points)),
        _curve("temporaries (P)", parameters, "temporaries", more, lambda _, points: _one_more(points)),
        _curve(
            "tracing (s)",
            leaves,
            "trace_seconds",
            "2.2 x AdamW's",
            lambda _, points: _adamw(2.2, "trace_seconds", points),
        ),
        _curve(
            "XLA (s)",
            leaves,
            "compile_seconds",
            "2.2 x AdamW's",
            lambda _, points: _adamw(2.2, "compile_seconds", points),
        ),
        _curve(
            "dispatch (ms)", leaves, "milliseconds", "2 x AdamW's", lambda _, points: _adamw(2, "milliseconds", points)
        ),
        _curve("step (ms)", n_refs, "milliseconds", floor, _floor),
        _curve("temporaries (P)", n_refs, "temporaries", more, lambda _, points: _one_more(points)),
        _curve("XLA (s)", n_refs, "compile_seconds", "flat", lambda *_: least),
    ]


_Points = dict[str, Point]


def _curve(title: str, sweep: Sweep, field: str, line: str, expected: Callable[[int, _Points], float | None]) -> Curve:
    families = list(dict.fromkeys(family for points in sweep.points for family in points))
    return Curve(
        title=title,
        x=sweep.x,
        sizes=sweep.sizes,
        values={family: [_value(points[family], field) for points in sweep.points] for family in families},
        line=line,
        expected=[expected(size, points) for size, points in zip(sweep.sizes, sweep.points, strict=True)],
    )


def _value(point: Point, field: str) -> Interval | None:
    value = getattr(point, field)
    return value if value is None or isinstance(value, Interval) else exact(value)


def _floor(n_ref: int, points: _Points) -> float | None:
    norm, gradient = points["adamw-norm"].milliseconds, points["gradient"].milliseconds
    return norm.median + n_ref * gradient.median if norm and gradient else None


def _one_more(points: _Points) -> float | None:
    temporaries = points["adamw-norm"].temporaries
    return None if temporaries is None else temporaries + 1


def _adamw(factor: float, field: str, points: _Points) -> float | None:
    value = _value(points["adamw"], field)
    return factor * value.median if value else None


def markdown(found: Sequence[Curve], about: dict[str, Any]) -> str:
    """A table for each curve."""
    lines = ["# How costs grow", "", *headline(about), "", "![curves](growth.png)"]
    for curve in found:
        arms = list(curve.values)
        rows = [
            [f"{size:,}", *(show(curve.values[arm][i], ".3g") for arm in arms), show(curve.expected[i], ".3g")]
            for i, size in enumerate(curve.sizes)
        ]
        lines += ["", f"## {curve.title} with {curve.x}", "", *markdown_table([[curve.x, *arms, curve.line], *rows])]
    return "\n".join([*lines, "", _NOTE, ""])


_NOTE = f"""
With parameters and with n_ref: an MLP on {_BATCH} examples. With leaves: {_LEAF} elements in each, and next to no
arithmetic. `profit` has n_ref 1 where it is not what grows. Medians over rounds, in brackets the 95 %
interval. An empty place was not measured, because XLA was expected to take too long. P: bytes of the parameters.
""".strip()


def plot(path: Path, found: Sequence[Curve], about: dict[str, Any]) -> None:
    """A panel for each curve, as a PNG."""
    figure = Figure(figsize=(17, 7.5), layout="constrained")
    panels = figure.subplots(2, -(-len(found) // 2), squeeze=False)
    for panel, curve in zip(panels.flat, found, strict=False):
        _draw(panel, curve)
    title = "A quick run: these numbers mean nothing" if about["quick"] else "How costs grow"
    figure.suptitle(f"{title} ({about['device']}, jax {about['versions']['jax']}, {about['date'][:10]})")
    figure.savefig(path, dpi=110)


# Okabe and Ito's colours, which colour-blind readers can tell apart.
_STYLES = {
    "profit": ("#0072B2", "o"),
    "one-line": ("#009E73", "D"),
    "adamw": ("#E69F00", "s"),
    "adamw-norm": ("#CC79A7", "^"),
    "gradient": ("#56B4E9", "v"),
}


def _draw(panel: Axes, curve: Curve) -> None:
    for arm, values in curve.values.items():
        colour, marker = _STYLES[arm]
        heights = [value.median if value else math.nan for value in values]
        panel.plot(curve.sizes, heights, color=colour, marker=marker, markersize=5, label=arm)
    line = [math.nan if y is None else y for y in curve.expected]
    panel.plot(curve.sizes, line, color="#D55E00", linestyle="--", label=curve.line)
    panel.set_xscale("log")
    if curve.title.startswith("temporaries"):
        panel.set_ylim(bottom=0)
    else:
        panel.set_yscale("log")
    panel.set_xticks(curve.sizes, [EngFormatter(sep="")(size) for size in curve.sizes])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(curve.x)
    panel.set_title(f"{curve.title} with {curve.x}", fontsize=10)
    panel.grid(alpha=0.25)
    panel.legend(fontsize=7)


def _family(name: str) -> str:
    family, _, n_ref = name.rpartition("-")
    return family if n_ref.isdigit() else name


def _of_size(layers: int, parameters: int) -> Case:
    return perceptron(max(1, round(math.sqrt(parameters / layers))), layers, _BATCH)


def _arms_by_parameters(_: int) -> Sequence[str]:
    return "adamw-norm", "gradient", "profit-1", "one-line"


def _arms_by_leaves(_: int) -> Sequence[str]:
    return "adamw", "profit-1"


def _arms_by_n_ref(n_ref: int) -> Sequence[str]:
    return "adamw-norm", "gradient", f"profit-{n_ref}"


def _sizes_option(name: str, text: str, most: int) -> Any:
    full, quick = (",".join(map(str, getattr(sizes, name))) for sizes in (FULL, QUICK))
    return typer.Option(
        parser=parse_counts(most), metavar="N,N,...", help=text, show_default=f"{full}; with --quick {quick}"
    )


@in_a_sentence
def main(
    parameters: Annotated[Any, _sizes_option("parameters", "Parameters of an MLP.", 10**11)] = None,
    leaves: Annotated[Any, _sizes_option("leaves", "Leaves of a tree.", 10**6)] = None,
    n_ref: Annotated[Any, _sizes_option("n_refs", "Reference steps in a step of PROFIT.", MOST_N_REF)] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_ROUNDS,
            help="How often each arm is timed. An interval takes six.",
            show_default=f"{FULL.rounds}; with --quick {QUICK.rounds}",
        ),
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="Seconds that XLA may be expected to take for a program.")] = 300,
    output: Annotated[Path, typer.Option(help="Folder for growth.md, growth.png and growth.json.")] = Path("out/cost"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke run of a few seconds, which measures nothing.")
    ] = False,
) -> None:
    """Measure how costs grow with parameters, leaves and n_ref."""
    begin = time.perf_counter()
    size = QUICK if quick else FULL
    make_folder(output)
    # A program out of the cache would have taken no time to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    about = environment()
    with progress_bar() as progress:
        plans: list[tuple[str, Sequence[int], _CaseOf, _ArmsOf]] = [
            (
                "parameters",
                parameters or size.parameters,
                functools.partial(_of_size, size.layers),
                _arms_by_parameters,
            ),
            ("leaves", leaves or size.leaves, scattered, _arms_by_leaves),
            ("n_ref", n_ref or size.n_refs, lambda _: perceptron(size.width, size.layers, _BATCH), _arms_by_n_ref),
        ]
        programs = sum(len(arms_of(x)) for _, sizes, _, arms_of in plans for x in sizes)
        bar = progress.add_task("", total=programs)

        def on_progress(text: str, done: int) -> None:
            progress.update(bar, description=text, advance=done)

        sweeps = [
            sweep(*plan, rounds or size.rounds, limit, UNOPTIMIZED if quick else {}, on_progress) for plan in plans
        ]
    found = curves(*sweeps)
    about |= {"quick": quick, "rounds": rounds or size.rounds, "wall_seconds": time.perf_counter() - begin}
    text = markdown(found, about)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # Before it is written: a full disk loses none of it.
    console.print(text)
    (output / "growth.md").write_text(text, encoding="utf-8")
    plot(output / "growth.png", found, about)
    content = plain({**about, "limit": limit, "sweeps": sweeps, "curves": found})
    (output / "growth.json").write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"Picture: {output / 'growth.png'}\nNumbers: {output / 'growth.json'}")


if __name__ == "__main__":
    typer.run(main)
