"""Which programs are compiled for other devices."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks.scale.figures import WAYS

# Where every way is compiled, and where those that answer what fits.
_EVERY = tuple(WAYS)
_FIT = ("adamw", "norm", "profit-1", "compact-1", "subtract-1", "previous")
_CPU = tuple(name for name in WAYS if name != "unrolled-3")
_NARROW = ("1b-mixed", "1b-bf16", "8b-mixed", "8b-bf16")
_BIG = ("8b", "8b-mixed", "8b-bf16")
_DETAILS: Mapping[int, Mapping[str, tuple[str, ...]]] = {
    1: dict.fromkeys(("1b", "resnet", "lora"), _EVERY) | dict.fromkeys(("1b-2048", *_NARROW, "8b"), _FIT),
    8: dict.fromkeys(("1b", "8b"), _EVERY) | dict.fromkeys(("1b-2048", *_NARROW, "resnet", "lora"), _FIT),
    **{count: dict.fromkeys(("1b", "8b"), _EVERY) | dict.fromkeys(_NARROW, _FIT) for count in (64, 256)},
}
PLAN: dict[str, Mapping[int, Mapping[str, tuple[str, ...]]]] = {
    "h100": {**_DETAILS, **{count: dict.fromkeys(_BIG, _FIT) for count in (2, 4, 16)}},
    "v5e": {**_DETAILS, **{count: dict.fromkeys(("1b", *_BIG), _FIT) for count in (4, 16, 32)}},
    # What is sent by many CPUs is held to what is counted on paper.
    "cpu": {1: dict.fromkeys(("1b", "resnet", "lora"), _CPU), 64: dict.fromkeys(("1b", "8b"), _CPU)},
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
