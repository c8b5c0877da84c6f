"""Methods that a command is asked for: by their names, or out of a file."""

from collections.abc import Sequence

from benchmarks.forgetting.compared import as_arm
from benchmarks.forgetting.methods import Method
from profit_optax import compare
from profit_optax.compare.errors import CompareError
from profit_optax.compare.files import load

METHODS_HELP = "Methods by their names, or FILE.py:NAME of a Method of the experiments or of profit_optax.compare."


def methods_named(text: str, known: Sequence[Method]) -> list[Method]:
    """The methods of that list of names, between commas.

    Raises:
      CompareError: for a name that is none of the known methods' and no file's.
    """
    by_name = {method.name: method for method in known}
    return [_named(name.strip(), by_name) for name in text.split(",")]


def _named(name: str, by_name: dict[str, Method]) -> Method:
    if name in by_name:
        return by_name[name]
    if ".py:" not in name:
        raise CompareError(f"{name!r} is none of {', '.join(by_name)}, and no FILE.py:NAME.")
    _, found = load(name)
    if isinstance(found, compare.Method):
        return as_arm(found)
    if not isinstance(found, Method):
        raise CompareError(f"{name} must be a Method, got {type(found).__name__}.")
    return found
