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
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
# The most telling first: time may be up before the last.
TESTS = (
    "tests/test_projection.py",
    "tests/test_half_precision.py",
    "tests/test_closure.py",
    "tests/test_transparent.py",
    "tests/test_previous.py",
    "tests/test_call_by_call.py",
    "tests/test_nonfinite.py",
    "tests/test_trees.py",
    "tests/test_transformations.py",
    "tests/test_gradient_count.py",
)
# The suite's folder for eight devices, where that many are there.
SEVERAL, DEVICES = "tests/multidevice", 8
NEEDED = {
    "tests": ("jax", "optax", "chex", "flax", "pytest", "hypothesis"),
    "cost": ("jax", "optax", "chex", "flax", "matplotlib", "rich", "scipy", "typer"),
}
CASES = ("transformer-8", "mlp", "resnet", "transformer-1", "lora")
COST = ("--arms", "line,profit,subtract,transparent,one-line", "--compilations", "1")
COST_QUICK = ("--quick", "--arms", "profit")
# Other versions of JAX than the suite's own may warn of other things, and may lack what README's blocks are run with.
PYTEST = ("-q", "--no-header", "-p", "no:cacheprovider", "-W", "ignore", "--confcutdir=tests")

_DESCRIBE = """
import importlib.metadata, json, platform, jax
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
print(json.dumps({
    "count": jax.device_count(),
    "device": f"{jax.device_count()} x {jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
    "versions": {"python": platform.python_version()} | {n: version(n) for n in ("jax", "jaxlib", "optax", "flax")},
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
    # These choose other tests, and other devices, than those that are meant.
    inherited = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_ENABLE_X64")}
    environment = inherited | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | settings
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            return Outcome(name, f"stopped after {seconds:.0f} s", passed=False, output=_text(printed))
    status = "ran" if process.returncode == 0 else f"exit status {process.returncode}"
    return Outcome(name, status, passed=process.returncode == 0, output=_text(printed))


def _text(printed: bytes) -> str:
    return printed.decode("utf-8", errors="replace")


def test(files: Sequence[str], deadline: float) -> list[Outcome]:
    """Every file of tests, as far as time allows."""
    if packages := missing("tests"):
        return [Outcome("tests", f"not run: {', '.join(packages)} missing here", passed=False)]
    # On GPUs the default rounds the factors of a product to fewer bits than the tolerances of the tests allow for.
    precision = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    outcomes = []
    for file in files:
        outcome = run(file, ("-m", "pytest", *PYTEST, file), deadline - time.monotonic(), **precision)
        counted = [line for line in outcome.output.splitlines() if " passed" in line or " failed" in line]
        # An exit status of 1 is that of tests that ran and failed.
        finished = counted and outcome.verdict in ("ran", "exit status 1")
        outcomes.append(outcome._replace(verdict=counted[-1].strip("= ")) if finished else outcome)
    return outcomes


def cost(cases: Sequence[str], options: Sequence[str], folder: Path, deadline: float) -> list[Outcome]:
    """The cost benchmark case by case, as far as its packages are there and time allows."""
    if packages := missing("cost"):
        return [Outcome("cost", f"not run: {', '.join(packages)} missing here", passed=False)]
    outcomes = []
    for case in cases:
        arguments = ("-m", "benchmarks.cost", "--cases", case, *options, "--output", str(folder / case))
        outcomes.append(run(f"cost of {case}", arguments, deadline - time.monotonic()))
    return outcomes


def cost_table(path: Path) -> list[str]:
    """The section of the one case in a report of the cost benchmark: its goals are for CPUs, and left out."""
    text = path.read_text(encoding="utf-8")
    start = text.index("\n## ", text.index("## Goals") + 1)
    return text[start:].strip().splitlines()


def describe() -> dict[str, Any]:
    """The devices and the versions, as a process of its own sees them."""
    outcome = run("device", ("-c", _DESCRIBE), seconds=120)
    lines = [line for line in outcome.output.splitlines() if line.startswith("{")]
    if not outcome.passed or not lines:
        sys.exit(f"JAX is not installed for {sys.executable}, or finds no device:\n{outcome.output}")
    about: dict[str, Any] = json.loads(lines[-1])
    return about


def report(
    about: dict[str, Any], tests: Sequence[Outcome], costs: Sequence[Outcome], tables: Sequence[str], seconds: float
) -> str:
    """All of it as Markdown."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    packages = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [
        f"# On {about['device']}",
        "",
        f"{date}; {packages}; `python -m benchmarks.device`; {seconds:.0f} s. In the tests products of float32 are in"
        " float32 (JAX_DEFAULT_MATMUL_PRECISION=highest), in the cost benchmark they are as JAX has them.",
        "",
        "| part | result |",
        "|---|---|",
        *(f"| {outcome.name} | {outcome.verdict} |" for outcome in [*tests, *costs]),
    ]
    for outcome in [*tests, *costs]:
        if not outcome.passed and outcome.output:
            end = outcome.output.splitlines()[-40:]
            lines += ["", f"The end of what {outcome.name} printed:", "", "```", *end, "```"]
    return "\n".join([*lines, "", *tables, ""])


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0
    if not 0 < minutes < 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0 and below 10,000.")
    return minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts and write the report; the exit status is 0 if all of it ran and passed."""
    try:
        return _main(arguments)
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/device"), help="folder of report.md (%(default)s)")
    parser.add_argument("--minutes", type=_minutes, default=9.5, help="when all of it ends at the latest (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one file of tests, and a cost run that measures nothing")
    options = parser.parse_args(arguments)

    begin = time.monotonic()
    seconds = 60 * options.minutes
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    about = describe()
    print(about["device"], flush=True)
    # Costs first, on a machine that nothing else has kept busy. They leave half of the time to the tests.
    cases = CASES[1:2] if options.quick else CASES
    costs = cost(cases, COST_QUICK if options.quick else COST, folder, begin + seconds / 2)
    files = TESTS[:1] if options.quick else TESTS + (SEVERAL,) * (about["count"] >= DEVICES)
    tests = test(files, begin + seconds)
    tables = [
        line
        for case, outcome in zip(cases, costs, strict=False)
        if outcome.passed
        for line in [*cost_table(folder / case / "cost.md"), ""]
    ]
    text = report(about, tests, costs, tables, time.monotonic() - begin)
    for outcome in [*costs, *tests]:
        print(f"{outcome.name}: {outcome.verdict}")
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(f"Report: {options.output / 'report.md'}")
    return 0 if all(outcome.passed for outcome in [*costs, *tests]) else 1


if __name__ == "__main__":
    sys.exit(main())
