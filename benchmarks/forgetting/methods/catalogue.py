"""All methods, by what they do against forgetting."""

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.adam_spd import adam_spd
from benchmarks.forgetting.methods.ewc import ewc
from benchmarks.forgetting.methods.ftp import ftp
from benchmarks.forgetting.methods.head_only import head_only
from benchmarks.forgetting.methods.l2_sp import l2_sp
from benchmarks.forgetting.methods.lookahead import lookahead
from benchmarks.forgetting.methods.lwf import lwf
from benchmarks.forgetting.methods.optimizers import adamw, adan, schedule_free, sgd
from benchmarks.forgetting.methods.profit import (
    DECAYS,
    one_line,
    one_line_at,
    one_line_of_moment,
    profit,
    profit_transparent,
    with_pull,
)
from benchmarks.forgetting.methods.sam import sam
from benchmarks.forgetting.methods.wise_ft import wise_ft


def optimizers() -> list[Method]:
    """What knows nothing of an old task."""
    return [adamw(), adamw(2), sgd(), lookahead(), sam(), adan(), schedule_free()]


def regularised() -> list[Method]:
    """What keeps the old weights, or something else of the old task, beside the new ones."""
    return [l2_sp(), ewc(), lwf(), wise_ft(), adam_spd(), ftp(), head_only()]


def ours() -> list[Method]:
    """This package's forms."""
    return [profit(), profit_transparent(), one_line()]


def everything() -> list[Method]:
    """All of these."""
    return [*optimizers(), *regularised(), *ours(), *one_lines()]


def one_lines() -> list[Method]:
    """The one line at each decay, with a pull to the start and without, and what needs no memory of its own."""
    lines = [one_line_at(decay) for decay in DECAYS]
    return [*lines, one_line_at(0.0, "bfloat16"), *map(with_pull, [adamw(), *lines]), one_line_of_moment()]
