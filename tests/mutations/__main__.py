"""Breaks the package at one place at a time, and sees whether a test notices: `python -m tests.mutations`.

First every test file is run once and tells which test runs which line. Then each mutant is run with the tests that run
its line, the fastest ones first, until one fails. What no test notices survives: it is a hole in the tests, or it
changes nothing, for which `equivalent.json` must say why. All that was found is kept in the output folder, and a run
that was ended goes on from there.
"""

import argparse
import builtins
import functools
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

# Imported once, before processes are forked; no array is made, so that none of them shares a backend.
import equinox  # noqa: F401
import flax  # noqa: F401
import hypothesis  # noqa: F401
import jax
import numpy as np  # noqa: F401
import optax.contrib  # noqa: F401
import scipy.stats  # noqa: F401

from tests.mutations import child, lines
from tests.mutations.operators import Mutation, mutations

HERE = Path(__file__).parent
MODULES = (
    "_projection", "_cycle", "_closure", "_transparent", "_previous", "_axes", "_evaluation", "_nonfinite", "_masking",
    "_extra_args", "training", "distributed",
)  # fmt: skip
# Test files by the setting of their process. What survives those of the first list is tried with the second, too.
FAST = {
    "": (
        "test_projection", "test_cycle", "test_closure", "test_transparent", "test_previous", "test_masking",
        "test_checks", "test_evaluation", "test_nonfinite", "test_training", "test_trees", "test_call_by_call",
        "test_eager", "test_bad_input", "test_faults", "integrations/test_equinox",
    ),
    "multidevice": ("multidevice/test_axes", "multidevice/test_nonfinite", "multidevice/test_distributed"),
    "x64": ("x64/test_forms",),
}  # fmt: skip
SLOW = {
    "": (
        "test_composition", "test_transformations", "test_half_precision", "test_gradient_count",
        "test_optax_contract", "test_properties", "integrations/test_frozen",
    ),
    "multidevice": (
        "multidevice/test_closure", "multidevice/test_forms", "multidevice/test_sharded_parameters",
        "multidevice/test_faults",
    ),
    "x64": ("x64/test_closure",),
}  # fmt: skip
# A mutant that needs so many times longer than the same tests without it has hung.
SLOWER, AT_LEAST_S = 10, 60


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("--modules", nargs="+", default=MODULES, choices=MODULES, help="those that are broken")
    parser.add_argument("--output", type=Path, default=Path("out/mutations"), help="what is known, and where it goes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so long, to be gone on with")
    parser.add_argument("--seconds", type=float, default=30, help="of tests, run on their own, for one mutant")
    parser.add_argument("--survivors", action="store_true", help="try again what survived, with all tests of its line")
    parser.add_argument("--report", action="store_true", help="print what is known, and run nothing")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60 * arguments.minutes
    tests = [(setting, file) for setting, files in FAST.items() for file in files]
    if arguments.survivors:
        tests += [(setting, file) for setting, files in SLOW.items() for file in files]
    if not arguments.report and measure(arguments.output, tests, until):
        seconds = float("inf") if arguments.survivors else arguments.seconds
        try_mutants(arguments.output, arguments.modules, tests, until, seconds, again=arguments.survivors)
    sys.exit(report(arguments.output, arguments.modules))


def source(module: str) -> str:
    return child.path_of(f"profit_optax.{module}").read_text()


def log_of(output: Path) -> Path:
    return output / "log.txt"


def lines_of(output: Path, file: str) -> Path:
    return output / f"lines-{file.replace('/', '-')}.json"


def measure(output: Path, tests: list[tuple[str, str]], until: float) -> bool:
    """Runs every test file that has not told its lines yet; whether all of them now have."""
    for setting, file in tests:
        out = lines_of(output, file)
        if out.exists():
            continue
        if time.monotonic() > until:
            return False
        started = time.monotonic()
        code = child.forked(functools.partial(_tell, file, out), setting, log_of(output), 1800)
        if not out.exists():
            sys.exit(f"tests/{file}.py ended with {code} and told nothing:\n{log_of(output).read_text()[-2000:]}")
        print(f"{file}: {time.monotonic() - started:.0f} s", flush=True)
    return True


def _tell(file: str, out: Path) -> int:
    recorder = lines.Recorder(out)
    setattr(builtins, lines.HIT, recorder.hit)
    trees = {f"profit_optax.{module}": lines.telling(module, source(module)) for module in MODULES}
    return child.run_tests(trees, [f"tests/{file}.py"], [recorder])


def tests_of_lines(output: Path, tests: list[tuple[str, str]]) -> dict[str, list[tuple[str, float, str]]]:
    """For each line that runs, the setting, the seconds and the name of each test that runs it, the fastest first."""
    found: dict[str, list[tuple[str, float, str]]] = {}
    for setting, file in tests:
        for name, test in json.loads(lines_of(output, file).read_text()).items():
            for line in test["lines"] if test["passed"] else []:
                found.setdefault(line, []).append((setting, test["seconds"], name))
    return {line: sorted(tests, key=lambda test: test[1]) for line, tests in found.items()}


def try_mutants(
    output: Path, modules: Any, tests: list[tuple[str, str]], until: float, seconds: float, *, again: bool
) -> None:
    assert not jax._src.xla_bridge._backends, "a process that is forked must not share a backend"
    results = output / "results.jsonl"
    known = {result["name"]: result["outcome"] for result in read(results)}
    equivalent = json.loads((HERE / "equivalent.json").read_text())
    of_lines, killers = tests_of_lines(output, tests), Counter(result["by"] for result in read(results))
    for module, mutant in in_turn(modules):
        if mutant.name in equivalent or (known.get(mutant.name) != "survived" if again else mutant.name in known):
            continue
        if time.monotonic() > until:
            return
        outcome, by = try_one(output, module, mutant, of_lines, killers, seconds)
        killers[by] += 1
        with results.open("a") as file:
            file.write(json.dumps({"name": mutant.name, "line": mutant.line, "outcome": outcome, "by": by}) + "\n")
        if outcome != "killed":
            print(f"{outcome}: {mutant.name}", flush=True)


def in_turn(modules: Any) -> list[tuple[str, Mutation]]:
    """The first change of every line, then the second ones: a run that is ended early has tried every line."""
    seen = Counter[tuple[str, int]]()
    found = []
    for module in modules:
        for mutant in mutations(module, source(module)):
            seen[module, mutant.line] += 1
            found.append((seen[module, mutant.line], module, mutant))
    return [(module, mutant) for _, module, mutant in sorted(found, key=lambda each: each[0])]


def try_one(
    output: Path,
    module: str,
    mutant: Mutation,
    of_lines: dict[str, list[tuple[str, float, str]]],
    killers: Counter[str],
    seconds: float,
) -> tuple[str, str]:
    """What became of a mutant, and the test that noticed it."""
    tests = of_lines.get(f"{module}:{mutant.line}")
    if tests is None:
        # Of the module itself: what shapes of it any test may see.
        tests = sorted({test for name, of in of_lines.items() if name.startswith(f"{module}:") for test in of})
        tests.sort(key=lambda test: test[1])
    # Those that have noticed most so far come first, then those of the module's own file.
    own = f"test_{module.removeprefix('_')}.py::"
    tests = sorted(tests, key=lambda test: (-killers[test[2]], own not in test[2], test[1]))
    trees = {f"profit_optax.{module}": mutant.tree}
    for setting in child.SETTINGS:
        chosen, total = [], 0.0
        for of, took, name in tests:
            if of == setting and (total + took <= seconds or not chosen):
                chosen.append(name)
                total += took
        # A few by themselves: nearly all mutants end there.
        for part in (chosen[:8], chosen[8:]):
            if not part:
                continue
            limit = max(AT_LEAST_S, SLOWER * total)
            run = functools.partial(child.run_tests, trees, ["--exitfirst", *part], [])
            code = child.forked(run, setting, log_of(output), limit)
            if code != 0:
                log = log_of(output).read_text()
                failed = [line.split()[1] for line in log.splitlines() if line.startswith(("FAILED ", "ERROR "))]
                return "killed", failed[0] if failed else {None: "too long"}.get(code, f"exit code {code}")
    return "survived", ""


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(output: Path, modules: Any) -> int:
    """Prints the score; how many mutants survived without an explanation."""
    equivalent: dict[str, str] = json.loads((HERE / "equivalent.json").read_text())
    known = {result["name"]: result for result in read(output / "results.jsonl")}
    print(f"{'module':14} {'mutants':>8} {'killed':>8} {'equivalent':>11} {'survived':>9} {'not tried':>10}")
    survivors, total = [], Counter[str]()
    for module in modules:
        outcomes = Counter[str]()
        for mutant in mutations(module, source(module)):
            outcome = known.get(mutant.name, {"outcome": "not tried"})["outcome"]
            if mutant.name in equivalent and outcome != "killed":
                outcome = "equivalent"
            elif outcome == "survived":
                survivors.append(f"{module}.py:{mutant.line}  {mutant.name}")
            outcomes[outcome] += 1
        total += outcomes
        print(_row(module, outcomes))
    print(_row("all", total))
    for survivor in survivors:
        print(f"survived: {survivor}")
    return min(len(survivors), 100)


def _row(name: str, outcomes: Counter[str]) -> str:
    values = (outcomes[key] for key in ("killed", "equivalent", "survived", "not tried"))
    killed, equivalent, survived, not_tried = values
    return f"{name:14} {outcomes.total():8} {killed:8} {equivalent:11} {survived:9} {not_tried:10}"


if __name__ == "__main__":
    main()
