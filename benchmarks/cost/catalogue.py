"""All cases and arms by name. A family of arms has one member for each n_ref: `profit` has `profit-1`, `profit-3`."""

from collections.abc import Callable, Iterable

from benchmarks.cost import arms
from benchmarks.cost.arms import Arm
from benchmarks.cost.cases import Case
from benchmarks.cost.cases.mlp import mlp
from benchmarks.cost.cases.resnet import resnet
from benchmarks.cost.cases.transformer import lora, transformer_1, transformer_8

CASES: dict[str, Callable[[bool], Case]] = {
    "mlp": mlp,
    "transformer-1": transformer_1,
    "transformer-8": transformer_8,
    "resnet": resnet,
    "lora": lora,
}
# What the others are compared with: always measured.
BASES: dict[str, Callable[[], Arm]] = {
    "adamw": arms.adamw,
    "adamw-norm": arms.adamw_norm,
    "gradient": arms.gradient,
}
SINGLES: dict[str, Callable[[], Arm]] = {
    "sam": arms.sam,
    "lookahead": arms.lookahead,
    "one-line": arms.one_line,
}
FAMILIES: dict[str, Callable[[int], Arm]] = {
    "line": arms.line_by_line,
    "profit": arms.closure,
    "subtract": arms.closure_subtract,
    "compact": arms.closure_compact,
    "transparent": arms.transparent,
}
# The one family that is no JAX program.
EAGER = "torch"
CHOICES = (*SINGLES, *FAMILIES, EAGER)


def chosen(names: Iterable[str], n_refs: Iterable[int]) -> list[Arm]:
    """The bases, and those named, for every n_ref where that matters."""
    named = [name for name in names if name != EAGER]
    members = [FAMILIES[name](n_ref) for name in named if name in FAMILIES for n_ref in n_refs]
    return [make() for make in BASES.values()] + [SINGLES[name]() for name in named if name in SINGLES] + members


def by_name(name: str) -> Arm:
    """One JAX arm, such as `profit-3`.

    Raises:
      KeyError: if there is none of this name.
    """
    single = (BASES | SINGLES).get(name)
    if single:
        return single()
    family, _, n_ref = name.rpartition("-")
    if family not in FAMILIES or not n_ref.isdigit() or int(n_ref) < 1:
        raise KeyError(name)
    return FAMILIES[family](int(n_ref))
