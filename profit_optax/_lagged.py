"""The lagged form, this project's own: PROFIT at one gradient a step."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from profit_optax import _checks, _cycle, _masking, _projection


class ProfitLaggedState(NamedTuple):
    """State of the transformation returned by `profit_lagged`.

    Attributes:
      count: how many main steps were taken, warm-up included (int32, saturating).
      optimizer_state: state of the main optimizer.
      reference_state: state of the reference optimizer.
      metrics: what the projection of the last step saw.
      params: θ, taken from the caller at the first step and owned since.
      displacement: Δ, so that the caller's parameters are θ + Δ.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of this name; Optax's states do the same
    optimizer_state: optax.OptState
    reference_state: optax.OptState
    metrics: _projection.ProfitMetrics
    params: chex.ArrayTree
    displacement: chex.ArrayTree


def profit_lagged(
    optimizer: optax.GradientTransformation,
    reference_optimizer: optax.GradientTransformation,
    *,
    warmup_steps: int = 0,
    displacement_dtype: Any = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """A variant of PROFIT, not the paper's, that takes one gradient a step and fits any training loop.

    The caller's parameters are always θ + Δ, where Δ is the reference step along the gradient before. The gradient
    there serves twice: made orthogonal to Δ where the two conflict it drives the main step of θ, and as it came it
    makes the next Δ. So a step costs what the main optimizer costs, and elementwise work.

    Args:
      optimizer: the main optimizer O. It sees θ as its parameters.
      reference_optimizer: O_ref, as a rule plain `optax.sgd` at 1/10 to 1/10,000 of the main rate. It sees θ as its
        parameters and no extra arguments.
      warmup_steps: for that many first steps `optimizer` alone is applied, with Δ = 0.
      displacement_dtype: dtype in which Δ is kept, such as `"bfloat16"`; None for that of the reference updates on
        gradients of the parameters' dtypes: for wider gradients, such as float32 ones of bfloat16 parameters, name it
        here. A complex leaf takes the matching complex dtype.
      axis_name: as in `profit`.

    Returns:
      A `GradientTransformationExtraArgs` whose updates have the dtypes of the gradients. Its state, a
      `ProfitLaggedState`, holds two more copies of the parameters (θ and Δ).

    Raises:
      TypeError: for arguments of a wrong type, such as a traced warmup_steps under `optax.inject_hyperparams`.
      ValueError: for arguments out of range, missing params, and gradients of another tree or shape than params.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from profit_optax import eval_params, profit_lagged
      >>> tx = profit_lagged(optax.sgd(0.1), optax.sgd(0.01))
      >>> params = jnp.array([2.0, 1.0])
      >>> state = tx.init(params)
      >>> for _ in range(3):
      ...     grads = jax.grad(lambda p: jnp.sum(jnp.array([1.0, 2.0]) * p**2))(params)
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> theta = eval_params(state, params)  # what is evaluated and exported

    References:
      This project's own variation on Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*,
      NeurIPS 2025. With g the gradient at θ_t + Δ_t: θ_{t+1} = θ_t + O(project(g, Δ_t); θ_t) and
      Δ_{t+1} = O_ref(g; θ_{t+1}), from Δ = 0.

    .. note::
      The state owns θ: an edit of the parameters between two calls is overwritten by the next one. To edit, change
      `eval_params(opt_state, params)` and call `init` again. Parameters and state are kept, saved and dropped
      together, and what is evaluated or exported is `eval_params`. Nothing that scales or adds may follow in a chain.
      Wrappers that leave updates as they are work: `optax.apply_if_finite`, `optax.MultiSteps` for accumulation,
      `optax.inject_hyperparams`.
    """
    options = _cycle.make_options(
        optimizer,
        reference_optimizer,
        warmup_steps=warmup_steps,
        displacement_dtype=displacement_dtype,
        reset_reference_state=False,
        mask=None,
        axis_name=axis_name,
    )

    def init_fn(params: chex.ArrayTree) -> ProfitLaggedState:
        reference_state = reference_optimizer.init(params)
        return ProfitLaggedState(
            count=jnp.zeros((), jnp.int32),
            optimizer_state=options.optimizer.init(params),
            reference_state=reference_state,
            metrics=_projection.zero_metrics(params),
            # Written before it is read. The parameters themselves would be donated twice.
            params=optax.tree.zeros_like(params),
            displacement=_cycle.zero_delta(options, params, reference_state, params),
        )

    def update_fn(
        updates: chex.ArrayTree,
        state: ProfitLaggedState,
        params: chex.ArrayTree | None = None,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, ProfitLaggedState]:
        _checks.check_params("profit_lagged", params)
        grads, params = _masking.trained(None, updates, params)
        theta = _cycle.select(state.count == 0, params, state.params)
        step = _cycle.main_step(options, grads, state.displacement, state, theta, extra_args)
        theta = optax.apply_updates(theta, step.updates)
        zero = _cycle.Displacement(optax.tree.zeros_like(state.displacement), state.reference_state)

        def displaced() -> _cycle.Displacement:
            return _cycle.reference_step(options, grads, zero, theta)

        if options.warmup_steps == 0:
            displacement = displaced()
        else:
            displacement = lax.cond(state.count < options.warmup_steps, lambda: zero, displaced)
        return _cycle.move(params, _cycle.displace(theta, displacement.delta), like=grads), ProfitLaggedState(
            count=optax.safe_increment(state.count),
            optimizer_state=step.optimizer_state,
            reference_state=displacement.reference_state,
            metrics=step.metrics,
            params=theta,
            displacement=displacement.delta,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
