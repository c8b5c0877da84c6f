"""All methods at hand, by the name that a comparison is asked for them."""

from collections.abc import Callable, Sequence

from profit_optax.compare.methods import Method
from profit_optax.compare.methods.adamw import adamw, adamw_more
from profit_optax.compare.methods.ema import ema
from profit_optax.compare.methods.ewc import ewc
from profit_optax.compare.methods.head_first import head_first
from profit_optax.compare.methods.l2_sp import l2_sp
from profit_optax.compare.methods.lwf import lwf
from profit_optax.compare.methods.one_line import one_line
from profit_optax.compare.methods.profit import profit
from profit_optax.compare.methods.sgd import sgd
from profit_optax.compare.methods.wise_ft import wise_ft
from profit_optax.compare.task import Task

METHODS: dict[str, Callable[..., Method]] = {
    "adamw": adamw,
    "adamw_more": adamw_more,
    "profit": profit,
    "one_line": one_line,
    "sgd": sgd,
    "l2_sp": l2_sp,
    "wise_ft": wise_ft,
    "ema": ema,
    "head_first": head_first,
    "lwf": lwf,
    "ewc": ewc,
}


def chosen(task: Task, methods: Sequence[str | Method] | None) -> list[Method]:
    """The methods named, or all that the task has what they need for; the first one is the baseline.

    Raises:
      ValueError: for an unknown name, a name twice, a baseline that trains nothing, and for a method that needs what
        the task has not.
    """
    if methods is None:
        found = [make() for make in METHODS.values()]
        return [method for method in found if not _missing(task, method)]
    if isinstance(methods, str | Method):
        methods = [methods]
    found = [_made(method) for method in methods]
    names = [method.name for method in found]
    for method in found:
        if names.count(method.name) > 1:
            raise ValueError(
                f"methods must have different names, got {method.name!r} twice. Rename one: "
                "dataclasses.replace(method, name=...)."
            )
        missing = _missing(task, method)
        if missing:
            raise ValueError(f"{method.name} needs Task.{missing[0]}, which is None: give it, or leave the method out.")
    if not found or found[0].points:
        raise ValueError("methods must begin with one that trains, the baseline, such as 'adamw'.")
    return found


def left_out(task: Task) -> dict[str, list[str]]:
    """What the task has not, by the names of the methods that need it."""
    missing = {name: _missing(task, make()) for name, make in METHODS.items()}
    return {name: needed for name, needed in missing.items() if needed}


def _made(method: str | Method) -> Method:
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        what = "call it" if callable(method) else "from_optimizer(name, lambda rate: ...)"
        raise ValueError(f"methods must be names or Methods, got {type(method).__name__}. Make one of it: {what}.")
    if method not in METHODS:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, or a Method, got {method!r}.")
    return METHODS[method]()


def _missing(task: Task, method: Method) -> list[str]:
    return [name for name in method.needs if getattr(task, name) is None]
