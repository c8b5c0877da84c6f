"""The map as one figure: a panel for each factor, and one for what the early cosine predicts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.forgetting.experiments.map.gain import EARLY, Gain, Prediction
from benchmarks.forgetting.experiments.map.places import Map, Unit
from benchmarks.forgetting.report import save
from profit_optax.compare.formats import short_rate

# Okabe and Ito's colours, and markers; the lower rate is filled, the higher one open.
_STYLES = {"PROFIT": ("#0072B2", "D"), "one line": ("#CC79A7", "^")}
_OWN = ("#009E73", "s")
# In characters: labels of ticks that are longer than this are slanted.
_LONG = 4


def plot(path: Path, mapped: Map, gains: Sequence[Gain], found: Sequence[Prediction], n_seeds: int) -> None:
    """Draw the map as a PNG."""
    factors = [factor for factor in mapped.factors if any(each.factor == factor for each in gains)]
    n_panels = len(factors) + 1
    columns = min(4 if n_panels > 6 else 3, n_panels)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(4.1 * columns, 3.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, factor in zip(axes, factors, strict=False):
        _draw_factor(axis, mapped, [each for each in gains if each.factor == factor], factor)
    _draw_prediction(axes[len(factors)], mapped.unit, gains, found)
    for axis in axes[n_panels:]:
        figure.delaxes(axis)
    figure.suptitle(
        f"{mapped.title},\nat equal new {mapped.unit.score} and equal gradients a step"
        f" (means over {n_seeds} paired seeds, 95 % intervals;\n× not reached; dotted: the centre of the map)"
    )
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named, loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def _draw_factor(axis: Axes, mapped: Map, gains: Sequence[Gain], factor: str) -> None:
    values = list(dict.fromkeys(each.value for each in gains))
    _, label, scale = mapped.factors[factor]
    places = {value: float(value) if scale else float(i) for i, value in enumerate(values)}
    axis.set_xscale(scale or "linear")
    for form in dict.fromkeys(each.form for each in gains):
        of_form = [each for each in gains if each.form == form]
        for i, at_rate in enumerate(_by_rate(of_form)):
            _draw_line(axis, at_rate, places, form, mapped.unit.gain_scale, lower=i == 0)
    axis.axhline(0, color="0.4", linewidth=1)
    centre = places.get(getattr(mapped.centre, factor))
    if centre is not None:
        axis.axvline(centre, color="0.6", linewidth=1, linestyle=":")
    labels = [value if isinstance(value, str) else f"{value:g}" for value in values]
    axis.set_xticks(list(places.values()), labels)
    if max(map(len, labels)) > _LONG:
        for tick in axis.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
    axis.set_xticks([], minor=True)
    axis.set_xlabel(label)
    axis.set_ylabel(f"gain ({mapped.unit.gain})")
    axis.grid(alpha=0.25)


def _by_rate(gains: Sequence[Gain]) -> list[list[Gain]]:
    """The gains at each value's lowest rate, those at its next, and so on: main optimizers have rates of their own."""
    by_value = [[each for each in gains if each.value == value] for value in dict.fromkeys(g.value for g in gains)]
    return [list(each) for each in zip(*by_value, strict=True)]


def _draw_line(axis: Axes, gains: Sequence[Gain], places: dict, form: str, scale: float, lower: bool) -> None:
    colour, marker = _STYLES.get(form, _OWN)
    reached = [(places[each.value], each.gain) for each in gains if each.gain]
    rates = {short_rate(each.rate) for each in gains}
    label = f"{form} at rate {min(rates)}"
    axis.errorbar(
        [x for x, _ in reached],
        [scale * gain.mean for _, gain in reached],
        [scale * (gain.high - gain.mean) for _, gain in reached],
        color=colour,
        marker=marker,
        markerfacecolor=colour if lower else "white",
        linestyle="-" if lower else "--",
        linewidth=1.4,
        capsize=2,
        label=label if len(rates) == 1 else None,
    )
    lost = [places[each.value] for each in gains if each.gain is None]
    height = -0.02 if lower else 0.03
    _mark(axis, lost, height + 0.04, colour, size=7 if lower else 5)


def _draw_prediction(axis: Axes, unit: Unit, gains: Sequence[Gain], found: Sequence[Prediction]) -> None:
    for form in dict.fromkeys(each.form for each in gains):
        colour, marker = _STYLES.get(form, _OWN)
        kept = [(each.cosine, unit.gain_scale * each.gain.mean) for each in gains if each.form == form and each.gain]
        lost = [each for each in gains if each.form == form and not each.gain and each.alone_reached == 1]
        axis.scatter([x for x, _ in kept], [y for _, y in kept], color=colour, marker=marker, s=18, alpha=0.8)
        _mark(axis, [each.cosine for each in lost], 0.02, colour, size=6)
    axis.axhline(0, color="0.4", linewidth=1)
    correlations = [f"{each.form} {each.rank_correlation:+.2f} [{each.low:+.2f}, {each.high:+.2f}]" for each in found]
    axis.set_title("\n".join(["rank correlation", *correlations]) if found else "", fontsize="small")
    axis.set_xlabel(f"mean cosine over the first {EARLY} steps")
    axis.set_ylabel(f"gain ({unit.gain})")
    axis.grid(alpha=0.25)


def _mark(axis: Axes, x: Sequence[float], height: float, colour: str, size: float) -> None:
    """Crosses for what was not reached, at a height in shares of the panel's."""
    if x:
        heights = np.full(len(x), height)
        (crosses,) = axis.plot(x, heights, "x", color=colour, markersize=size, transform=axis.get_xaxis_transform())
        crosses.set_in_layout(False)
