"""Programs for GPUs and TPUs stay as lean as they are."""

import json

import pytest

from tests.targets import bounds

BOUNDS = json.loads(bounds.PATH.read_text(encoding="utf-8"))
# Another release of a compiler may schedule a little differently; what is counted in ones has no room.
ROOM = {"peak": 1.02, "kernels": 1.02, "sent": 1.02}


def worse(found, stored):
    """What is more than it was, in words."""
    return [
        f"{found[name]:,} {words}, where {stored[name]:,} are stored"
        for name, words in bounds.WORDS.items()
        if found[name] > ROOM.get(name, 1) * stored[name]
    ]


@pytest.mark.parametrize("case", bounds.CASES, ids=lambda case: bounds.key(*case))
def test_a_step_needs_no_more_than_it_did(case):
    problems = worse(bounds.found(*case), BOUNDS[bounds.key(*case)])
    assert not problems, f"{bounds.key(*case)} got worse: {'; '.join(problems)}. See tests/targets/bounds.py."


def test_no_program_waits_for_the_host():
    waiting = {name: stored for name, stored in BOUNDS.items() if stored["conditionals"] or stored["unknown_loops"]}
    assert waiting == {}


def test_what_gets_worse_is_named():
    stored = dict.fromkeys(bounds.WORDS, 100)
    assert worse(stored, stored) == []
    assert worse(stored | {"peak": 102, "conditionals": 101}, stored) == [
        "101 conditionals, for each of which a GPU's host waits, where 100 are stored"
    ]
    assert worse(stored | {"peak": 103}, stored) == ["103 bytes of memory at the peak, where 100 are stored"]
