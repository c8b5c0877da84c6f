"""The tables, with the paper's figures beside ours, the picture and the JSON file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.commands import markdown_table
from benchmarks.forgetting.command import Job
from benchmarks.forgetting.experiments.cifar.arms import BASELINE, TUNING_SEED, Outcome
from benchmarks.forgetting.experiments.cifar.setups import Setup
from benchmarks.forgetting.report import page, plot
from benchmarks.forgetting.summary import Row, percent, summarize
from benchmarks.forgetting.tasks.cifar.base import Base
from profit_optax.compare.formats import plus_minus, short_rate
from profit_optax.compare.statistics import interval

# Title of each table, and the arm beside which ablations stand.
_TABLES = {
    "optimizers": ("Optimizers (the paper's Tables 2, 6 and 10)", None),
    "n_ref": ("Reference steps (Table 8)", "profit"),
    "ratio": ("Main rate divided by reference rate (Table 9)", "profit"),
    "regularized": ("What keeps the old weights (not in the paper)", BASELINE),
    "own": ("Your own", BASELINE),
}
_HEAD = ("arm", "paper: old / new", "old at the end", "new at the end", "old at {level} % new", "minus AdamW", "steps")


# The paper's old and new accuracy in percent of its ResNet-18 (Tables 2, 6, 8, 9, 10), by arm. Its Adam stands beside
# AdamW here, which decays weights by 1e-4 times the rate.
PAPER: Mapping[str, tuple[float, float]] = {
    "sgd": (24.49, 74.59),
    "adamw": (34.64, 73.11),
    "lookahead": (26.10, 73.82),
    "adan": (35.17, 72.70),
    "profit": (35.26, 74.70),
    "n_ref2": (32.55, 73.57),
    "n_ref5": (39.27, 71.42),
    "ratio100": (35.16, 74.45),
    "ratio1000": (34.35, 74.27),
    "ratio10000": (35.83, 74.41),
}
PAPERS_NETWORK = "resnet18"
# That of its old model, on CIFAR-10.
_PAPERS_BASE = 91.06


def markdown(base: Base, outcomes: Sequence[Outcome], setup: Setup, about: dict[str, Any]) -> str:
    """The page: set-up, one table for each of the paper's, and how the rates were picked."""
    # A model that is not converged is none to start from, and every title says so.
    suffix = "" if base.converged else ": not converged"
    head = [cell.format(level=percent(setup.level)) for cell in _HEAD]
    baseline = next(outcome.run.method for outcome in outcomes if outcome.arm.key == BASELINE)
    rows = {row.method: row for row in summarize([each.run for each in outcomes], setup.level, baseline)}
    tables = []
    for table, (name, _) in _TABLES.items():
        lines = [_line(outcome, rows[outcome.run.method]) for outcome in _shown(table, outcomes)]
        if lines:
            tables += [f"## {name}{suffix}", "\n".join(markdown_table([head, *lines]))]
    picked = "; ".join(f"{outcome.run.method} {_setting(outcome, setup.level)}" for outcome in outcomes)
    tuned = (
        f"Settings that were picked, by arm, on seed {TUNING_SEED}, which is not reported: {picked}. Where none reached"
        " the level, the one with the highest new accuracy was picked, whatever it kept."
    )
    title = f"CIFAR-10 → CIFAR-100, {setup.base.network}{suffix}"
    return page(title, about, *_introduction(base, setup, about), *tables, tuned)


def write(job: Job, base: Base, outcomes: Sequence[Outcome], setup: Setup, about: dict[str, Any]) -> str:
    """Write cifar.md, cifar.png and cifar.json, and return the first."""
    content = {
        **about,
        "setup": setup,
        "base": base._replace(params=None),
        "outcomes": [{"arm": each.arm.key, "tried": list(each.tried), "run": each.run} for each in outcomes],
    }
    panels = {name: [outcome.run for outcome in _shown(name, outcomes)] for name in _TABLES}
    panels = {name: runs for name, runs in panels.items() if runs}
    text = markdown(base, outcomes, setup, about)
    job.write(text, content, lambda path: plot(path, panels, setup.level, f"CIFAR-100, {setup.base.network}"))
    return text


def _introduction(base: Base, setup: Setup, about: dict[str, Any]) -> list[str]:
    recipe = setup.base
    flat = f"flat for {recipe.patience} epochs" if base.flat else "not flat yet"
    lowest = f"those with the lowest held-out loss, which was {flat}"
    kept = "the last parameters" if recipe.patience is None else lowest
    epochs = setup.steps * setup.batch / setup.train_images
    decay = f", falling to a hundredth over {recipe.decay_epochs}" if recipe.decay_epochs else ""
    return [
        f"It computes in {about['dtype']}.",
        f"Old model: {about['parameters']:,} parameters, {100 * base.accuracy:.2f} % of CIFAR-10's test images (the"
        f" paper's {PAPERS_NETWORK}: {_PAPERS_BASE} %). Adam at {short_rate(recipe.rate)}{decay}, batch"
        f" {recipe.batch}, {base.epochs} epochs of at most {recipe.epochs}; kept are {kept}.",
        f"Fine-tuning: {setup.steps} main steps for every arm, each gradient on {setup.batch} images, so {epochs:.1f}"
        f" epochs of {setup.train_images:,} training images at one gradient a step. PROFIT takes n_ref + 1 gradients a"
        f" step, and AdamW x2 averages two, as many as PROFIT with one reference step. Accuracies in %, on the first"
        f" {setup.test_images:,} images of each test set, as means over {about['seeds']} seeds"
        f" ± half of the 95 % Student-t interval; arms are paired by seed. *Old at {percent(setup.level)} % new* is the"
        f" old accuracy where the new one first reaches {percent(setup.level)} %, and *steps* the main steps until"
        f" there.",
        "What differs from the paper: GroupNorm in place of BatchNorm; AdamW with Optax's weight decay for its Adam;"
        " random crops and flips, which the paper does not mention; seeds share the old model and differ in the new"
        " head's initialisation, the order of batches and the augmentation."
        + ("" if recipe.network == PAPERS_NETWORK else f" The network is not the paper's {PAPERS_NETWORK}."),
    ]


def _shown(table: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The table's own arms, after the one that they are to be compared with; none if there are none of its own."""
    _, beside = _TABLES[table]
    own = [outcome for outcome in outcomes if outcome.arm.table == table]
    return [outcome for outcome in outcomes if outcome.arm.key == beside] + own if own else []


def _line(outcome: Outcome, row: Row) -> list[str]:
    run = outcome.run
    published = "{:.2f} / {:.2f}".format(*PAPER[outcome.arm.key]) if outcome.arm.key in PAPER else ""
    ends = [plus_minus(interval(values[:, -1]), 100) for values in (run.old, run.new)]
    there = [f"not reached by {row.seeds - row.reached} of {row.seeds} seeds", "", ""]
    if row.old is not None:
        there = [plus_minus(row.old, 100), plus_minus(row.difference, 100, "+"), f"{row.steps:.0f}"]
    return [run.method, published, *ends, *there]


def _setting(outcome: Outcome, level: float) -> str:
    setting = ", ".join(f"{name} {short_rate(value)}" for name, value in outcome.run.setting.items())
    if outcome.arm.like:
        return f"{setting} (as {outcome.arm.like.key})"
    tried = ", ".join(short_rate(run.rate) for run in outcome.tried)
    reached = sum(bool(np.max(run.new) >= level) for run in outcome.tried)
    return f"{setting} (out of {tried}; {reached} reached the level)" if tried else f"{setting} (given)"
