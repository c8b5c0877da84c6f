"""The command: the tests that depend on the device, and what a step costs there, with the packages that are there.

Nothing is installed and no network is needed. Every part is a process of its own, one at a time, so that one fault or
one full memory ends no other, and this process never touches the device.
"""

import argparse
import datetime
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
# The most telling first: time may be up before the last.
TESTS = (
    "tests/test_projection.py",
    "tests/test_half_precision.py",
    "tests/test_closure.py",
    "tests/test_transparent.py",
    "tests/test_lagged.py",
    "tests/test_nonfinite.py",
    "tests/test_trees.py",
    "tests/test_transformations.py",
    "tests/test_gradient_count.py",
)
NEEDED = {
    "tests": ("jax", "optax", "chex", "pytest", "hypothesis"),
    "cost": ("jax", "optax", "chex", "flax", "matplotlib", "rich", "scipy", "typer"),
}
COST = ("--cases", "transformer-8,mlp,resnet", "--arms", "line,profit,subtract,transparent,lagged")
COST_QUICK = ("--quick", "--cases", "mlp", "--arms", "profit")

_DESCRIBE = """
import json, platform, jax, optax
device = jax.devices()[0]
print(json.dumps({
    "device": f"{jax.device_count()} x {device.platform}: {device.device_kind}",
    "versions": {"Python": platform.python_version(), "JAX": jax.__version__, "Optax": optax.__version__},
}))
"""


class Outcome(NamedTuple):
    """How a part of the run ended.

    Attributes:
      name: what was run.
      verdict: what is to be said about it in one line.
      passed: whether it ran to its end without a failure.
      output: what it printed.
    """

    name: str
    verdict: str
    passed: bool
    output: str = ""


def missing(part: str) -> list[str]:
    """The packages that a part needs and this interpreter has not."""
    return [name for name in NEEDED[part] if importlib.util.find_spec(name) is None]


def run(name: str, arguments: Sequence[str], seconds: float, **settings: str) -> Outcome:
    """Run Python in a process of its own, for so many seconds at most and with some environment variables set."""
    if seconds <= 0:
        return Outcome(name, "not run: the time was up", passed=False)
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | settings
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return Outcome(name, f"stopped after {seconds:.0f} s", passed=False, output=output)
    lines = done.stdout.strip().splitlines() or [""]
    verdict = lines[-1].strip("= ") if done.returncode in (0, 1) else f"exit status {done.returncode}: {lines[-1]}"
    return Outcome(name, verdict, passed=done.returncode == 0, output=done.stdout)


def test(files: Sequence[str], deadline: float) -> list[Outcome]:
    """Every file of tests, as far as time allows."""
    if packages := missing("tests"):
        return [Outcome("tests", f"not run: {', '.join(packages)} missing here", passed=False)]
    # Other versions of JAX than the suite's own may warn of other things.
    options = (
        "-m",
        "pytest",
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-o",
        "filterwarnings=default",
        "-W",
        "ignore",
    )
    # On GPUs the default rounds the factors of a product to fewer bits than the tolerances of the tests allow for.
    precision = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    return [run(file, (*options, file), deadline - time.monotonic(), **precision) for file in files]


def cost(options: Sequence[str], folder: Path, deadline: float) -> Outcome:
    """The cost benchmark, if its packages are there."""
    if packages := missing("cost"):
        return Outcome("cost", f"not run: {', '.join(packages)} missing here", passed=False)
    arguments = ("-m", "benchmarks.cost", *options, "--output", str(folder))
    outcome = run("cost", arguments, deadline - time.monotonic())
    return outcome._replace(verdict="ran") if outcome.passed else outcome


def describe() -> dict[str, object]:
    """The device and the versions, as a process of its own sees them."""
    outcome = run("device", ("-c", _DESCRIBE), seconds=120)
    if not outcome.passed:
        sys.exit(f"JAX finds no device here, or is not installed:\n{outcome.output}")
    about: dict[str, object] = json.loads(outcome.output.strip().splitlines()[-1])
    return about


def report(about: dict[str, object], tests: Sequence[Outcome], costs: Outcome, table: str, seconds: float) -> str:
    """All of it as Markdown."""
    versions = about["versions"]
    assert isinstance(versions, dict)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"# On {about['device']}",
        "",
        f"{date}; {packages}; `python -m benchmarks.device`; {seconds:.0f} s. In the tests products of float32 are in"
        " float32 (JAX_DEFAULT_MATMUL_PRECISION=highest).",
        "",
        "## Tests",
        "",
        "| tests | result |",
        "|---|---|",
        *(f"| {outcome.name} | {outcome.verdict} |" for outcome in tests),
    ]
    for outcome in [*tests, costs]:
        if not outcome.passed and outcome.output:
            lines += [
                "",
                f"The end of what {outcome.name} printed:",
                "",
                "```",
                *outcome.output.splitlines()[-40:],
                "```",
            ]
    lines += ["", "## Cost", "", table or f"The cost benchmark: {costs.verdict}.", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts and write the report; the exit status is 0 if all of it ran and passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/device"), help="folder of report.md (%(default)s)")
    parser.add_argument("--minutes", type=float, default=9.5, help="when everything ends at the latest (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one file of tests, and a cost run that measures nothing")
    options = parser.parse_args(arguments)

    begin = time.monotonic()
    end = begin + 60 * options.minutes
    about = describe()
    print(f"{about['device']}", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    # The cost benchmark goes first, on a machine that nothing has heated or fragmented, and leaves half the time.
    costs = cost(COST_QUICK if options.quick else COST, options.output.resolve(), begin + 30 * options.minutes)
    print(f"cost: {costs.verdict}", flush=True)
    tests = test(TESTS[:1] if options.quick else TESTS, end)
    for outcome in tests:
        print(f"{outcome.name}: {outcome.verdict}")
    table = (options.output / "cost.md").read_text(encoding="utf-8").split("\n", 2)[2] if costs.passed else ""
    text = report(about, tests, costs, table, time.monotonic() - begin)
    (options.output / "report.md").write_text(text, encoding="utf-8")
    print(f"Report: {options.output / 'report.md'}")
    return 0 if costs.passed and all(outcome.passed for outcome in tests) else 1


if __name__ == "__main__":
    sys.exit(main())
