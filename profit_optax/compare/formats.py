"""Numbers as people read them."""

from collections.abc import Sequence

import numpy as np

from profit_optax.compare.statistics import Interval
from profit_optax.compare.summary import Row


def scale_of(rows: Sequence[Row]) -> float:
    """100 where every score lies between 0 and 1, which are read in percent; 1 where any does not."""
    seen = [row.old.mean for row in rows if row.old] + [row.best_new for row in rows] + [row.level for row in rows]
    return 100.0 if all(0 <= value <= 1 for value in seen) else 1.0


def score(value: float, scale: float) -> str:
    """A score, in percent if it is scaled."""
    return f"{scale * value:.1f} %" if scale == 100 else f"{value:.4g}"


def plus_minus(value: Interval | None, scale: float, sign: str = "", places: int | None = None) -> str:
    """A mean ± half of its interval; the mean alone where one seed has no interval.

    Args:
      value: the interval; None for nothing.
      scale: what it is multiplied by, 100 for percent.
      sign: "+" for differences.
      places: after the point. None for one in percent, else for as many as half of the interval has in two digits: what
        follows them says nothing.
    """
    if value is None:
        return ""
    mean, half = scale * value.mean, scale * (value.high - value.mean)
    if not np.isfinite(half):
        return f"{mean:{sign}.1f}" if scale == 100 else f"{mean:{sign}.4g}"
    if places is None:
        places = 1 if scale == 100 else _places(half)
    return f"{mean:{sign}z.{places}f} ± {half:.{places}f}"


def _places(half: float) -> int:
    return int(np.clip(1 - np.floor(np.log10(half)), 0, 4)) if half > 0 else 3


def short_rate(rate: float) -> str:
    """A rate as people write it: 1e-4, 2.5e-3."""
    # Rounded first: 30 times 1e-5 is 0.00030000000000000003.
    return np.format_float_scientific(float(f"{rate:.4g}"), precision=3, trim="-", exp_digits=1)


def seconds(value: float) -> str:
    """Seconds in two digits."""
    if value < 0.01:
        return "<0.01"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def megabytes(size: int) -> str:
    """Bytes in MB."""
    if size < 1e4:
        return "<0.01"
    return f"{size / 1e6:.3g}" if size < 1e9 else f"{size / 1e6:.0f}"
