"""The report about an accelerator: what ran, what did not and why."""

import time

import pytest

from benchmarks.device import __main__ as device

ABOUT = {"device": "1 x cpu: cpu", "versions": {"jax": "0.0"}}


@pytest.fixture
def file_of_tests(tmp_path):
    """Writes a file of tests."""

    def write(name, body):
        path = tmp_path / name
        path.write_text(f"def test():\n    {body}\n", encoding="utf-8")
        return str(path)

    return write


def test_every_named_file_of_tests_is_there():
    assert [file for file in device.TESTS if not (device.ROOT / file).is_file()] == []


def test_passing_failing_and_broken_files_are_told_apart(file_of_tests):
    files = [file_of_tests(f"test_{i}.py", body) for i, body in enumerate(["pass", "assert 2 == 3", "1 +"])]
    passing, failing, broken = device.test(files, time.monotonic() + 60)
    assert (passing.passed, passing.verdict.startswith("1 passed")) == (True, True)
    assert (failing.passed, failing.verdict.startswith("1 failed")) == (False, True)
    assert (broken.passed, broken.verdict) == (False, "exit status 2")
    text = device.report(
        ABOUT, [passing, failing, broken], [device.Outcome("cost", "ran", passed=True)], ["| a |"], 1.0
    )
    assert text.startswith("# On 1 x cpu: cpu\n")
    assert "assert 2 == 3" in text
    assert "| a |" in text
    assert text.count("The end of what") == 2


def test_a_part_that_takes_too_long_is_stopped_and_the_rest_is_not_begun(file_of_tests):
    slow = file_of_tests("test_slow.py", "import time; time.sleep(60)")
    begin = time.monotonic()
    outcomes = device.test([slow, slow], begin + 3)
    assert time.monotonic() - begin < 20
    assert [outcome.passed for outcome in outcomes] == [False, False]
    assert outcomes[0].verdict.startswith("stopped after ")
    assert outcomes[1].verdict == "not run: the time was up"


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(device, "NEEDED", {"tests": ("jax", "no_such_package"), "cost": ("neither_this",)})
    (tests,) = device.test(["tests/test_projection.py"], time.monotonic() + 60)
    assert (tests.passed, tests.verdict) == (False, "not run: no_such_package missing here")
    (costs,) = device.cost(("mlp",), (), device.ROOT, time.monotonic() + 60)
    assert (costs.passed, costs.verdict) == (False, "not run: neither_this missing here")


def test_what_is_cut_off_in_the_middle_of_a_letter_is_kept():
    write = r"import sys, time; sys.stdout.buffer.write('\u0394'.encode()[:1]); sys.stdout.flush(); time.sleep(60)"
    outcome = device.run("letter", ("-c", write), seconds=3)
    assert (outcome.verdict, outcome.output) == ("stopped after 3 s", "\ufffd")


def test_tests_run_where_only_the_named_packages_are(tmp_path):
    """In a process that cannot import what else the development environment has."""
    blocked = ("sybil", "xdist", "sklearn", "equinox", "orbax")
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {blocked!r}:\n    sys.modules[name] = None\n", encoding="utf-8"
    )
    command = ("-m", "pytest", *device.PYTEST, "--collect-only", *device.TESTS)
    outcome = device.run("collect", command, seconds=120, PYTHONPATH=str(tmp_path), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert outcome.passed, outcome.output


@pytest.mark.parametrize("fails", [False, True])
def test_the_command_writes_a_report_and_its_status_says_whether_all_passed(
    fails, file_of_tests, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(device, "TESTS", (file_of_tests("test_one.py", f"assert not {fails}"),))
    assert device.main(["--quick", "--output", str(tmp_path / "out")]) == int(fails)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "cpu" in text.splitlines()[0]
    assert ("1 failed" if fails else "1 passed") in text
    assert "| profit-1 |" in text
    assert f"Report: {tmp_path / 'out' / 'report.md'}" in capsys.readouterr().out


def test_no_part_is_begun_after_the_minutes_that_were_given(tmp_path):
    assert device.main(["--quick", "--minutes", "1e-9", "--output", str(tmp_path)]) == 1
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| tests/test_projection.py | not run: the time was up |" in text
    assert "| cost of mlp | not run: the time was up |" in text
