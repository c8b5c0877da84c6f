"""Which programs are compiled: for which devices, of which model, and how a step is taken."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.scale.figures import WAYS

# Where every way is compiled, and where those that answer what fits.
_EVERY = tuple(WAYS)
_FIT = ("adamw", "norm", "profit-1", "compact-1", "subtract-1", "previous")
# Those of which it is counted on paper what they send.
_SENT = ("adamw", "norm", "profit-1", "subtract-1", "profit-3", "transparent-1", "previous")
_NARROW = ("1b-mixed", "1b-bf16", "8b-mixed", "8b-bf16")
_DETAILS: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    1: dict.fromkeys(("1b", "resnet", "lora"), _EVERY) | dict.fromkeys(("1b-2048", *_NARROW, "8b"), _FIT),
    8: dict.fromkeys(("1b", "8b"), _EVERY) | dict.fromkeys(("1b-2048", *_NARROW, "resnet", "lora"), _FIT),
    64: dict.fromkeys(("1b", "8b"), _EVERY) | dict.fromkeys(("1b-bf16", "8b-bf16"), _FIT),
    256: dict.fromkeys(("1b", "1b-bf16", "8b", "8b-bf16"), _FIT),
}
# Between which numbers of devices it begins to fit.
_EIGHTS = dict.fromkeys(("8b", "8b-bf16"), _FIT)
PLAN: dict[str, Mapping[int, Mapping[str, tuple[str, ...]]]] = {
    "h100": {**_DETAILS, **dict.fromkeys((2, 4, 16), _EIGHTS)},
    "v5e": {**_DETAILS, **dict.fromkeys((4, 16, 32), _EIGHTS)},
    "cpu": {1: dict.fromkeys(("1b", "resnet", "lora"), _FIT), 64: dict.fromkeys(("1b", "8b"), _SENT)},
}


class Program(NamedTuple):
    """One program of the plan, by names.

    Attributes:
      target: the kind of device.
      devices: how many.
      model: what is trained.
      way: how a step is taken.
    """

    target: str
    devices: int
    model: str
    way: str


def planned(targets: tuple[str, ...], counts: tuple[int, ...], models: tuple[str, ...]) -> Iterator[Program]:
    """The programs of the plan for some targets, counts and models; an empty tuple is all of them."""
    for target, by_count in PLAN.items():
        for count, by_model in sorted(by_count.items()):
            for model, ways in by_model.items():
                chosen = (target, targets), (count, counts), (model, models)
                if all(value in among or not among for value, among in chosen):
                    yield from (Program(target, count, model, way) for way in ways)
