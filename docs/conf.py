"""The site, as Sphinx builds it: `make docs`. The source directory is the root of the repository.

So every page is where it belongs (results beside the code that makes them, this folder for prose), is included by
name, and links between pages hold on a host of repositories as well as on the site.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project = "profit_optax"
author = "the authors of profit_optax"
copyright = "The authors of profit_optax. Apache License 2.0"  # noqa: A001  # the name that Sphinx reads
version = release = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "benchmarks/RESULTS.md",
    "benchmarks/*/*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
]
exclude_patterns = [".*", "out", "build", "dist", "profit_optax", "tests", "examples", "**/__pycache__"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "tasklist"]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

# Names in docstrings are in single backticks: links where they are ours, and code in any case.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"profit_optax {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_start.html"}
html_copy_source = False
html_domain_indices = False
html_show_sourcelink = False
templates_path = ["_templates"]

# Where the sources that docstrings name can be read.
SOURCES = {
    "*PROFIT: A Specialized Optimizer for Deep Fine Tuning*": "https://arxiv.org/abs/2412.01930",
    "*Manual parallelism with shard_map*": "https://docs.jax.dev/en/latest/notebooks/shard_map.html",
}


def link_references(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make links of the titles that docstrings name."""
    text = "\n".join(lines)
    for title, address in SOURCES.items():
        # A title may be broken over two lines.
        pattern = r"\s+".join(map(re.escape, title.split()))
        text = re.sub(pattern, f"`{title.strip('*')} <{address}>`__", text)
    lines[:] = text.split("\n")


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Fields of named tuples and dataclasses are explained by their class, under `Attributes`."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def keep_figures_whole(app: Sphinx, doctree: nodes.document) -> None:
    """A cell of a table is broken between figures and not within one, such as 93.2 ± 1.4 or 3e-4."""
    for table in doctree.findall(nodes.table):
        for text in list(table.findall(nodes.Text)):
            whole = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", text)
            whole = re.sub(r"(?<=\de)-(?=\d)", "\u2011", whole)
            if whole != text:
                text.parent.replace(text, nodes.Text(whole))


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    # Before napoleon, which makes sections of the lines.
    app.connect("autodoc-process-docstring", link_references, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", keep_figures_whole)
    return {"parallel_read_safe": True}
