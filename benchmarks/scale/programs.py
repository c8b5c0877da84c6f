"""Training steps of every form, compiled for many devices without allocating anything."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import orthogonalize_to_previous, profit, profit_transparent


class Arm(NamedTuple):
    """An optimizer, and the program that it is measured in.

    Attributes:
      tx: the optimizer.
      batches: how many batches, and gradients, a call of it takes.
      calls: how many calls make a step.
      updates: how many calls follow each other in one program.
    """

    tx: optax.GradientTransformationExtraArgs
    batches: int = 1
    calls: int = 1
    updates: int = 1


def gradient() -> Arm:
    """A step of SGD: next to nothing but a gradient."""
    return Arm(optax.with_extra_args_support(optax.sgd(1e-4)))


def adamw(mask: Any = None) -> Arm:
    """AdamW alone."""
    return Arm(optax.with_extra_args_support(_trained_only(optax.adamw(1e-4), mask)))


def baseline(updates: int = 1, mask: Any = None) -> Arm:
    """AdamW after a global norm, which keeps the whole gradient alive as the projection does."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    return Arm(optax.with_extra_args_support(_trained_only(tx, mask)), updates=updates)


def _trained_only(tx: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """A transformation of the leaves that a mask names; the others stay as they are."""
    if mask is None:
        return tx
    frozen = jax.tree.map(lambda trained: not trained, mask)
    return optax.chain(optax.masked(tx, mask), optax.masked(optax.set_to_zero(), frozen))


def closure(n_ref: int, **options: Any) -> Arm:
    """The closure form around AdamW and SGD."""
    return Arm(profit(optax.adamw(1e-4), optax.sgd(1e-5), n_ref, **options), batches=n_ref + 1)


def transparent(n_ref: int, **options: Any) -> Arm:
    """The transparent form around AdamW and SGD."""
    return Arm(profit_transparent(optax.adamw(1e-4), optax.sgd(1e-5), n_ref, **options), calls=n_ref + 1)


def one_line(**options: Any) -> Arm:
    """The one line before AdamW."""
    main = _trained_only(optax.adamw(1e-4), options.get("mask"))
    return Arm(optax.with_extra_args_support(optax.chain(orthogonalize_to_previous(**options), main)))


def program(arm: Arm, value_and_grad_fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`(params, state, batches) -> (params, state)`; leaves of `batches` are [updates, batches, ...]."""

    def call(params: Any, state: Any, batches: Any) -> Any:
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = value_and_grad_fn(params, first)
        closure = {"value_and_grad_fn": value_and_grad_fn, "batches": others} if arm.batches > 1 else {}
        updates, state = arm.tx.update(grads, state, params, **closure)
        return optax.apply_updates(params, updates), state

    def run(params: Any, state: Any, batches: Any) -> Any:
        for i in range(arm.updates):
            params, state = call(params, state, jax.tree.map(lambda x: x[i], batches))  # noqa: B023
        return params, state

    return run


def abstract_state(arm: Arm, params: Any) -> Any:
    """The state of an arm: each leaf lies as the parameter that it belongs to, and the rest on all devices."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh

    def as_param(x: Any, p: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding)

    def replicated(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P()))

    state = jax.eval_shape(arm.tx.init, params)
    if all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params)):
        return jax.tree.map(replicated, state)
    return optax.tree.map_params(arm.tx, as_param, state, params, transform_non_params=replicated)


def compile_program(arm: Arm, loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any) -> Any:
    """The program of an arm under `jax.jit`, compiled for the devices on which its arguments lie."""
    return lower_program(arm, loss_fn, params, batch).compile()


def lower_program(arm: Arm, loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any) -> Any:
    """The program of an arm under `jax.jit`: params and state are donated and stay where they lie.

    Args:
      arm: the optimizer.
      loss_fn: `(params, batch) -> loss`.
      params: abstract parameters with their NamedShardings.
      batch: one abstract batch with its own.
    """

    def stacked(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(leaf.sharding.mesh, P(None, None, *leaf.sharding.spec))
        return jax.ShapeDtypeStruct((arm.updates, arm.batches, *leaf.shape), leaf.dtype, sharding=sharding)

    state, batches = abstract_state(arm, params), jax.tree.map(stacked, batch)
    jitted = jax.jit(
        program(arm, jax.value_and_grad(loss_fn)),
        donate_argnums=(0, 1),
        out_shardings=jax.tree.map(lambda x: x.sharding, (params, state)),
    )
    return jitted.lower(params, state, batches)
