"""Two processes here fine-tune the demo's model: as one would, to an end when one dies, and on from there."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.forgetting.tasks import digits
from tests.processes.run import END, FORMS, HEARTBEAT_TIMEOUT_S, MIDDLE, N_REF

ROOT = Path(__file__).parents[2]
# Hard limits: whatever runs longer is killed, and the test fails.
LIMIT_S = 180
# How long a process may go on after the other one has died: heartbeats stop, and some seconds to end by itself.
GRACE_S = 3 * HEARTBEAT_TIMEOUT_S


@pytest.fixture(scope="module", autouse=True)
def warnings_as_here(pytestconfig):
    """A warning is an error in the processes, too, unless pytest was told otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", ",".join(pytestconfig.getoption("pythonwarnings") or ["error"]))
        yield


@contextlib.contextmanager
def started(action, task, folder, processes, devices=1):
    """The processes of a run and the files that they print to. None of them is left when this ends."""
    place = [[]]
    if processes > 1:
        port = free_port()
        place = [[str(i), str(processes), port] for i in range(processes)]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # Every run compiles the same programs.
        "JAX_COMPILATION_CACHE_DIR": str(task.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "tests.processes.run", action, str(task), str(folder)]
    logs = [folder / f"{action}-{processes}-{i}.log" for i in range(processes)]
    running = []
    try:
        for words, log in zip(place, logs, strict=True):
            with log.open("w") as file:
                arguments = {"cwd": ROOT, "env": environment, "stdout": file, "stderr": file}
                running.append(subprocess.Popen([*command, *words], **arguments))
        yield running, logs
    finally:
        for process in running:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def finish(*arguments, **options):
    """A run to its end."""
    with started(*arguments, **options) as (running, logs):
        deadline = time.monotonic() + LIMIT_S
        for process, log in zip(running, logs, strict=True):
            process.wait(timeout=max(0, deadline - time.monotonic()))
            assert process.returncode == 0, log.read_text()


def wait_for(line, running, logs):
    """Until every process has printed a line."""
    deadline = time.monotonic() + LIMIT_S
    while not all(line in log.read_text().splitlines() for log in logs):
        assert all(process.poll() is None for process in running), [log.read_text() for log in logs]
        assert time.monotonic() < deadline, [log.read_text() for log in logs]
        time.sleep(0.1)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The archive of the demo's first seed: converged parameters, and rotated digits to learn."""
    demo = digits.check_converged(digits.rotated_digits(seeds=[0], angle=35.0))
    params = jax.tree.map(lambda x: x[0], demo.params)
    arrays = {jax.tree_util.keystr(path): x for path, x in jax.tree.leaves_with_path(params)}
    path = tmp_path_factory.mktemp("task") / "task.npz"
    np.savez(path, images=demo.data.new_images[demo.train[0]], labels=demo.data.labels[demo.train[0]], **arrays)
    return path


@pytest.fixture(scope="module")
def straight(task):
    """The end of a run in two processes that nothing happened to."""
    finish("straight", task, task.parent, 2)
    return dict(np.load(task.parent / "straight-2.npz"))


def flat(arrays, start):
    return np.concatenate([np.ravel(x) for name, x in arrays.items() if name.startswith(start)])


def test_two_processes_end_where_one_with_two_devices_does(task, straight):
    finish("straight", task, task.parent, 1, devices=2)
    one = dict(np.load(task.parent / "straight-1.npz"))
    assert one.keys() == straight.keys()
    for form in FORMS:
        theta, expected = (flat(arrays, f"{form}['theta']") for arrays in (straight, one))
        assert np.linalg.norm(theta - expected) <= 2e-6 * np.linalg.norm(expected)
        cosines = straight[f"{form} cosines"]
        np.testing.assert_allclose(cosines, one[f"{form} cosines"], atol=1e-4)
        main = cosines[N_REF :: N_REF + 1] if form == "transparent" else cosines
        assert {True, False} == set(main < 0)


@pytest.mark.parametrize("victim", [0, 1], ids=["coordinator", "other"])
def test_when_one_process_is_killed_the_other_ends_and_a_restart_goes_on_bit_for_bit(task, straight, victim, tmp_path):
    with started("endless", task, tmp_path, 2) as (running, logs):
        wait_for("saved", running, logs)
        running[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        survivor, log = running[1 - victim], logs[1 - victim]
        assert survivor.wait(timeout=GRACE_S) != 0, log.read_text()
        assert time.monotonic() - killed <= GRACE_S
    assert log.read_text().splitlines()[-1] != "saved"
    finish("resume", task, tmp_path, 2)
    resumed = dict(np.load(tmp_path / "resumed-2.npz"))
    assert resumed.keys() == straight.keys()
    for name, x in resumed.items():
        expected = straight[name][MIDDLE:END] if name.endswith("cosines") else straight[name]
        np.testing.assert_array_equal(x, expected, err_msg=name)
