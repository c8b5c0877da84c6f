"""Runs that are killed at random moments, disks that are full, and checkpoints that are damaged."""

import contextlib
import gc
import resource
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.checkpoint import killed, run
from tests.forms import assert_same

KILLS = 3
# After an error Orbax leaves coroutines that nobody awaits, whenever they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


def test_a_run_that_is_killed_at_random_moments_ends_with_the_bits_of_one_that_is_not(tmp_path):
    seen = killed.run_and_kill(KILLS, tmp_path, seed=0)
    # It came further between the kills: it did not begin anew each time.
    assert len(seen.beginnings) == KILLS
    assert seen.beginnings[-1] != "closure 0"
    killed.assert_same_end(KILLS, tmp_path)


@pytest.fixture
def manager(tmp_path):
    manager = ocp.CheckpointManager(tmp_path / "checkpoints")
    yield manager
    # What a save has said already it may say again here.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        manager.close()
    # It leaves tasks that nobody has asked for their errors: these are to be told of while output is captured.
    del manager
    gc.collect()


@pytest.fixture
def kept(manager, form):
    """Two calls of a run: what was saved after the first, and what there is after the second."""
    run_ = run.train(form, run.initial(form), 0, 1)
    save(manager, 1, run_)
    before = jax.tree.map(np.array, run_)
    return before, run.train(form, run_, 1, 2)


def restored(manager, form, step=None):
    step = manager.latest_step() if step is None else step
    return jax.tree.map(np.array, manager.restore(step, args=ocp.args.StandardRestore(run.abstract(form))))


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond some bytes: what comes is the error that a full disk gives."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def save(manager, step, run_):
    manager.save(step, args=ocp.args.StandardSave(run_))
    manager.wait_until_finished()


@pytest.mark.parametrize("form", run.FORMS)
def test_on_a_full_disk_saving_is_an_error_and_the_checkpoint_before_stays_whole(manager, form, kept):
    before, after = kept
    with full_disk(), pytest.raises((OSError, ValueError, RuntimeError)):
        save(manager, 2, after)
    with ocp.CheckpointManager(manager.directory) as anew:
        assert anew.latest_step() == 1
        assert_same(restored(anew, form), before)


@pytest.mark.parametrize("form", run.FORMS)
@pytest.mark.parametrize("damage", ["cut off", "overwritten", "missing"])
def test_a_damaged_checkpoint_is_an_error_and_the_one_before_stays_whole(manager, form, kept, damage):
    before, after = kept
    save(manager, 2, after)
    files = [path for path in (Path(manager.directory) / "2").rglob("*") if path.is_file() and "/d/" in str(path)]
    assert files
    for file in files:
        content = file.read_bytes()
        if damage == "cut off":
            file.write_bytes(content[: len(content) // 2])
        elif damage == "overwritten":
            file.write_bytes(bytes(len(content)))
        else:
            file.unlink()
    with ocp.CheckpointManager(manager.directory) as anew:
        with pytest.raises((OSError, ValueError, KeyError)):
            restored(anew, form, 2)
        assert_same(restored(anew, form, 1), before)
