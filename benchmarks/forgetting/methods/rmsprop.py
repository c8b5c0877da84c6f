"""RMSProp as the paper's toy problem uses it: alone, on the last layer only, and as PROFIT's main optimizer."""

from typing import Any

import optax

from benchmarks.forgetting.methods import Method
from benchmarks.forgetting.methods.head_only import head_only
from benchmarks.forgetting.methods.one_line import one_line
from benchmarks.forgetting.methods.profit import profit


def pytorch_rmsprop(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """RMSProp with the defaults of PyTorch: α 0.99, and ε 1e-8 outside of the root."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def decaying_rmsprop(rate: Any) -> optax.GradientTransformation:
    """RMSProp at a rate that falls to 0.95 of itself every 100 steps."""
    return pytorch_rmsprop(optax.exponential_decay(rate, 100, 0.95, staircase=True))


def full_rmsprop() -> Method:
    """RMSProp on all parameters."""
    return Method("full fine-tuning", 1, lambda setting: decaying_rmsprop(setting["rate"]))


def head_rmsprop() -> Method:
    """RMSProp on the last layer; nothing else moves."""
    return head_only(decaying_rmsprop)


def profit_rmsprop() -> Method:
    """PROFIT around RMSProp. The rate of its SGD reference step, 1/"ratio" of the first main rate, does not decay."""
    return profit(main=decaying_rmsprop)


def subtracting_profit_rmsprop() -> Method:
    """The same, with the displacement as the difference of two sets of parameters: line 7 of Algorithm 1 as written."""
    return profit(main=decaying_rmsprop, displacement="subtract")._replace(name="PROFIT, subtracting")


def one_line_rmsprop() -> Method:
    """The one line before RMSProp."""
    return one_line(main=decaying_rmsprop)
