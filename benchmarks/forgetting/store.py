"""What a killed command goes on from: finished runs as JSON files, and the last state of the one that was running."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from benchmarks.forgetting.tasks import Scores
from profit_optax.compare.store import plain, write


class Store:
    """The files of one run in a folder, found again by what the run is."""

    def __init__(self, folder: Path, identity: dict[str, Any]):
        """Files in `folder` whose name is made of `identity`, which tells this run from all others."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self._identity = identity
        self._finished = folder / f"{digest}.json"
        self._state = folder / f"{digest}.msgpack"

    def run(self) -> dict[str, Any] | None:
        """The fields of the finished run, or None if it is not finished."""
        if not self._finished.exists():
            return None
        fields = json.loads(self._finished.read_text(encoding="utf-8"))["run"]
        arrays = {name: np.array(fields[name], float) for name in ("old", "new")}
        metrics = {name: np.array(values, float) for name, values in fields["metrics"].items()}
        return {**fields, **arrays, "steps": np.array(fields["steps"]), "metrics": metrics}

    def finish(self, run: dict[str, Any]) -> None:
        """Keep a finished run and forget its state."""
        text = json.dumps(plain({"identity": self._identity, "run": run}), allow_nan=False)
        write(self._finished, lambda file: file.write(text.encode()))
        self._state.unlink(missing_ok=True)

    def save(self, state: Any, records: list[Any], seconds: float) -> None:
        """Keep where a run is, in place of where it was."""
        content = serialization.to_bytes({"state": state, "records": records, "seconds": seconds})
        write(self._state, lambda file: file.write(content))

    def resume(self, state: Any) -> tuple[Any, list[Any], float]:
        """The state last saved, the evaluations until there and their seconds; `state` and none if there is none."""
        if not self._state.exists():
            return state, [], 0.0
        saved = serialization.msgpack_restore(self._state.read_bytes())
        state = jax.tree.map(jax.numpy.asarray, serialization.from_state_dict(state, saved["state"]))
        return state, _records(saved["records"]), float(saved["seconds"])


def _records(saved: dict[str, Any]) -> list[Any]:
    in_order = (saved[str(i)] for i in range(len(saved)))
    return [(Scores(**record["0"]), dict(record["1"])) for record in in_order]
