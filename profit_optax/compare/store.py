"""What a killed comparison goes on from: finished runs as JSON, and the last state of the one that was running.

Every file is written beside its place and moved there, so that a kill leaves the old one or the new one.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from profit_optax.compare import fingerprint
from profit_optax.compare.errors import CompareError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there nothing keeps two comparisons apart.
    fcntl = None  # type: ignore[assignment]


class Store:
    """A folder of one comparison."""

    def __init__(self, folder: Path):
        self._folder = folder

    def settings(self) -> dict[str, Any]:
        """What the comparison in this folder was started with; empty if there is none."""
        return self.read("settings", dict) or {}

    def has(self, name: str) -> bool:
        """Whether something was written under that name."""
        return self._path(name, "json").exists()

    def check(self, settings: dict[str, Any], unused: bool = False) -> None:
        """Keep the settings, or say which of them are not those that the folder's runs were made with.

        Args:
          settings: by name.
          unused: whether nothing was made yet with the settings that stand there: these are in place of all of them.
        """
        stored = self.settings()
        before = {} if unused else stored
        changed = [name for name in settings if name in before and before[name] != settings[name]]
        if changed:
            lines = "".join(f"\n  {name}: was {before[name]}, is {settings[name]}" for name in changed)
            raise CompareError(
                f"the comparison in {self._folder} was started with other settings:{lines}\nName an empty folder "
                "for the new comparison (output), or go back to what it was."
            )
        if before | settings != stored:
            self.write("settings", before | settings)

    def read(self, name: str, made: Callable[[Any], Any] = lambda content: content) -> Any:
        """What `made` makes of what was written under that name; None if nothing was.

        Raises:
          CompareError: if the file is damaged, or is none of that kind.
        """
        if not self.has(name):
            return None
        path = self._path(name, "json")
        with readable(path):
            return made(json.loads(path.read_text(encoding="utf-8")))

    def write(self, name: str, content: Any) -> None:
        """Keep something that JSON can hold."""
        write_json(self._path(name, "json"), content)

    def save_state(self, name: str, state: Any, record: Any) -> None:
        """Keep where a run is, in place of where it was."""
        leaves = [fingerprint.to_numpy(leaf) for leaf in jax.tree.leaves(state)]
        # As bytes: NumPy's files know no bfloat16.
        arrays = {f"{i}": np.frombuffer(leaf.tobytes(), np.uint8) for i, leaf in enumerate(leaves)}
        about = np.frombuffer(json.dumps(record).encode(), np.uint8)
        write(self._path(name, "npz"), lambda file: np.savez(file, allow_pickle=False, about=about, **arrays))

    def load_state(self, name: str, like: Any, record: Any = None) -> tuple[Any, Any]:
        """The state last kept, as arrays like those of `like`, and its record; those given if there is none."""
        path = self._path(name, "npz")
        if not path.exists():
            return like, record
        # Opened here: NumPy leaves a damaged file open.
        with readable(path), open(path, "rb") as file, np.load(file) as saved:
            record = json.loads(saved["about"].tobytes())
            leaves = [_restored(saved[f"{i}"], leaf) for i, leaf in enumerate(jax.tree.leaves(like))]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), record

    def forget_state(self, name: str) -> None:
        """The run is finished."""
        self._path(name, "npz").unlink(missing_ok=True)

    def _path(self, name: str, suffix: str) -> Path:
        if "/" not in name:
            return self._folder / f"{name}.{suffix}"
        # A method's name may hold what no file's may, and two of them may differ in that alone.
        words = re.sub(r"[^A-Za-z0-9.+-]+", "_", name.partition("/")[2])
        return self._folder / "runs" / f"{words}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.{suffix}"


@contextlib.contextmanager
def opened(folder: Path | None) -> Iterator[Store | None]:
    """The store in a folder that no other comparison uses meanwhile; None for no folder."""
    if folder is None:
        yield None
        return
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    with lock:
        # The system lets go of it when the process ends, however it ends.
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CompareError(
                    f"another comparison runs in {folder}: wait for it, or take another folder."
                ) from None
        yield Store(folder)


def write_json(path: Path, content: Any, digits: int | None = None, indent: int | None = 1) -> None:
    """A JSON file, in one go; null stands for what is no finite number, and `digits` is as `plain` has it."""
    write_text(path, json.dumps(plain(content, digits), allow_nan=False, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file, in one go."""
    write(path, lambda file: file.write(text.encode()))


def write(path: Path, write_to: Callable[[Any], Any]) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    unfinished = path.with_name(path.name + ".unfinished")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(unfinished, "wb") as file:
                write_to(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise


def plain(value: Any, digits: int | None = None) -> Any:
    """What JSON can hold: named tuples as objects, and null for what is no finite number.

    Args:
      value: a tree of dictionaries, lists, tuples, arrays and leaves that JSON knows.
      digits: how many significant digits of a float are kept; None for all.
    """
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict(), digits)
    if isinstance(value, dict):
        return {str(name): plain(field, digits) for name, field in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), digits)
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    return value


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CompareError(
            f"{path} cannot be written: {error.strerror or error}. What was finished before is kept: make room or name "
            "another folder, and start the same comparison again."
        ) from error


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Says which file is damaged, where reading it fails."""
    try:
        yield
    # What damage makes of a file is anything: no JSON, no archive, other names, other sizes.
    except (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zipfile.BadZipFile) as error:
        raise CompareError(
            f"{path} is damaged ({type(error).__name__}: {error}): remove it, and what it held is computed anew."
        ) from error


def _restored(raw: np.ndarray, like: Any) -> jax.Array:
    is_key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
    data = jax.random.key_data(like) if is_key else like
    array = np.frombuffer(raw.tobytes(), np.dtype(data.dtype)).reshape(data.shape)
    placed = jax.device_put(array, data.sharding) if data.committed else jnp.asarray(array)
    return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if is_key else placed
