"""Training steps of every form, compiled for many devices without allocating anything."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import profit_optax


class Arm(NamedTuple):
    """An optimizer, and what one call of it is given.

    Attributes:
      tx: the optimizer.
      batches: how many batches a call takes.
      closure: whether it takes the gradients on all but the first by itself.
    """

    tx: optax.GradientTransformationExtraArgs
    batches: int
    closure: bool


def baseline() -> Arm:
    """AdamW after a global norm, which keeps the whole gradient alive as the projection does."""
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    return Arm(optax.with_extra_args_support(tx), batches=1, closure=False)


def arm(form: str, n_ref: int = 1, **options: Any) -> Arm:
    """A form of PROFIT around AdamW and SGD."""
    pair = optax.adamw(1e-4), optax.sgd(1e-5)
    if form == "closure":
        return Arm(profit_optax.profit(*pair, n_ref, **options), n_ref + 1, closure=True)
    if form == "transparent":
        return Arm(profit_optax.profit_transparent(*pair, n_ref, **options), 1, closure=False)
    return Arm(profit_optax.profit_lagged(*pair, **options), 1, closure=False)


def step_of(arm: Arm, value_and_grad_fn: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """`(params, state, batches) -> (params, state)`, where every leaf of `batches` has a leading axis."""

    def step(params: Any, state: Any, batches: Any) -> Any:
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = value_and_grad_fn(params, first)
        closure = {"value_and_grad_fn": value_and_grad_fn, "batches": others} if arm.closure else {}
        updates, state = arm.tx.update(grads, state, params, **closure)
        return optax.apply_updates(params, updates), state

    return step


def abstract_state(arm: Arm, params: Any) -> Any:
    """The state of an arm, each leaf sharded as the parameter that it belongs to and the rest on all devices."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh

    def like(x: Any, p: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=p.sharding)

    def replicated(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, P()))

    state = jax.eval_shape(arm.tx.init, params)
    return optax.tree.map_params(arm.tx, like, state, params, transform_non_params=replicated)


def compile_step(arm: Arm, loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: jax.ShapeDtypeStruct) -> Any:
    """The program of one call of `arm.tx` under `jax.jit`, with params and state donated and kept as they lie.

    Args:
      arm: the optimizer.
      loss_fn: `(params, batch) -> loss`.
      params: abstract parameters, with their NamedShardings.
      batch: one abstract batch, with its own.
    """
    state = abstract_state(arm, params)
    stacked = NamedSharding(batch.sharding.mesh, P(None, *batch.sharding.spec))
    batches = jax.ShapeDtypeStruct((arm.batches, *batch.shape), batch.dtype, sharding=stacked)
    shardings = jax.tree.map(lambda x: x.sharding, (params, state))
    step = jax.jit(step_of(arm, jax.value_and_grad(loss_fn)), donate_argnums=(0, 1), out_shardings=shardings)
    return step.lower(params, state, batches).compile()


def size(params: Any) -> int:
    """How many parameters there are."""
    return sum(int(jnp.size(x)) for x in jax.tree.leaves(params))
