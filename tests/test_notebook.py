"""The start page and its notebook: the same code, which runs, and prints what they say."""

import json
import re

import jax
import pytest

from docs.notebook import NOTEBOOK, PAGE, Cell, as_notebook, as_page, cells_of_notebook, cells_of_page, outputs

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def notebook():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def alike(printed, expected):
    """The same words, and numbers that another machine's rounding explains: three points, or a quarter of a count."""
    assert NUMBER.sub("#", printed) == NUMBER.sub("#", expected)
    for one, other in zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True):
        assert abs(float(one) - float(other)) <= max(3, 0 if "." in other else float(other) / 4)


def test_the_notebook_runs_and_prints_what_it_says():
    cells = cells_of_notebook(notebook())
    expected = [cell.output for cell in cells if cell.kind == "code"]
    # The suite forbids it to itself; a page to copy from writes x @ w + b.
    with jax.numpy_rank_promotion("allow"):
        for printed, text in zip(outputs(cells), expected, strict=True):
            alike(printed, text)
    # What the page says about these outputs.
    adamw, profit = ([float(number) for number in NUMBER.findall(line)] for line in expected[-1].splitlines())
    assert profit[1] > adamw[1], "PROFIT is said to have kept more"
    assert profit[2] > adamw[2], "and to have taken more steps"


def test_the_notebook_is_the_page():
    assert notebook() == as_notebook(cells_of_page(PAGE.read_text(encoding="utf-8")))


def test_a_page_is_taken_apart_and_put_together():
    page = "# T\n\n```python\nprint(1)\n```\n\n```text\nold\n```\n\nbetween\n\n```python\nx = 2\n```\n\nend\n"
    cells = cells_of_page(page)
    assert cells == [
        Cell("markdown", "# T"),
        Cell("code", "print(1)", "old\n"),
        Cell("markdown", "between"),
        Cell("code", "x = 2"),
        Cell("markdown", "end"),
    ]
    assert list(outputs(cells)) == ["1\n", ""]
    assert as_page(page, outputs(cells)) == page.replace("old", "1")


@pytest.mark.parametrize("printed", ["accuracy 93.0 of 12\n", "loss 99.0 %, 12 steps\n", "loss 93.0 %, 20 steps\n"])
def test_other_outputs_are_noticed(printed):
    with pytest.raises(AssertionError):
        alike(printed, "loss 93.0 %, 12 steps\n")


def test_numbers_may_differ_by_rounding():
    alike("loss 92.1 %, 110 steps\n", "loss 93.0 %, 100 steps\n")
