"""Will it help on my model? Ways to fine-tune, compared on a user's own model and data (extra `compare`)."""

try:
    from profit_optax.compare.comparison import Comparison, compare
    from profit_optax.compare.errors import CompareError
    from profit_optax.compare.methods import Method, Setting, from_optimizer
    from profit_optax.compare.methods.catalogue import METHODS
    from profit_optax.compare.methods.ema import AverageParamsState, average_params, averaged
    from profit_optax.compare.methods.ewc import consolidated, fisher
    from profit_optax.compare.methods.head_first import HeadThenAllState, head_then_all
    from profit_optax.compare.methods.l2_sp import PullToStartState, pull_to_start
    from profit_optax.compare.methods.lwf import distilled
    from profit_optax.compare.methods.wise_ft import interpolate
    from profit_optax.compare.progress import Progress
    from profit_optax.compare.statistics import Interval
    from profit_optax.compare.summary import Curve, Row
    from profit_optax.compare.task import Task
except ImportError as error:
    package = (error.name or "").partition(".")[0]
    if package not in ("matplotlib", "rich", "scipy", "typer"):
        raise
    raise ImportError(
        f"profit_optax.compare needs {package}, which is not installed. Run pip install 'profit-optax[compare]'.",
        name=package,
    ) from error

__all__ = [
    "METHODS",
    "AverageParamsState",
    "CompareError",
    "Comparison",
    "Curve",
    "HeadThenAllState",
    "Interval",
    "Method",
    "Progress",
    "PullToStartState",
    "Row",
    "Setting",
    "Task",
    "average_params",
    "averaged",
    "compare",
    "consolidated",
    "distilled",
    "fisher",
    "from_optimizer",
    "head_then_all",
    "interpolate",
    "pull_to_start",
]
