"""Files that are whole or not there, states to the bit, one comparison a folder."""

import errno
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from profit_optax.compare import store
from profit_optax.compare.errors import CompareError
from profit_optax.compare.fingerprint import of_program, of_what_is_read
from profit_optax.compare.store import Store, opened


def test_a_state_comes_back_to_the_bit_whatever_its_dtypes(tmp_path):
    state = {
        "f": jnp.array([1.0, -0.0, jnp.nan]),
        "b": jnp.array([[1.5], [2.5]], jnp.bfloat16),
        "i": jnp.int32(7),
        "k": jax.random.key(3),
        "n": None,
        "e": jnp.zeros((0, 2)),
    }
    Store(tmp_path).save_state("runs/a b 1", state, {"done": 2, "scores": [0.1]})
    like = jax.tree.map(jnp.zeros_like, state | {"k": jax.random.key(0)})
    found, record = Store(tmp_path).load_state("runs/a b 1", like | {"k": jax.random.key(0)})
    assert record == {"done": 2, "scores": [0.1]}
    for name in ("f", "b", "i", "e"):
        assert found[name].dtype == state[name].dtype
        assert np.asarray(found[name]).tobytes() == np.asarray(state[name]).tobytes()
    assert jax.random.uniform(found["k"]) == jax.random.uniform(state["k"])


def test_there_is_nothing_to_go_on_from_at_first_and_after_the_end(tmp_path):
    kept = Store(tmp_path)
    assert kept.load_state("runs/a", 5) == (5, None)
    kept.save_state("runs/a", jnp.ones(1), {})
    kept.forget_state("runs/a")
    assert kept.load_state("runs/a", 5) == (5, None)
    assert kept.read("settings") is None


def test_what_changed_is_said_and_what_is_new_is_added(tmp_path):
    kept = Store(tmp_path)
    kept.check({"gradients": 10, "params": "a"})
    kept.check({"gradients": 10, "program": "p"})
    with pytest.raises(CompareError, match="gradients: was 10, is 20\n"):
        kept.check({"gradients": 20, "params": "a", "program": "p"})
    assert kept.settings() == {"gradients": 10, "params": "a", "program": "p"}


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path):
    store.write_json(tmp_path / "a.json", 1)

    def full(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CompareError, match=r"No space left on device.*make room"):
        store.write(tmp_path / "a.json", full)
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_in_place_of_the_folder_says_so(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(CompareError, match="cannot be written"), opened(tmp_path / "a"):
        pass


def test_two_comparisons_do_not_share_a_folder(tmp_path):
    hold = "import sys; from profit_optax.compare.store import opened\n"
    hold += "with opened(__import__('pathlib').Path(sys.argv[1])): print('in', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(CompareError, match="another comparison runs"), opened(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    with opened(tmp_path) as kept:
        assert kept is not None


def test_what_a_function_reads_is_found_through_closures_jit_partials_and_methods():
    def reads(array, again=1.0):
        inner = jax.jit(lambda x: x * array)

        class Scorer:
            def score(self, x):
                return inner(x) + again

        return functools.partial(Scorer().score, np.zeros(2))

    first, same = of_what_is_read(reads(jnp.ones(2))), of_what_is_read(reads(np.ones(2, np.float32)))
    assert first == same
    assert of_what_is_read(reads(jnp.zeros(2)))["arrays"] != first["arrays"]
    names = np.array(["a", None], object)  # Its bits are addresses.
    assert of_what_is_read(lambda: names)["arrays"] == of_what_is_read(lambda: None)["arrays"]
    circle = {"held out": np.ones(1)}
    circle["itself"] = circle
    assert of_what_is_read(lambda: circle)["arrays"] != of_what_is_read(lambda: None)["arrays"]
    # The order of what numbers stand for is not that of their size.
    first, other = (of_what_is_read(functools.partial(lambda: None, *pair)) for pair in ((1.0, 2.0), (2.0, 1.0)))
    assert first["numbers"] != other["numbers"]
    assert first["functions"] == other["functions"]
    log = [np.ones(1)]  # What it has seen so far.
    assert of_what_is_read(lambda: log.append(0))["arrays"] == of_what_is_read(lambda: None)["arrays"]


def test_a_program_has_the_same_hash_on_a_terminal():
    traced = jax.jit(lambda x: jnp.sin(x @ x)).trace(jnp.ones((3, 3))).jaxpr

    class OnTerminal:
        """As JAX prints it where it finds a terminal as it is imported."""

        consts = traced.consts

        def __str__(self):
            return traced.pretty_print(use_color=True)

    assert "\x1b[" in str(OnTerminal())
    assert of_program(OnTerminal()) == of_program(traced)


def test_json_has_null_for_what_is_not_finite(tmp_path):
    store.write_json(tmp_path / "a.json", {"a": (1.0, float("inf")), 2: np.array([np.nan])})
    assert Store(tmp_path).read("a") == {"a": [1.0, None], "2": [None]}


def test_a_damaged_state_is_named(tmp_path):
    kept, state = Store(tmp_path), {"w": jnp.ones(3)}
    kept.save_state("runs/a", state, {"done": 1})
    (path,) = (tmp_path / "runs").glob("*.npz")
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no archive"):
        path.write_bytes(content)
        with pytest.raises(CompareError, match=f"{path.name} is damaged"):
            kept.load_state("runs/a", state)
    path.write_bytes(whole)
    with pytest.raises(CompareError, match="is damaged"):
        kept.load_state("runs/a", {"w": jnp.ones(4)})
    assert kept.load_state("runs/a", state)[1] == {"done": 1}
