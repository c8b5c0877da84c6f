"""The paper's figure: the truth and what each row's model predicts, as heat maps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.forgetting.report import save
from benchmarks.forgetting.tasks.toy import NEW_SQUARE, OLD_SQUARE

# Both squares and a little around them.
_RANGE = (-1.2, 1.6)


def grid(points: int) -> np.ndarray:
    """`points` x `points` places over both squares, [points², 2]."""
    side = np.linspace(*_RANGE, points, dtype=np.float32)
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


def draw(path: Path, maps: Mapping[str, np.ndarray], title: str) -> None:
    """A panel for each map of values on `grid`, as a PNG."""
    columns = -(-len(maps) // 2)
    figure = Figure(figsize=(3.3 * columns + 0.8, 7.2), layout="constrained")
    panels = figure.subplots(2, columns, sharex=True, sharey=True).ravel()
    for panel, (name, values) in zip(panels, maps.items(), strict=False):
        _panel(panel, name, values)
    for panel in panels[len(maps) :]:
        panel.set_axis_off()
    figure.colorbar(panels[0].images[0], ax=panels.tolist(), shrink=0.6, extend="both")
    figure.suptitle(title)
    save(figure, path, dpi=110)


def _panel(panel: Axes, name: str, values: np.ndarray) -> None:
    side = round(len(values) ** 0.5)
    image = values.reshape(side, side)
    panel.imshow(image, origin="lower", extent=(*_RANGE, *_RANGE), vmin=-1.0, vmax=1.0, cmap="coolwarm")
    for (low, high), style in ((OLD_SQUARE, "-"), (NEW_SQUARE, "--")):
        panel.add_patch(Rectangle((low, low), high - low, high - low, fill=False, linestyle=style, linewidth=1.2))
    panel.set_title(name)
