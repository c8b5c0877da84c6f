"""Prints pip's constraints for the oldest versions that pyproject.toml allows: what the suite has to pass on, too."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
bounds = (re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement) for requirement in requirements)
print(*sorted({f"{found[1]}=={found[2]}" for found in bounds if found}), sep="\n")
