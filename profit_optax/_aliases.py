"""PROFIT around Optax's SGD and AdamW, with the reference rate as a fraction of the main one."""

from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import optax

from profit_optax import _checks, _cycle
from profit_optax._closure import profit
from profit_optax._previous import OrthogonalizeToPreviousState, orthogonalize_to_previous
from profit_optax._transparent import profit_transparent

Form = Literal["closure", "transparent", "lagged"]


def profit_sgd(
    learning_rate: optax.ScalarOrSchedule,
    lr_ratio: jax.typing.ArrayLike = 100.0,
    n_ref: int = 1,
    *,
    form: Form = "closure",
    warmup_steps: int = 0,
    displacement: Literal["accumulate", "subtract"] = "accumulate",
    displacement_dtype: Any = None,
    reset_reference_state: bool = False,
    unroll: bool | int | None = None,
    mask: Any = None,
    axis_name: Any = None,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """PROFIT around `optax.sgd`, with plain SGD at `learning_rate / lr_ratio` for the reference steps.

    Args:
      learning_rate: λ_main, a number or a schedule of *main* steps. The transparent form takes n_ref + 1 steps of the
        loop for one: `lambda step: schedule((n_ref + 1) * step)` makes one of a schedule in steps of the loop.
      lr_ratio: λ_main / λ_ref, above 0; the paper's lie between 10 and 10,000. With a schedule λ_ref is that of the
        same main step, divided by this. `form="lagged"` has no reference rate, and does not use it.
      n_ref: reference steps in a main step; 1 for `form="lagged"`.
      form: `"closure"` for `profit`, `"transparent"` for `profit_transparent`, `"lagged"` for
        `orthogonalize_to_previous` before the optimizer, which has no reference steps.
      warmup_steps: for that many first steps the main optimizer is alone.
      displacement: as in `profit`, for the closure form only.
      displacement_dtype: as in `profit`.
      reset_reference_state: as in `profit`.
      unroll: as in `profit`, for the closure form only.
      mask: which leaves are trained, as in `profit`.
      axis_name: as in `profit`.
      momentum: as in `optax.sgd`, for the main optimizer.
      nesterov: as in `optax.sgd`, for the main optimizer.
      accumulator_dtype: as in `optax.sgd`, for the main optimizer.

    Returns:
      The `GradientTransformationExtraArgs` of the chosen form.

    Raises:
      TypeError: for arguments of a wrong type, such as a traced n_ref under `optax.inject_hyperparams`.
      ValueError: for an unknown form, options that the form does not have, and numbers out of range.

    Examples:
      >>> import optax
      >>> from profit_optax import profit_sgd
      >>> tx = profit_sgd(optax.cosine_decay_schedule(1e-2, 1000), lr_ratio=10, n_ref=3, momentum=0.9)

    References:
      Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS 2025, Algorithm 1.

    .. note::
      What is said of clipping, accumulation and frozen leaves in `profit` holds here. To put something inside
      both optimizers, build them with `profit`.
    """
    _checks.check_rate("learning_rate", learning_rate)
    _checks.check_flag("nesterov", nesterov)
    _checks.check_dtype("accumulator_dtype", accumulator_dtype)
    optimizer = optax.sgd(learning_rate, momentum, nesterov, accumulator_dtype)
    return _form(
        optimizer,
        learning_rate,
        lr_ratio,
        n_ref,
        form,
        displacement,
        unroll,
        warmup_steps=warmup_steps,
        displacement_dtype=displacement_dtype,
        reset_reference_state=reset_reference_state,
        mask=mask,
        axis_name=axis_name,
    )


def profit_adamw(
    learning_rate: optax.ScalarOrSchedule,
    lr_ratio: jax.typing.ArrayLike = 100.0,
    n_ref: int = 1,
    *,
    form: Form = "closure",
    warmup_steps: int = 0,
    displacement: Literal["accumulate", "subtract"] = "accumulate",
    displacement_dtype: Any = None,
    reset_reference_state: bool = False,
    unroll: bool | int | None = None,
    mask: Any = None,
    axis_name: Any = None,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    weight_decay_mask: chex.ArrayTree | Callable[[chex.ArrayTree], Any] | None = None,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """PROFIT around `optax.adamw`, with plain SGD at `learning_rate / lr_ratio` for the reference steps.

    Args:
      learning_rate: λ_main, a number or a schedule of *main* steps. The transparent form takes n_ref + 1 steps of the
        loop for one: `lambda step: schedule((n_ref + 1) * step)` makes one of a schedule in steps of the loop.
      lr_ratio: λ_main / λ_ref, above 0; the paper's lie between 10 and 10,000. With a schedule λ_ref is that of the
        same main step, divided by this. `form="lagged"` has no reference rate, and does not use it.
      n_ref: reference steps in a main step; 1 for `form="lagged"`.
      form: `"closure"` for `profit`, `"transparent"` for `profit_transparent`, `"lagged"` for
        `orthogonalize_to_previous` before the optimizer, which has no reference steps.
      warmup_steps: for that many first steps the main optimizer is alone.
      displacement: as in `profit`, for the closure form only.
      displacement_dtype: as in `profit`.
      reset_reference_state: as in `profit`.
      unroll: as in `profit`, for the closure form only.
      mask: which leaves are trained, as in `profit`.
      axis_name: as in `profit`.
      b1: as in `optax.adamw`, for the main optimizer.
      b2: as in `optax.adamw`, for the main optimizer.
      eps: as in `optax.adamw`, for the main optimizer.
      eps_root: as in `optax.adamw`, for the main optimizer.
      mu_dtype: as in `optax.adamw`, for the main optimizer.
      weight_decay: as in `optax.adamw`, for the main optimizer; it decays θ, never Δ.
      weight_decay_mask: the `mask` of `optax.adamw`: which leaves decay.
      nesterov: as in `optax.adamw`, for the main optimizer.

    Returns:
      The `GradientTransformationExtraArgs` of the chosen form.

    Raises:
      TypeError: for arguments of a wrong type, such as a traced n_ref under `optax.inject_hyperparams`.
      ValueError: for an unknown form, options that the form does not have, and numbers out of range.

    Examples:
      >>> import optax
      >>> from profit_optax import profit_adamw
      >>> tx = profit_adamw(1e-4, lr_ratio=10, form="transparent")

    References:
      Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS 2025, Algorithm 1.

    .. note::
      What is said of clipping, accumulation and frozen leaves in `profit` holds here. To put something inside
      both optimizers, build them with `profit`.
    """
    _checks.check_rate("learning_rate", learning_rate)
    _checks.check_flag("nesterov", nesterov)
    _checks.check_dtype("mu_dtype", mu_dtype)
    optimizer = optax.adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, weight_decay_mask, nesterov=nesterov
    )
    return _form(
        optimizer,
        learning_rate,
        lr_ratio,
        n_ref,
        form,
        displacement,
        unroll,
        warmup_steps=warmup_steps,
        displacement_dtype=displacement_dtype,
        reset_reference_state=reset_reference_state,
        mask=mask,
        axis_name=axis_name,
    )


def _form(
    optimizer: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    lr_ratio: jax.typing.ArrayLike,
    n_ref: int,
    form: Form,
    displacement: Literal["accumulate", "subtract"],
    unroll: bool | int | None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    _checks.check_positive("lr_ratio", lr_ratio)
    _checks.check_choice("form", form, ("closure", "transparent", "lagged"))
    if form != "closure":
        _checks.check_option_of_form("displacement", displacement, "accumulate", form)
        _checks.check_option_of_form("unroll", unroll, None, form)
    if form == "lagged":
        _checks.check_option_of_form("n_ref", _checks.check_count("n_ref", n_ref, minimum=1), 1, form)
        reset_reference_state = options.pop("reset_reference_state")
        _checks.check_flag("reset_reference_state", reset_reference_state)
        _checks.check_option_of_form("reset_reference_state", bool(reset_reference_state), False, form)
        line = orthogonalize_to_previous(dtype=options.pop("displacement_dtype"), **options)
        # What the line leaves at 0 must not decay either.
        mask = options["mask"]
        return _chain(line, optimizer if mask is None else optax.masked(optimizer, mask))

    reference = optax.sgd(_reference_rate(learning_rate, lr_ratio, n_ref, options["warmup_steps"]))
    if form == "transparent":
        return profit_transparent(optimizer, reference, n_ref, **options)
    return profit(optimizer, reference, n_ref, displacement=displacement, unroll=unroll, **options)


def _chain(
    line: optax.GradientTransformation, optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """`optax.chain`, which says what is wrong with a state of something else, and keeps the dtypes of its own."""
    chain = optax.with_extra_args_support(optax.chain(line, optimizer))

    def update_fn(
        updates: chex.ArrayTree, state: Any, params: chex.ArrayTree | None = None, **extra_args: Any
    ) -> tuple[chex.ArrayTree, Any]:
        of_line = state[0] if type(state) is tuple and state else state
        _checks.check_state('form="lagged"', of_line, OrthogonalizeToPreviousState)
        updates, after = chain.update(updates, state, params, **extra_args)
        return updates, _cycle.like(after, state)

    return optax.GradientTransformationExtraArgs(chain.init, update_fn)


def _reference_rate(
    learning_rate: optax.ScalarOrSchedule, lr_ratio: jax.typing.ArrayLike, n_ref: int, warmup_steps: int
) -> optax.ScalarOrSchedule:
    if not callable(learning_rate):
        return learning_rate / lr_ratio

    def schedule(reference_count: Any) -> jax.typing.ArrayLike:
        # The reference optimizer counts its own steps: n_ref for every main step after the warm-up.
        return learning_rate(warmup_steps + reference_count // n_ref) / lr_ratio

    return schedule
