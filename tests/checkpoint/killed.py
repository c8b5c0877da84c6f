"""Kills a run that checkpoints, again and again at random moments: `python -m tests.checkpoint.killed --kills 50`.

The run starts anew after each kill, from the newest checkpoint that is whole, until it has come to its end by itself.
It must end with the bits of a run that nothing happened to.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
# A run that needs longer than this to come further has hung.
LIMIT_S = 300


# A life is killed during or after so many calls at most; and so many calls of each of the three forms there are for it.
MOST_CALLS, CALLS_A_LIFE = 5, 3


class Kills(NamedTuple):
    """What happened to a run.

    Attributes:
      kills: how often it was killed.
      beginnings: with which call of which form each life after the first one began.
      in_a_save: how many of the kills left a checkpoint that was not whole.
    """

    kills: int
    beginnings: list[str]
    in_a_save: int


def start(action: str, *arguments: Any, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        # Every life compiles the same programs.
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", "-m", "tests.checkpoint.run", action, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_and_kill(kills: int, folder: Path, seed: int, log: Any = None) -> Kills:
    """Kills `tests.checkpoint.run lives` so many times, and lets it come to its end."""
    moments = random.Random(seed)
    beginnings, in_a_save = [], 0
    for life in range(kills + 1):
        running = start("lives", folder / "checkpoints", folder / "lived.npz", calls_of(kills), cache=folder / "cache")
        assert running.stdout
        first = running.stdout.readline().strip()
        assert first, running.communicate()[1]
        beginnings += [first] if life else []
        if life == kills:
            _, errors = running.communicate(timeout=LIMIT_S)
            assert running.returncode == 0, errors
            return Kills(kills, beginnings, in_a_save)
        for _ in range(moments.randrange(MOST_CALLS)):
            running.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert running.returncode == -signal.SIGKILL, "it had ended before it was killed"
        in_a_save += any("tmp" in path.name for path in (folder / "checkpoints").rglob("*"))
        if log:
            print(f"kill {life + 1} of a life that began with call {first}", file=log, flush=True)
    raise AssertionError


def calls_of(kills: int) -> int:
    return CALLS_A_LIFE * (kills + 1)


def assert_same_end(kills: int, folder: Path) -> None:
    """The run that was killed ended as the one that was not, bit for bit."""
    straight = start("straight", folder / "straight.npz", calls_of(kills), cache=folder / "cache")
    _, errors = straight.communicate(timeout=LIMIT_S)
    assert straight.returncode == 0, errors
    lived, expected = (dict(np.load(folder / f"{name}.npz")) for name in ("lived", "straight"))
    assert lived.keys() == expected.keys()
    for name, x in expected.items():
        assert lived[name].dtype == x.dtype
        assert lived[name].tobytes() == x.tobytes(), name


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.checkpoint.killed", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = run_and_kill(arguments.kills, Path(folder), arguments.seed, log=sys.stdout)
        assert_same_end(arguments.kills, Path(folder))
    print(
        f"{seen.kills} kills, {len(set(seen.beginnings))} different beginnings, {seen.in_a_save} with an unfinished "
        "checkpoint left behind: the end is that of the run that nothing happened to, bit for bit."
    )


if __name__ == "__main__":
    main()
