"""Ways to fine-tune. A new one is a function that returns a `Method`, in a file of its own, named in `catalogue`."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import chex
import jax
import optax

from profit_optax._evaluation import eval_params as profit_eval_params
from profit_optax.compare.task import Loss, Task

Main = Callable[[float], optax.GradientTransformation]


class Setting(NamedTuple):
    """What an optimizer is made for.

    Attributes:
      rate: its learning rate.
      steps: how many steps a run takes.
      task: the task.
    """

    rate: float
    steps: int
    task: Task


def check_strength(strength: Any) -> None:
    """A pull is not negative; a traced strength is taken as it is.

    Raises:
      ValueError: if it is.
    """
    if not isinstance(strength, jax.Array) and strength < 0:
        raise ValueError(f"strength must be at least 0, got {strength}.")


def params_to_evaluate(state: optax.OptState, params: chex.ArrayTree) -> chex.ArrayTree:
    """The parameters themselves, which a form of PROFIT may hold displaced."""
    try:
        return profit_eval_params(state, params)
    except ValueError:  # There is no PROFIT in the state.
        return params


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Most are an Optax optimizer, which `from_optimizer` makes a method of. Others change the loss, what is evaluated, or
    follow the run of another method.

    Args:
      name: what tables call it.
      optimizer: `optimizer(setting)`, the transformation at `setting.rate`.
      gradients: batches and gradients a step. They are averaged, or handed on with `closure`.
      closure: whether the transformation takes the closure of `profit_optax.profit` and n_ref = gradients - 1 batches.
      rate_factor: by how much its rates are higher than those of the comparison.
      keep: `keep(task)`, what it keeps of the old task, a pytree of arrays.
      loss: `loss(task, kept)`, the loss to minimise. None for the task's.
      eval_params: `eval_params(state, params)`, the parameters to evaluate.
      points: `points(start, params)`, for a method that does not train: positions and parameters from where another
        method's run began to where it ended.
      of: the method whose run that is; None for the comparison's baseline.
      needs: names of what `Task` must have beside a loss and batches.

    Raises:
      ValueError: if `gradients` is below 1, or below 2 with `closure`.

    Examples:
      >>> import optax
      >>> from profit_optax.compare import Method
      >>> Method("Lion", lambda setting: optax.lion(setting.rate), rate_factor=0.1).name
      'Lion'

    References:
      This project's own.
    """

    name: str
    optimizer: Callable[[Setting], optax.GradientTransformation]
    gradients: int = 1
    closure: bool = False
    rate_factor: float = 1.0
    keep: Callable[[Task], Any] | None = None
    loss: Callable[[Task, Any], Loss] | None = None
    eval_params: Callable[[optax.OptState, chex.ArrayTree], chex.ArrayTree] = params_to_evaluate
    points: Callable[[chex.ArrayTree, chex.ArrayTree], Iterable[tuple[float, chex.ArrayTree]]] | None = None
    of: "Method | None" = None
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers of gradients that no step can have."""
        if self.gradients < 1:
            raise ValueError(f"gradients must be at least 1, got {self.gradients}.")
        if self.closure and self.gradients < 2:
            raise ValueError(
                f"gradients must be n_ref + 1, at least 2, with closure=True, got {self.gradients}: {self.name} takes"
                " n_ref batches beside the first one."
            )


def from_optimizer(
    name: str,
    optimizer: Main,
    *,
    gradients: int = 1,
    closure: bool = False,
    rate_factor: float = 1.0,
    eval_params: Callable[[optax.OptState, chex.ArrayTree], chex.ArrayTree] = params_to_evaluate,
) -> Method:
    """A method out of any Optax optimizer.

    Args:
      name: what tables call it.
      optimizer: `optimizer(rate)`, the transformation at a rate, a Python float.
      gradients: batches and gradients a step, which are averaged, or handed on with `closure`.
      closure: whether it is `profit_optax.profit` or holds it outermost, which takes a closure and more batches;
        `gradients` is then n_ref + 1.
      rate_factor: by how much its rates are higher than those of the comparison; 1e-3 becomes 3e-2 with 30.
      eval_params: `eval_params(state, params)`, the parameters to evaluate. By default those of PROFIT's forms.

    Returns:
      The `Method`.

    Raises:
      TypeError: if `optimizer` is a transformation and no function that makes one.
      ValueError: if `gradients` is below 1, or below 2 with `closure`.

    Examples:
      >>> import optax
      >>> from profit_optax import profit
      >>> from profit_optax.compare import from_optimizer, pull_to_start
      >>> lion = from_optimizer("Lion", lambda rate: optax.lion(rate / 10))
      >>> def pulled(rate):
      ...     main = optax.chain(pull_to_start(0.1), optax.adamw(rate))
      ...     return profit(main, optax.sgd(rate / 10))
      >>> both = from_optimizer("PROFIT and a pull", pulled, gradients=2, closure=True)

    References:
      This project's own.
    """
    if not callable(optimizer):
        raise TypeError(
            f"optimizer must be a function of a rate, got {type(optimizer).__name__}. Write lambda rate: "
            "optax.adamw(rate)."
        )
    return Method(
        name,
        lambda setting: optimizer(setting.rate),
        gradients=gradients,
        closure=closure,
        rate_factor=rate_factor,
        eval_params=eval_params,
    )
