"""The pictures of the site are of the results that are committed."""

import re

import pytest

pytest.importorskip("matplotlib", reason="a part of the extra compare")

from docs.pictures import PICTURES, digest, figures


@pytest.fixture(scope="module")
def drawn():
    return figures()


def test_every_picture_is_there_and_no_other(drawn):
    assert {path.stem for path in PICTURES.iterdir()} == set(drawn)


@pytest.mark.parametrize("path", sorted(PICTURES.iterdir()), ids=lambda path: path.stem)
def test_a_picture_is_of_the_committed_results(path, drawn):
    found = re.search(r"<dc:identifier>(\w+)</dc:identifier>", path.read_text(encoding="utf-8"))
    assert found[1] == digest(drawn[path.stem]), "the results changed: python -m docs.pictures"


def test_another_number_is_another_picture(drawn):
    line = drawn["ratio"].axes[0].lines[0]
    before = digest(drawn["ratio"])
    x, y = line.get_data()
    line.set_data(x, [value + 0.1 for value in y])
    assert digest(drawn["ratio"]) != before
    line.set_data(x, y)
