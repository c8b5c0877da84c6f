"""Windows of real trajectories, split so that nothing that is scored overlaps with what is trained on.

A file is NumPy's archive of float32 arrays [n, 20, 2] under the names in `SOURCES`: 8 past and 12 future positions in
metres, 0.4 s apart, in the order in which they were recorded, the 8th at the origin and the past heading along +x.
Windows that move less than 0.5 m in the past are left out, and neighbours share half of their positions or more.
The sources are the Stanford Drone Dataset (SDD; CC BY-NC-SA 3.0), the VRU trajectory data set, ETH and UCY.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from benchmarks.forgetting.tasks.arrays import load_arrays

PAST, FUTURE = 8, 12
# Who moves, and under which names. Skaters are neither.
SOURCES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vehicles": ("VRU cyclists", "SDD Biker", "SDD Car", "SDD Cart", "SDD Bus"),
        "pedestrians": ("VRU pedestrians", "SDD Pedestrian", "ETH_UCY peds"),
    }
)
# Parts of every source in the order of recording: to train on, to tune on, to report on.
_PARTS = (0.7, 0.1, 0.2)
# Windows left out between parts: neighbours share positions.
_GAP = 20


class Split(NamedTuple):
    """The windows of one kind, each [n, 20, 2].

    Attributes:
      train: to train on.
      held_out: to tune on.
      test: to report on.
    """

    train: np.ndarray
    held_out: np.ndarray
    test: np.ndarray


def load(path: Path) -> dict[str, Split]:
    """The windows by who moves.

    Raises:
      ArraysError: if there is no such file, or something is missing in it.
    """
    arrays = load_arrays(path, needed=[name for names in SOURCES.values() for name in names])
    return {who: joined([split(arrays[name]) for name in names]) for who, names in SOURCES.items()}


def split(windows: np.ndarray) -> Split:
    """One source in the order of recording, with gaps between the parts."""
    ends = np.round(np.cumsum(_PARTS) * len(windows)).astype(int)
    train, held_out, test = np.split(windows, ends[:-1])
    return Split(train, held_out[_GAP:], test[_GAP:])


def joined(splits: Sequence[Split]) -> Split:
    """The same parts of several sources together."""
    return Split(*(np.concatenate(parts) for parts in zip(*splits, strict=True)))
