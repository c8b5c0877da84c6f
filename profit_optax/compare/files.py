"""What a user's Python file holds under a name, as commands are given it: FILE.py:NAME."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from profit_optax.compare.errors import CompareError, said


def load(text: str) -> tuple[Any, Any]:
    """The module of a file, and what it calls by the name.

    Args:
      text: FILE.py:NAME.

    Raises:
      CompareError: if the text is none of that form, there is no such file or name, or the file raises.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not name or path.suffix != ".py":
        raise CompareError(f"{text!r} is no FILE.py:NAME. Write my_task.py:task for what my_task.py calls task.")
    if not path.is_file():
        raise CompareError(f"there is no file {file}.")
    module = called(file, lambda: _executed(path))
    if not hasattr(module, name):
        raise CompareError(f"{file} has no {name!r}.")
    return module, getattr(module, name)


def called(file: str, function: Any) -> Any:
    """What a function of the file's returns, or an error that says where the file raised."""
    try:
        return function()
    except Exception as error:
        raise CompareError(f"{file} raised {said(error)}.") from error


def _executed(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # As for a script: what lies beside the file can be imported, and its classes can be found by their module.
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
