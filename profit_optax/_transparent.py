"""The transparent form: one gradient a call, n_ref + 1 calls a step of Algorithm 1."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax import _checks, _cycle, _masking, _projection


class ProfitTransparentState(NamedTuple):
    """State of the transformation returned by `profit_transparent`.

    Attributes:
      count: how many main steps were taken, warm-up included (int32, saturating).
      optimizer_state: state of the main optimizer.
      reference_state: state of the reference optimizer.
      metrics: what the projection of the last main step saw.
      reference_step: how many reference steps of the present cycle were taken, 0 to n_ref. At 0 the caller's
        parameters are θ.
      params: θ, taken at the first call of a cycle.
      displacement: Δ.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of this name; Optax's states do the same
    optimizer_state: optax.OptState
    reference_state: optax.OptState
    metrics: _projection.ProfitMetrics
    reference_step: jax.Array
    params: chex.ArrayTree
    displacement: chex.ArrayTree


def profit_transparent(
    optimizer: optax.GradientTransformation,
    reference_optimizer: optax.GradientTransformation,
    n_ref: int = 1,
    *,
    warmup_steps: int = 0,
    displacement_dtype: Any = None,
    reset_reference_state: bool = False,
    mask: Any = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """PROFIT for training loops that can only call `update(grads, state, params)`: n_ref + 1 calls make one step.

    Calls 1 to n_ref of a cycle move the caller's parameters to θ + Δ, where the loop takes its next gradient; call
    n_ref + 1 puts θ back and applies the main update. On the same batches a cycle equals one update of `profit`.

    Args:
      optimizer: the main optimizer O. It sees θ as its parameters.
      reference_optimizer: O_ref, as a rule plain `optax.sgd` at 1/10 to 1/10,000 of the main rate. It sees the
        displaced parameters and no extra arguments.
      n_ref: reference steps in a main step, at least 1.
      warmup_steps: for that many first steps `optimizer` alone is applied; such a step is one call.
      displacement_dtype: dtype in which Δ is kept, such as `"bfloat16"`; None for that of the reference updates on
        gradients of the parameters' dtypes: for wider gradients, such as float32 ones of bfloat16 parameters, name it
        here. A complex leaf takes the matching complex dtype.
      reset_reference_state: re-initialise the reference optimizer at the start of each cycle. Otherwise its state
        lives on, as in the paper, and a schedule inside it counts reference steps.
      mask: as in `profit`.
      axis_name: as in `profit`.

    Returns:
      A `GradientTransformationExtraArgs` whose updates have the dtypes of the gradients. Its state, a
      `ProfitTransparentState`, holds two more copies of the parameters (θ and Δ). On GPUs and TPUs every call runs both
      inner optimizers and keeps what one of them makes: nothing beside AdamW's gradients, something for an optimizer
      that is dear by itself, such as `optax.contrib.muon`. Restoring is within one unit in the
      last place of `max(abs(θ), abs(θ + Δ))` in the dtype of the updates, and errors do not build up.

    Raises:
      TypeError: for arguments of a wrong type, such as a traced n_ref under `optax.inject_hyperparams`.
      ValueError: for arguments out of range, missing params, and gradients of another tree or shape than params.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from profit_optax import eval_params, profit_transparent
      >>> tx = profit_transparent(optax.sgd(0.1), optax.sgd(0.01))
      >>> params = jnp.array([2.0, 1.0])
      >>> state = tx.init(params)
      >>> for _ in range(3):  # a cycle and a half
      ...     grads = jax.grad(lambda p: jnp.sum(jnp.array([1.0, 2.0]) * p**2))(params)
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> theta = eval_params(state, params)  # what is evaluated and exported
      >>> bool(jnp.all(theta == params))
      False

    References:
      Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS 2025, Algorithm 1.

    .. note::
      Parameters and state are kept, saved and dropped together, and what is evaluated or exported is
      `eval_params(opt_state, params)`. Nothing that scales or adds may follow in a chain. Wrappers that leave updates
      as they are work: `optax.apply_if_finite`, `optax.MultiSteps` for accumulation, `optax.inject_hyperparams`. An
      edit of the parameters between two cycles is taken over; one within a cycle is overwritten. BatchNorm statistics
      would also be updated at displaced weights: in a model that has them prefer `profit`.

      A schedule inside `optimizer` counts main steps, of which there is one in n_ref + 1 calls: one that was built for
      the steps of the loop would run n_ref + 1 times too slowly. Make it skip:
      `optax.adamw(lambda step: schedule((n_ref + 1) * step))`. With a warm-up, whose steps are one call each, let
      `optax.inject_hyperparams` around the whole count the calls: it takes the loop's schedule as it is.
    """
    options = _cycle.make_options(
        optimizer,
        reference_optimizer,
        warmup_steps=warmup_steps,
        displacement_dtype=displacement_dtype,
        reset_reference_state=reset_reference_state,
        mask=mask,
        axis_name=axis_name,
    )
    n_ref = _checks.check_count("n_ref", n_ref, minimum=1)

    def init_fn(params: chex.ArrayTree) -> ProfitTransparentState:
        params = _masking.prune(mask, params, params)
        inner = _cycle.init_inner(options, params)
        return ProfitTransparentState(
            count=jnp.zeros((), jnp.int32),
            optimizer_state=inner.optimizer_state,
            reference_state=inner.reference_state,
            metrics=_projection.zero_metrics(params, axis_name),
            reference_step=jnp.zeros((), jnp.int32),
            # Written before it is read. The parameters themselves would be donated twice.
            params=optax.tree.zeros_like(params),
            displacement=_cycle.zero_delta(options, params, inner.reference_state, params),
        )

    def update_fn(
        updates: chex.ArrayTree,
        state: ProfitTransparentState,
        params: chex.ArrayTree | None = None,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, ProfitTransparentState]:
        _checks.check_params("profit_transparent", params)
        _checks.check_state("profit_transparent", state, ProfitTransparentState)
        _checks.check_group(extra_args.get("batches"), n_ref, options.warmup_steps)
        grads, displaced = _cycle.trained(options, updates, params, state)
        first = state.reference_step == 0
        saved = _masking.restrict(state.params, grads)
        _checks.check_same_tree(
            "params of the state",
            saved,
            "params",
            displaced,
            remedy="Pass the state that init and update returned for them.",
        )
        theta = _cycle.select(first, displaced, _cycle.like(saved, displaced))
        delta = _masking.restrict(state.displacement, grads)

        def after(
            target: chex.ArrayTree, displacement: chex.ArrayTree, **fields: Any
        ) -> tuple[chex.ArrayTree, ProfitTransparentState]:
            kept = fields | {
                "params": _cycle.like(_masking.fill(theta, _masking.restrict(params, state.params)), state.params),
                "displacement": _cycle.like(_masking.fill(displacement, state.displacement), state.displacement),
            }
            return target, ProfitTransparentState(**(state._asdict() | kept))

        def reference_call() -> tuple[chex.ArrayTree, ProfitTransparentState]:
            reference_state = state.reference_state
            if reset_reference_state:
                fresh = _cycle.fresh_reference_state(options, displaced, reference_state)
                reference_state = _cycle.select(first, fresh, reference_state)
            start = jax.tree.map(lambda d: jnp.where(first, jnp.zeros((), d.dtype), d), delta)
            reached = _cycle.reference_step(options, grads, _cycle.Displacement(start, reference_state), displaced)
            return after(
                _cycle.displace(theta, reached.delta),
                reached.delta,
                reference_state=reached.reference_state,
                reference_step=state.reference_step + 1,
            )

        def main_call() -> tuple[chex.ArrayTree, ProfitTransparentState]:
            # Before the first cycle, in warm-up, Δ is still the 0 of `init`: nothing is projected.
            scale = _cycle.scale_of(delta)
            step = _cycle.main_step(options, grads, _cycle.times(scale, delta), state, theta, extra_args, scale)
            return after(
                _cycle.displace(theta, step.updates),
                delta,
                count=optax.safe_increment(state.count),
                optimizer_state=step.optimizer_state,
                metrics=step.metrics,
                reference_step=jnp.zeros_like(state.reference_step),
            )

        # More than n_ref where a run goes on with a lower one.
        main = state.reference_step >= n_ref
        if options.warmup_steps:
            main |= state.count < options.warmup_steps
        target, state = _cycle.choose_cheap(main, main_call, reference_call)
        moved = _cycle.move(displaced, target, like=grads)
        return _masking.whole_updates(moved, updates, params), state

    return optax.GradientTransformationExtraArgs(init_fn, _checks.with_mask_of_state(init_fn, update_fn))
