"""PROFIT (PROximal FIne Tuning) as an Optax gradient transformation."""

from profit_optax._closure import ProfitState, profit
from profit_optax._nonfinite import RejectNonfiniteState, reject_nonfinite
from profit_optax._projection import ProfitMetrics, orthogonalize

__all__ = [
    "ProfitMetrics",
    "ProfitState",
    "RejectNonfiniteState",
    "orthogonalize",
    "profit",
    "reject_nonfinite",
]
