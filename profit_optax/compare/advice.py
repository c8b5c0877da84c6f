"""What to use here, and how sure that is, in plain sentences.

Only a method whose interval of differences to the baseline lies above 0 is advised.
"""

from collections.abc import Sequence

from profit_optax.compare.formats import plus_minus, scale_of, score, short_rate
from profit_optax.compare.summary import Row, best

# Differences that are the same on every seed, as with accuracies of few examples: such an interval says nothing.
_WIDTHLESS = 1e-6


def advice(rows: Sequence[Row], levels: Sequence[float], baseline: str) -> str:
    """Two to five sentences, each on a line of its own."""
    scale = scale_of(rows)
    at = {level: best([row for row in rows if (row.level, row.method) == (level, baseline)]) for level in levels}
    reached = [level for level in levels if at[level].old]
    if not reached:
        return (
            f"No advice: {baseline} itself did not reach {score(levels[0], scale)} on the new task with every seed."
            " Give it more gradients or other rates, or lower the levels."
        )
    level, own = reached[-1], at[reached[-1]]
    names = [name for name in dict.fromkeys(row.method for row in rows) if name != baseline]
    others = [best([row for row in rows if (row.level, row.method) == (level, name)]) for name in names]
    lower = [_lower(rows, each, names, scale) for each in reached[:-1]]
    sentences = [_first(own, others, level, scale), *_verdicts(others, scale), *_joined(lower), _certainty(rows, own)]
    return "\n".join(sentences)


def _first(own: Row, others: Sequence[Row], level: float, scale: float) -> str:
    better = [row for row in others if _verdict(row) == "keeps more"]
    where = f"where the new task first stands at {score(level, scale)}"
    if not better:
        return (
            f"Stay with {own.method} at rate {short_rate(own.rate)}, which keeps {plus_minus(own.old, scale)} of the"
            f" old task {where}: no other method's gain is clear of 0."
        )
    chosen = max(better, key=lambda row: row.difference.mean if row.difference else 0.0)
    alpha = f", {chosen.position:.2f} of the way from the start" if chosen.along == "alpha" else ""
    return (
        f"Use {chosen.method} at rate {short_rate(chosen.rate)}{alpha}: {where}, it keeps"
        f" {plus_minus(chosen.old, scale)} of the old task, {plus_minus(chosen.difference, scale, '+')} compared with"
        f" {own.method} at the best of its rates, for {chosen.gradients:.0f} gradients in place of"
        f" {own.gradients:.0f}."
    )


def _lower(rows: Sequence[Row], level: float, names: Sequence[str], scale: float) -> str | None:
    """Which method gains most at a level, if one does."""
    at = [best([row for row in rows if (row.level, row.method) == (level, name)]) for name in names]
    clear = [(row.difference.mean, row) for row in at if row.difference and _verdict(row) == "keeps more"]
    if not clear:
        return None
    _, row = max(clear, key=lambda pair: pair[0])
    return f"{score(level, scale)} by {row.method} ({plus_minus(row.difference, scale, '+')})"


def _joined(lower: Sequence[str | None]) -> list[str]:
    found = [text for text in lower if text]
    return [f"At lower levels most is kept at {', at '.join(found)}."] if found else []


def _verdicts(others: Sequence[Row], scale: float) -> list[str]:
    groups: dict[str, list[str]] = {}
    in_order = sorted(others, key=lambda row: row.difference.mean if row.difference else 0.0, reverse=True)
    for row in in_order:
        missing = f"{row.reached} of {row.seeds} seeds reached it, best mean {score(row.best_new, scale)}"
        gap = plus_minus(row.difference, scale, "+") if row.difference else missing
        groups.setdefault(_verdict(row), []).append(f"{row.method} ({gap})")
    order = ("keeps more", "undecided", "keeps less", "level not reached with these gradients")
    parts = [f"{verdict}: {', '.join(groups[verdict])}" for verdict in order if verdict in groups]
    sentence = "; ".join(parts)
    return [f"{sentence[0].upper()}{sentence[1:]}."] if parts else []


def _verdict(row: Row) -> str:
    if row.difference is None:
        return "level not reached with these gradients"
    if row.difference.high - row.difference.low <= _WIDTHLESS * abs(row.difference.mean):
        return "undecided"
    if row.difference.low > 0:
        return "keeps more"
    return "keeps less" if row.difference.high < 0 else "undecided"


def _certainty(rows: Sequence[Row], own: Row) -> str:
    rates = len({row.rate for row in rows if row.method == own.method})
    picked = f", at the best of {rates} rates picked on these seeds" if rates > 1 else ""
    if own.seeds == 1:
        return f"One seed says nothing of others: take at least three{picked}."
    return (
        f"That is from {own.seeds} paired seeds (95 % Student-t intervals, each by itself){picked}: confirm it with"
        " new seeds before you rely on it."
    )
