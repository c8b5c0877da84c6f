"""What a comparison ends with where it cannot go on."""

import sysconfig
import traceback
from pathlib import Path

PACKAGE = str(Path(__file__).parents[1])
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

KEPT = "What was finished is kept where there is an output folder: mend it and start the same comparison again."
# Of a scorer that has given scores.
SCORED = (
    "What was finished is kept where there is an output folder, for this scorer: start the same comparison again, or, "
    "with another `evaluate`, one in another folder."
)


class CompareError(RuntimeError):
    """A comparison cannot go on; what it finished is kept where there is an output folder."""


class NotFiniteError(CompareError):
    """A loss, parameters or a score of a run are not finite: above all where a rate is too high.

    Attributes:
      method: the method's name.
      rate: its rate.
    """

    def __init__(self, text: str, method: str, rate: float):
        super().__init__(text)
        self.method, self.rate = method, rate


def said(error: Exception) -> str:
    """An error and where it was raised: the last line of the user's own files, where one took part."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((PACKAGE, "<", *INSTALLED))]
    last = (own or frames)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
