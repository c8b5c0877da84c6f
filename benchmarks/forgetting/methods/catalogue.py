"""All methods, by what they do against forgetting."""

from collections.abc import Mapping

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
    profit,
    profit_transparent,
    with_pull,
)
from benchmarks.forgetting.methods.sam import sam
from benchmarks.forgetting.methods.wise_ft import wise_ft

_LINES = [one_line_at(decay) for decay in DECAYS]
# What knows nothing of an old task; what keeps the old weights, or something else of it; this package's forms; and the
# one line at each decay, with a pull to the start and without.
GROUPS: Mapping[str, list[Method]] = {
    "optimizers": [adamw(), adamw(2), sgd(), lookahead(), sam(), adan(), schedule_free()],
    "against forgetting": [l2_sp(), ewc(), lwf(), wise_ft(), adam_spd(), ftp(), head_only()],
    "PROFIT": [profit(), profit_transparent(), one_line()],
    "one line": [*_LINES, one_line_at(0.0, "bfloat16"), *map(with_pull, [adamw(), *_LINES])],
}
METHODS: Mapping[str, Method] = {method.name: method for group in GROUPS.values() for method in group}
