"""The command that compiles steps for devices that are not here, and writes down what each device would need."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import typer

from benchmarks.commands import ending_with, make_folder, parse_counts, parse_names, progress_bar
from benchmarks.scale import fit, pages
from benchmarks.scale.figures import WAYS, Figures, Sent, TooLarge, measure
from benchmarks.scale.models import MODELS
from benchmarks.scale.targets import TARGETS
from profit_optax.compare.environment import versions
from profit_optax.compare.store import plain

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cuda-nvcc", "libtpu", "optax", "flax")
# What tells whether a stored figure is that of the code as it is.
_SOURCES = ("profit_optax", "benchmarks/scale", "benchmarks/cost/cases")
_ROOT = Path(__file__).parents[2]
_HERE = Path(__file__).parent

# Where every way is compiled, and where those that answer what fits.
_EVERY = tuple(WAYS)
_FIT = ("adamw", "norm", "profit-1", "compact-1", "subtract-1", "previous")
_CPU = tuple(name for name in WAYS if name != "unrolled-3")
_SCANNED = ("1b-2048", "1b-mixed", "1b-bf16", "8b", "8b-mixed", "8b-bf16")
PLAN: Mapping[str, Mapping[int, Mapping[str, tuple[str, ...]]]] = {
    "h100": {
        1: dict.fromkeys(("1b", "resnet", "lora"), _EVERY) | dict.fromkeys(_SCANNED, _FIT),
        8: dict.fromkeys(("1b", "resnet", "lora"), _EVERY) | dict.fromkeys(_SCANNED, _FIT),
        **{count: {"1b": _EVERY} | dict.fromkeys(_SCANNED, _FIT) for count in (64, 256)},
        **{count: dict.fromkeys(("1b", *_SCANNED), _FIT) for count in (2, 4, 16)},
    },
    "v5e": {
        1: dict.fromkeys(("1b", "resnet", "lora"), _EVERY) | dict.fromkeys(_SCANNED, _FIT),
        8: dict.fromkeys(("1b", "resnet", "lora"), _EVERY) | dict.fromkeys(_SCANNED, _FIT),
        **{count: {"1b": _EVERY} | dict.fromkeys(_SCANNED, _FIT) for count in (64, 256)},
        **{count: dict.fromkeys(("1b", *_SCANNED), _FIT) for count in (4, 16, 32)},
    },
    "cpu": {1: dict.fromkeys(("1b", "resnet", "lora"), _CPU), 8: {"1b": _CPU}},
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


class Store:
    """Figures in a folder, a file each, found again while the code and the packages are what they were."""

    def __init__(self, folder: Path) -> None:
        """The figures of the code as it is, in `folder`."""
        self._folder = folder
        self.versions = versions(PACKAGES)
        self._code = _fingerprint() | {"versions": self.versions}

    def get(self, program: Program) -> Figures | TooLarge | None:
        """The figures of a program, None if it has not been compiled."""
        path = self._path(program)
        if not path.exists():
            return None
        return _read(json.loads(path.read_text(encoding="utf-8"))["figures"])

    def put(self, program: Program, figures: Figures | TooLarge) -> None:
        """Keep the figures of a program."""
        record = {"program": program, "code": self._code, "figures": figures}
        unfinished = self._path(program).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(plain(record), indent=1), encoding="utf-8")
        os.replace(unfinished, self._path(program))

    def _path(self, program: Program) -> Path:
        identity = json.dumps(plain({"program": program, "code": self._code}), sort_keys=True)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self._folder / f"{program.target}-{program.devices}-{program.model}-{program.way}-{digest}.json"


def _fingerprint() -> dict[str, Any]:
    """A digest of all code that goes into a program; pages and pictures are none of it."""
    digest = hashlib.sha256()
    writers = {_HERE / f"{name}.py" for name in ("matrix", "pages", "fit", "__main__", "costs")}
    for folder in _SOURCES:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            if path not in writers and "integrations" not in path.parts:
                digest.update(path.read_bytes())
    return {"sources": digest.hexdigest()[:16]}


def _read(fields: dict[str, Any]) -> Figures | TooLarge:
    if "collectives" not in fields:
        return TooLarge(**fields)
    sent = {kind: Sent(**each) for kind, each in fields.pop("collectives").items()}
    return Figures(**fields, collectives=sent)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that a compiler's own code writes where it finds no such device."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def main(
    targets: Annotated[
        Any, typer.Option(parser=parse_names(TARGETS), metavar="NAMES", help="Kinds of device.", show_default="all")
    ] = None,
    counts: Annotated[
        Any, typer.Option(parser=parse_counts, metavar="COUNTS", help="Of devices.", show_default="all")
    ] = None,
    models: Annotated[
        Any, typer.Option(parser=parse_names(MODELS), metavar="NAMES", help="What is trained.", show_default="all")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of what is compiled; a killed run goes on from it.")] = Path(
        "out/targets"
    ),
    page: Annotated[Path, typer.Option(help="The page; its picture and its JSON lie beside it.")] = _HERE
    / "TARGETS.md",
    publish: Annotated[bool, typer.Option(help="Write the page, of what is compiled so far.")] = True,
) -> None:
    """Compile steps for GPUs and TPUs that need not be there, and write down what each of them would need."""
    make_folder(output)
    make_folder(page.parent)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(PLAN["cpu"]))
    store = Store(output)
    wanted = list(planned(targets or (), counts or (), models or ()))
    missing = [program for program in wanted if store.get(program) is None]
    typer.echo(f"{len(wanted)} programs, {len(missing)} of them to be compiled.")
    with ending_with(ModuleNotFoundError), progress_bar() as bar:
        task = bar.add_task("compiling", total=len(missing))
        for program in missing:
            bar.update(task, description=" ".join(map(str, program)))
            with _quiet() if program.target == "v5e" else contextlib.nullcontext():
                figures = measure(TARGETS[program.target], program.devices, MODELS[program.model], WAYS[program.way])
            store.put(program, figures)
            bar.advance(task)
    if publish:
        everything = list(planned((), (), ()))
        found = {program: kept for program in everything if (kept := store.get(program)) is not None}
        drawn = page.with_suffix(".png")
        fit.picture(found, drawn)
        page.write_text(pages.page(found, len(everything), store.versions, drawn.name), encoding="utf-8")
        rows = [{"program": program, "figures": kept} for program, kept in found.items()]
        record = plain({"versions": store.versions, "programs": rows})
        page.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"Page: {page}")


if __name__ == "__main__":
    typer.run(main)
