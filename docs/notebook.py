"""The start page as a notebook, and its outputs: `python -m docs.notebook` runs it and writes both anew.

The page is the source. Its blocks of Python are the cells, and what a cell prints stands in the block of text after it.
"""

import contextlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parent / "start.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")

_CODE = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n^```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)

# A paragraph that only the site can follow.
_DOWNLOAD = re.compile(r"^.*\{download\}.*\n\n?", re.MULTILINE)


class Cell(NamedTuple):
    """A piece of the page.

    Attributes:
      kind: "markdown" or "code".
      source: its text.
      output: what it is said to print; "" for nothing.
    """

    kind: str
    source: str
    output: str = ""


def cells_of_page(page: str) -> list[Cell]:
    """The page in pieces, in their order."""
    cells, end = [], 0
    for block in _CODE.finditer(page):
        cells.append(Cell("markdown", page[end : block.start()].strip()))
        cells.append(Cell("code", block["code"].rstrip("\n"), block["output"] or ""))
        end = block.end()
    cells.append(Cell("markdown", page[end:].strip()))
    return [cell for cell in cells if cell.source]


def cells_of_notebook(notebook: dict[str, Any]) -> list[Cell]:
    """The cells of a notebook, with what they printed."""
    return [
        Cell(
            cell["cell_type"],
            "".join(cell["source"]),
            "".join(text for o in cell.get("outputs", ()) for text in o["text"]),
        )
        for cell in notebook["cells"]
    ]


def outputs(cells: Sequence[Cell]) -> Iterator[str]:
    """Run the cells of code, one after the other in one namespace, and yield what each prints."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for i, cell in enumerate(cells):
        if cell.kind == "code":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(cell.source, f"<cell {i}>", "exec"), namespace)
            yield printed.getvalue()


def as_page(page: str, printed: Iterator[str]) -> str:
    """The page with these outputs."""

    def with_output(block: re.Match[str]) -> str:
        text = next(printed)
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{text}```\n" if text else "")

    return _CODE.sub(with_output, page)


def as_notebook(cells: Sequence[Cell]) -> dict[str, Any]:
    """A notebook of these cells."""
    return {
        "cells": [_as_json(i, cell) for i, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _as_json(number: int, cell: Cell) -> dict[str, Any]:
    source = _DOWNLOAD.sub("", cell.source)
    common = {"id": f"cell-{number}", "metadata": {}, "source": _lines(source)}
    if cell.kind == "markdown":
        return {"cell_type": "markdown", **common}
    streams = [{"name": "stdout", "output_type": "stream", "text": _lines(cell.output)}] if cell.output else []
    return {"cell_type": "code", "execution_count": None, "outputs": streams, **common}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Run the page, and write its outputs and the notebook."""
    page = PAGE.read_text(encoding="utf-8")
    page = as_page(page, outputs(cells_of_page(page)))
    PAGE.write_text(page, encoding="utf-8")
    notebook = json.dumps(as_notebook(cells_of_page(page)), indent=1, ensure_ascii=False)
    NOTEBOOK.write_text(notebook + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
