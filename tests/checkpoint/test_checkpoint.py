"""A run that was killed goes on from its checkpoint as if nothing had been, also on other devices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FORMS = ["closure", "transparent", "one-line"]
ROOT = Path(__file__).parents[2]


def process(*arguments, devices):
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-W", "error", "-m", "tests.checkpoint.run", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(*arguments, devices=1):
    running = process(*arguments, devices=devices)
    _, errors = running.communicate()
    assert running.returncode == 0, errors
    # What Orbax has to say against its use it says in its log.
    assert "deprecat" not in errors.lower()


def resumed(directory, out, devices=1):
    finish("resume", directory, out, devices=devices)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What a run on one device left behind when it was killed."""
    directory = tmp_path_factory.mktemp("checkpoint")
    running = process("endless", directory, devices=1)
    assert running.stdout.readline() == "saved\n", running.stderr.read()
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    return directory


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight") / "out.npz"
    finish("straight", out)
    return dict(np.load(out))


@pytest.fixture(scope="module")
def on_one(checkpoint, tmp_path_factory):
    return resumed(checkpoint, tmp_path_factory.mktemp("one") / "out.npz")


@pytest.fixture(scope="module")
def on_eight(checkpoint, tmp_path_factory):
    return resumed(checkpoint, tmp_path_factory.mktemp("eight") / "out.npz", devices=8)


@pytest.fixture(scope="module")
def on_eight_and_back(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("back")
    finish("resave", checkpoint, directory / "checkpoint", devices=8)
    return resumed(directory / "checkpoint", directory / "out.npz")


def part(arrays, name):
    found = {key: x for key, x in arrays.items() if key.startswith(name)}
    assert found
    return found


def assert_same_bits(arrays, other):
    assert arrays.keys() == other.keys()
    for key in arrays:
        assert arrays[key].dtype == other[key].dtype
        assert arrays[key].tobytes() == other[key].tobytes(), key


@pytest.mark.parametrize("form", FORMS)
def test_the_resumed_run_is_the_uninterrupted_one_bit_for_bit(form, on_one, straight):
    assert_same_bits(part(on_one, f"{form} end"), part(straight, f"{form} end"))


def test_the_checkpoint_of_the_transparent_form_lies_in_the_middle_of_a_cycle(on_one):
    restored = part(on_one, "transparent restored")
    assert restored["transparent restored['opt_state'].reference_step"] == 1
    for name in ("w", "v"):
        displaced, theta = (restored[f"transparent restored['{place}']['{name}']"] for place in ("params", "theta"))
        assert not np.array_equal(displaced, theta)


def test_the_projection_fired_before_and_after_the_break(on_one):
    for form in FORMS:
        for moment in ("restored", "end"):
            # The one line's state lies in that of a chain.
            state = f"{form} {moment}['opt_state']" + ("[0]" if form == "one-line" else "")
            assert on_one[f"{state}.metrics.cosine"] != 0


@pytest.mark.parametrize("form", FORMS)
def test_what_is_restored_on_other_devices_has_the_same_bits(form, on_one, on_eight, on_eight_and_back):
    for other in (on_eight, on_eight_and_back):
        assert_same_bits(part(other, f"{form} restored"), part(on_one, f"{form} restored"))


@pytest.mark.parametrize("form", FORMS)
def test_back_on_one_device_the_run_is_the_uninterrupted_one_bit_for_bit(form, on_eight_and_back, straight):
    assert_same_bits(part(on_eight_and_back, f"{form} end"), part(straight, f"{form} end"))


@pytest.mark.parametrize("form", FORMS)
def test_on_eight_devices_the_run_goes_on_to_rounding(form, on_eight, straight):
    moved, expected = part(on_eight, f"{form} end['theta']"), part(straight, f"{form} end['theta']")
    difference = np.concatenate([np.ravel(moved[key] - expected[key]) for key in expected])
    norm = np.linalg.norm(np.concatenate([np.ravel(x) for x in expected.values()]))
    assert np.linalg.norm(difference) <= 16 * np.finfo(np.float32).eps * norm
