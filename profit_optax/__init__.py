"""PROFIT (PROximal FIne Tuning) as an Optax gradient transformation."""

from profit_optax._aliases import profit_adamw, profit_sgd
from profit_optax._closure import ProfitState, profit
from profit_optax._evaluation import eval_params
from profit_optax._nonfinite import RejectNonfiniteState, reject_nonfinite
from profit_optax._previous import OrthogonalizeToPreviousState, orthogonalize_to_previous
from profit_optax._projection import ProfitMetrics, orthogonalize
from profit_optax._transparent import ProfitTransparentState, profit_transparent

__all__ = [
    "OrthogonalizeToPreviousState",
    "ProfitMetrics",
    "ProfitState",
    "ProfitTransparentState",
    "RejectNonfiniteState",
    "eval_params",
    "orthogonalize",
    "orthogonalize_to_previous",
    "profit",
    "profit_adamw",
    "profit_sgd",
    "profit_transparent",
    "reject_nonfinite",
]
