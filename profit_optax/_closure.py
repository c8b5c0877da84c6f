"""The closure form: one `update` is one whole step of Algorithm 1."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from profit_optax import _checks, _cycle, _masking, _projection

ValueAndGradFn = Callable[[chex.ArrayTree, Any], tuple[Any, chex.ArrayTree]]


class ProfitState(NamedTuple):
    """State of the transformation returned by `profit`.

    Attributes:
      count: how many main steps were taken, warm-up included (int32, saturating).
      optimizer_state: state of the main optimizer.
      reference_state: state of the reference optimizer.
      metrics: what the projection of the last step saw.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple has a method of this name; Optax's states do the same
    optimizer_state: optax.OptState
    reference_state: optax.OptState
    metrics: _projection.ProfitMetrics


def profit(
    optimizer: optax.GradientTransformation,
    reference_optimizer: optax.GradientTransformation,
    n_ref: int = 1,
    *,
    warmup_steps: int = 0,
    displacement: Literal["accumulate", "subtract"] = "accumulate",
    displacement_dtype: Any = None,
    reset_reference_state: bool = False,
    unroll: bool | int | None = None,
    mask: Any = None,
    axis_name: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """PROFIT: fine-tuning that forgets less of the old task, around any two Optax optimizers.

    Each step takes `n_ref` small steps with `reference_optimizer`, then the next gradient, removes from it what
    conflicts with the displacement of those steps, puts the weights back and lets `optimizer` take the step that
    stays. Start from a *converged* model and nearby data; from elsewhere, warm up first.

    With Δ the sum of the reference updates and g the gradient at θ + Δ, one inner product over all trained weights::

        ω = ⟨Δ, g⟩
        g ← g − (ω / ⟨Δ, Δ⟩) Δ   where ω < 0
        θ ← θ + O(g; θ)

    Only the direction of the displacement matters, up to curvature of the order of the reference rate: where a step may
    not cost more than one gradient, `orthogonalize_to_previous` takes the direction of the step before.

    Args:
      optimizer: the main optimizer O, such as `optax.adamw(1e-4)`. It sees the undisplaced parameters.
      reference_optimizer: O_ref, as a rule plain `optax.sgd` at 1/10 to 1/10,000 of the main rate. It sees the
        displaced parameters and no extra arguments.
      n_ref: reference steps in a main step, at least 1. A step takes n_ref + 1 batches and gradients.
      warmup_steps: for that many first steps `optimizer` alone is applied to `grads`. 0 compiles no branch.
      displacement: `"accumulate"` sums the reference updates, of which rounding loses nothing however small the
        reference rate is. Norms of Δ from 1e-20 to 1e10 are in range, and of gradients from 1e-11 to 1e19; below,
        nothing is projected. `"subtract"` is θ' − θ as the paper writes it, in some programs for less memory; but
        rounding loses Δ at small reference rates, and PROFIT is then plain fine-tuning.
      displacement_dtype: dtype in which Δ is kept, such as `"bfloat16"`; None for that of the reference updates. A
        complex leaf takes the matching complex dtype.
      reset_reference_state: re-initialise the reference optimizer at the start of each step. Otherwise its state
        lives on, as in the paper, and a schedule inside it counts reference steps.
      unroll: how many reference steps the compiled loop has in its body, as in `jax.lax.scan`; True for no loop at
        all. None is what is fastest where the program is lowered: no loop on CPUs up to n_ref = 8, and a loop
        everywhere else, whose program does not grow with n_ref. The model is traced once in any case.
      mask: which leaves are trained, as in `optax.add_decayed_weights`: a pytree of bools that is a prefix of the
        parameters, or a function of the parameters that returns one; None for all. Leaves with False are frozen: they
        stay bit for bit, whatever they hold, and take no state, no displacement, no part in sums and no backward pass.
        `value_and_grad_fn` is handed the whole parameters all the same. Integer and bool leaves must be left out.
      axis_name: inside `shard_map` or `pmap` with *parameters* sharded by hand, the mesh axes they are sharded over:
        a name, a tuple of names, or a prefix pytree of these with None for replicated leaves. A tuple of names holds
        for every leaf, also where the parameters are a tuple: write `(("x",), ("y",))` for an axis each. Never the
        data axis. Under `check_vma=True` the types of the leaves decide, and nothing need be given; maps in one
        another must agree in it.

    Returns:
      A `GradientTransformationExtraArgs`. Its `update(grads, state, params, *, value_and_grad_fn, batches, **extra)`
      is one step:

      * `grads`: the gradient at `params` on the step's first batch, as in every Optax update. Loss, aux and BatchNorm
        statistics of the step are those of this pass.
      * `value_and_grad_fn(params, batch) -> (value, grads)`: what `jax.value_and_grad(loss_fn)` returns, also with
        `has_aux=True`. Values and aux from inside are dropped. Gradients must come reduced over data-parallel
        devices and unscaled under loss scaling; they are cast to the dtypes of `grads`. Those of complex leaves must be
        conjugated, here and in `grads`, as for any Optax optimizer: `jax.tree.map(jnp.conj, grads)`.
      * `batches`: the step's other batches, a pytree whose every leaf has a leading axis of length n_ref. Typed PRNG
        keys may be leaves. Required in warm-up too.
      * further keyword arguments go to `optimizer` if it takes any.

      The updates have the dtypes that `optimizer` returns. The state is a `ProfitState`, whose metrics
      `optax.tree.get(state, "cosine")` finds.

    Raises:
      TypeError: for arguments of a wrong type, such as a traced n_ref under `optax.inject_hyperparams` (declare it in
        its `static_args`).
      ValueError: for arguments out of range and, when `update` is traced, for a missing closure, missing params,
        batches of another leading axis and gradients of another tree or shape.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from profit_optax import profit
      >>> def loss_fn(params, batch):
      ...     x, y = batch
      ...     return jnp.mean((x @ params["w"] - y) ** 2)
      >>> value_and_grad_fn = jax.value_and_grad(loss_fn)
      >>> tx = profit(optax.adamw(1e-2), optax.sgd(1e-3), n_ref=2)
      >>> params = {"w": jnp.ones(3)}
      >>> state = tx.init(params)
      >>> @jax.jit
      ... def step(params, state, first_batch, batches):
      ...     value, grads = value_and_grad_fn(params, first_batch)
      ...     updates, state = tx.update(
      ...         grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=batches)
      ...     return optax.apply_updates(params, updates), state, value
      >>> x = jax.random.normal(jax.random.key(0), (3, 8, 3))  # n_ref + 1 batches of 8
      >>> y = jnp.sum(x, axis=-1) + 0.5
      >>> params, state, value = step(params, state, (x[0], y[0]), (x[1:], y[1:]))
      >>> float(value), optax.tree.get(state, "conflict").dtype
      (0.25, dtype('bool'))

    References:
      Chakravarthy et al., *PROFIT: A Specialized Optimizer for Deep Fine Tuning*, NeurIPS 2025, Algorithm 1.

    .. note::
      Clipping and other gradient transforms go *inside* both optimizers: what precedes `profit` in a chain touches
      the gradient of reference step 1 only::

        clip = optax.clip_by_global_norm(1.0)
        tx = profit(optax.chain(clip, optax.adamw(1e-4)), optax.chain(clip, optax.sgd(1e-5)))

      Accumulation goes inside `value_and_grad_fn`; `optax.MultiSteps` would run every closure on every micro-step::

        def value_and_grad_fn(params, micro_batches):  # leaves [n_micro, batch, ...]
            return jax.tree.map(
                lambda x: jnp.mean(x, axis=0),
                jax.lax.map(lambda batch: jax.value_and_grad(loss_fn)(params, batch), micro_batches))

      Frozen leaves: `mask`, or only the trained subtree as `params`. `optax.partition` with `optax.set_to_zero` inside
      *both* optimizers is right, too, but their gradients then count in the metrics, and a NaN among them poisons the
      step. `optax.masked` and `optax.partition` around `profit` do not work. `optax.apply_if_finite` around it sees
      only `grads`: use `reject_nonfinite`.

      Convolutions on CPUs: XLA computes their gradients many times slower in loops and branches (JAX's issue 12868), so
      with n_ref above 8 or `warmup_steps` use `profit_transparent` there.
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
    _checks.check_unroll(unroll)
    _checks.check_choice("displacement", displacement, ("accumulate", "subtract"))
    take_reference_steps = _accumulated_steps if displacement == "accumulate" else _subtracted_steps

    def init_fn(params: chex.ArrayTree) -> ProfitState:
        _checks.check_no_masked_nodes(params)
        params = _masking.prune(mask, params, params)
        inner = _cycle.init_inner(options, params)
        return ProfitState(
            count=jnp.zeros((), jnp.int32),
            optimizer_state=inner.optimizer_state,
            reference_state=inner.reference_state,
            metrics=_projection.zero_metrics(params, axis_name),
        )

    def update_fn(
        updates: chex.ArrayTree,
        state: ProfitState,
        params: chex.ArrayTree | None = None,
        *,
        value_and_grad_fn: ValueAndGradFn | None = None,
        batches: Any = None,
        **extra_args: Any,
    ) -> tuple[chex.ArrayTree, ProfitState]:
        _checks.check_params("profit", params)
        _checks.check_state("profit", state, ProfitState)
        _checks.check_no_masked_nodes(params)
        value_and_grad_fn = _checks.check_closure(value_and_grad_fn, batches, n_ref)
        grads, theta = _cycle.trained(options, updates, params, state)

        def gradient_at(trained: chex.ArrayTree, i: jax.typing.ArrayLike) -> chex.ArrayTree:
            batch = jax.tree.map(lambda x: lax.dynamic_index_in_dim(jnp.asarray(x), i, keepdims=False), batches)
            gradient = _checks.check_result(value_and_grad_fn(_masking.fill(trained, params), batch), updates)
            return _cycle.like(_masking.restrict(gradient, grads), grads)

        def main_alone() -> _Displaced:
            if displacement == "accumulate":
                delta = _cycle.zero_delta(options, grads, state.reference_state, theta)
            else:
                delta = _cycle.difference(theta, theta, options.displacement_dtype)
            return _cycle.Displacement(delta, state.reference_state), grads

        def displaced() -> _Displaced:
            reference_state = state.reference_state
            if reset_reference_state:
                reference_state = _cycle.fresh_reference_state(options, theta, reference_state)
            loop = functools.partial(_loop, n_ref, unroll)
            return take_reference_steps(options, loop, gradient_at, grads, reference_state, theta)

        if options.warmup_steps == 0:
            reached, gradient = displaced()
        else:
            reached, gradient = _cycle.choose(state.count < options.warmup_steps, main_alone, displaced)
        scale = _cycle.scale_of(reached.delta) if displacement == "accumulate" else 1.0
        step = _cycle.main_step(options, gradient, reached.delta, state, theta, extra_args, scale)
        return _masking.whole_updates(step.updates, updates, params), ProfitState(
            count=optax.safe_increment(state.count),
            optimizer_state=step.optimizer_state,
            reference_state=reached.reference_state,
            metrics=step.metrics,
        )

    return optax.GradientTransformationExtraArgs(init_fn, _checks.with_mask_of_state(init_fn, update_fn))


# The gradient at given parameters on the batch of reference step i + 1.
_GradientFn = Callable[[chex.ArrayTree, jax.typing.ArrayLike], chex.ArrayTree]
# The displacement, and the gradient there.
_Displaced = tuple[_cycle.Displacement, chex.ArrayTree]
# The displacement, θ + Δ, and the gradient there.
_Accumulated = tuple[_cycle.Displacement, chex.ArrayTree, chex.ArrayTree]
# θ', the reference state, and the gradient at θ'.
_Subtracted = tuple[chex.ArrayTree, optax.OptState, chex.ArrayTree]
_LoopFn = Callable[[Callable[[Any, Any], Any], Any], Any]

# Up to so many reference steps are worth their code on CPUs.
_UNROLLED = 8


def _loop(n_ref: int, unroll: bool | int | None, step: Callable[[Any, Any], Any], init: Any) -> Any:
    """The reference steps: the model is traced once, however many there are and whatever is unrolled.

    XLA for CPUs computes the gradients of convolutions in loops many times slower (JAX's issue 12868), and there every
    pass of a loop writes out what it carries. Accelerators lose little to a loop, and save memory and compile time.
    """
    if n_ref == 1:
        return step(0, init)
    if not _cycle.is_traced(init):
        # Outside of programs a loop would be compiled anew at every call.
        return functools.reduce(lambda carry, i: step(jnp.asarray(i), carry), range(n_ref), init)

    def loop(unroll: bool | int, carry: Any) -> Any:
        return lax.fori_loop(0, n_ref, body, carry, unroll=unroll)

    # Traced once for both platforms.
    body = jax.jit(step)
    if unroll is not None:
        return loop(unroll, init)
    return lax.platform_dependent(
        init, cpu=functools.partial(loop, n_ref <= _UNROLLED), default=functools.partial(loop, False)
    )


def _accumulated_steps(
    options: _cycle.Options,
    loop: _LoopFn,
    gradient_at: _GradientFn,
    grads: chex.ArrayTree,
    reference_state: optax.OptState,
    params: chex.ArrayTree,
) -> _Displaced:
    """The reference steps, with Δ as the sum of their updates, times `_cycle.scale_of` it."""

    def step(i: jax.typing.ArrayLike, carry: _Accumulated) -> _Accumulated:
        displacement, displaced, gradient = carry
        displacement = _cycle.reference_step(options, gradient, displacement, displaced, scale)
        displacement = displacement._replace(delta=_written_out(displacement.delta))
        displaced = _cycle.displace(params, displacement.delta, scale)
        return displacement, displaced, gradient_at(displaced, i)

    delta = _cycle.zero_delta(options, grads, reference_state, params)
    scale = _cycle.scale_of(delta)
    if _cycle.is_traced(params):
        delta = jax.tree.map(_computed_zeros, delta, grads)
    displacement, _, gradient = loop(step, (_cycle.Displacement(delta, reference_state), params, grads))
    return displacement, gradient


def _computed_zeros(zeros: jax.Array, gradient: jax.Array) -> jax.Array:
    """Zeros that XLA does not know to be zeros, and does not compute twice.

    From a constant 0, Δ = 0 − λ g is so cheap that XLA computes it anew from the first gradient wherever it is used.
    That gradient then lives beside Δ to the end of the step: a copy of the parameters in memory, and more passes over
    it. XLA takes a square root for expensive, and so writes Δ out once.
    """
    # Not the smaller of the two, which is NaN where the gradient is.
    return jnp.fmin(jnp.sqrt(jnp.abs(lax.stop_gradient(gradient))), 0).astype(zeros.dtype)


def _written_out(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The same tree, each leaf of which XLA for GPUs computes by itself, and once.

    In one kernel with θ + Δ, Δ could not be written over the gradient that it comes from, and a narrower Δ would be
    kept as its wider copy; a difference would be taken before the next gradient, and held through it.
    """
    return jax.tree.map(lax.optimization_barrier, tree)


def _subtracted_steps(
    options: _cycle.Options,
    loop: _LoopFn,
    gradient_at: _GradientFn,
    grads: chex.ArrayTree,
    reference_state: optax.OptState,
    params: chex.ArrayTree,
) -> _Displaced:
    """The reference steps, with Δ = θ' − θ as line 7 of Algorithm 1 has it."""

    def step(i: jax.typing.ArrayLike, carry: _Subtracted) -> _Subtracted:
        displaced, before, gradient = carry
        updates, reference_state = _cycle.reference_updates(options, gradient, before, displaced)
        displaced = _written_out(_cycle.displace(displaced, updates))
        return displaced, reference_state, gradient_at(displaced, i)

    displaced, reference_state, gradient = loop(step, (params, reference_state, grads))
    delta = _cycle.difference(displaced, params, options.displacement_dtype)
    return _cycle.Displacement(delta, reference_state), gradient
