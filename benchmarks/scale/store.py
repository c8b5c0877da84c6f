"""Figures of compiled programs in a folder, from which a killed run goes on."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.scale.figures import Figures, Sent, TooLarge
from benchmarks.scale.plan import Program
from profit_optax.compare.environment import versions
from profit_optax.compare.store import plain

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cuda-nvcc", "libtpu", "optax", "flax")
# What tells whether a stored figure is that of the code as it is.
_SOURCES = ("profit_optax", "benchmarks/scale", "benchmarks/cost/cases")
_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]


class Store:
    """Figures in a folder, a file each, found again while the code and the packages are what they were."""

    def __init__(self, folder: Path) -> None:
        """The figures of the code as it is, in `folder`."""
        self._folder = folder
        self._code = _fingerprint() | {"versions": versions(PACKAGES)}
        # What the figures are of, for readers.
        self.about = self._code["versions"] | {"digest of the sources": self._code["sources"]}

    def get(self, program: Program) -> Figures | TooLarge | None:
        """The figures of a program, None if it has not been compiled."""
        path = self._path(program)
        if not path.exists():
            return None
        return read(json.loads(path.read_text(encoding="utf-8"))["figures"])

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
    """A digest of all code that goes into a program: the plan, pages and pictures are none of it."""
    digest = hashlib.sha256()
    writers = {_HERE / f"{name}.py" for name in ("plan", "store", "pages", "fit", "__main__", "costs")}
    for folder in _SOURCES:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            if path not in writers and "integrations" not in path.parts:
                digest.update(path.read_bytes())
    return {"sources": digest.hexdigest()[:16]}


def read(fields: dict[str, Any]) -> Figures | TooLarge:
    """What was stored of a program."""
    if "collectives" not in fields:
        return TooLarge(**fields)
    sent = {kind: Sent(**each) for kind, each in fields.pop("collectives").items()}
    return Figures(**fields, collectives=sent)
