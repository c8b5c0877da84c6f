"""Ways to take a step, as JAX programs. A new arm is a function that returns an `Arm`, named in `catalogue`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from profit_optax import eval_params, orthogonalize_to_previous, profit, profit_transparent

# The same in every arm, also in PyTorch. Small, so that models stay about where they are while they are timed.
MAIN_RATE = 1e-4
REFERENCE_RATE = 1e-5
MAX_NORM = 1.0

ValueAndGradFn = Callable[[chex.ArrayTree, Any], tuple[jax.Array, chex.ArrayTree]]
Stepped = tuple[chex.ArrayTree, Any, jax.Array]


class Arm(NamedTuple):
    """One way to take a step.

    Attributes:
      name: what options and tables call it.
      gradients: how many gradients, each on its own batch, a step takes.
      init: `init(params)` are the parameters and the state to begin with.
      call: `call(value_and_grad_fn, params, state, batches)` is the program: the next parameters and state, and a
        loss. Every leaf of `batches` has a leading axis of length `gradients / calls`.
      calls: how often a step calls the program.
      theta: `theta(params, state)` are the parameters that are being fine-tuned.
    """

    name: str
    gradients: int
    init: Callable[[chex.ArrayTree], tuple[chex.ArrayTree, Any]]
    call: Callable[[ValueAndGradFn, chex.ArrayTree, Any, Any], Stepped]
    calls: int = 1
    theta: Callable[[chex.ArrayTree, Any], chex.ArrayTree] = lambda params, state: params


def adamw() -> Arm:
    """AdamW alone."""
    return _plain("adamw", _main())


def adamw_norm() -> Arm:
    """AdamW after clipping by the global norm: like a projection, it needs the whole gradient before any update."""
    return _plain("adamw-norm", optax.chain(optax.clip_by_global_norm(MAX_NORM), _main()))


def gradient() -> Arm:
    """A gradient and nothing else, written where the one before was."""

    def call(value_and_grad_fn: ValueAndGradFn, params: chex.ArrayTree, state: Any, batches: Any) -> Stepped:
        del state
        value, grads = value_and_grad_fn(params, _batch(batches, 0))
        return params, grads, value

    return Arm("gradient", 1, lambda params: (params, optax.tree.zeros_like(params)), call)


def sam() -> Arm:
    """Optax's SAM in its opaque mode, which takes two gradients a step; here the second has a batch of its own."""
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    tx = optax.contrib.sam(_main(), adversary, opaque_mode=True)

    def call(value_and_grad_fn: ValueAndGradFn, params: chex.ArrayTree, state: Any, batches: Any) -> Stepped:
        value, grads = value_and_grad_fn(params, _batch(batches, 0))
        updates, state = tx.update(
            grads, state, params, grad_fn=lambda p, i: value_and_grad_fn(p, _batch(batches, i + 1))[1]
        )
        return optax.apply_updates(params, updates), state, value

    return Arm("sam", 2, lambda params: (params, tx.init(params)), call)


def lookahead() -> Arm:
    """Optax's Lookahead around AdamW, synchronised every five steps."""
    tx = optax.lookahead(_main(), sync_period=5, slow_step_size=0.5)

    def call(value_and_grad_fn: ValueAndGradFn, params: chex.ArrayTree, state: Any, batches: Any) -> Stepped:
        value, grads = value_and_grad_fn(params.fast, _batch(batches, 0))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    def init(params: chex.ArrayTree) -> tuple[chex.ArrayTree, Any]:
        pair = optax.LookaheadParams.init_synced(params)
        return pair, tx.init(pair)

    return Arm("lookahead", 1, init, call, theta=lambda params, state: params.slow)


def line_by_line(n_ref: int) -> Arm:
    """Algorithm 1 as anybody would write it down."""
    main, reference = _main(), _reference()

    def call(value_and_grad_fn: ValueAndGradFn, params: chex.ArrayTree, state: Any, batches: Any) -> Stepped:
        main_state, reference_state = state
        theta = params
        value, grads = value_and_grad_fn(params, _batch(batches, 0))
        for i in range(n_ref):
            updates, reference_state = reference.update(grads, reference_state, params)
            params = optax.apply_updates(params, updates)
            _, grads = value_and_grad_fn(params, _batch(batches, i + 1))
        delta = optax.tree.sub(params, theta)
        omega, square = optax.tree.vdot(delta, grads), optax.tree.vdot(delta, delta)
        coefficient = jnp.where(omega < 0, omega / jnp.where(square == 0, 1, square), 0)
        grads = jax.tree.map(lambda g, d: g - coefficient * d, grads, delta)
        updates, main_state = main.update(grads, main_state, theta)
        return optax.apply_updates(theta, updates), (main_state, reference_state), value

    def init(params: chex.ArrayTree) -> tuple[chex.ArrayTree, Any]:
        return params, (main.init(params), reference.init(params))

    return Arm(f"line-{n_ref}", n_ref + 1, init, call)


def closure(n_ref: int) -> Arm:
    """`profit` as it comes, with the exact displacement."""
    return _closure(f"profit-{n_ref}", profit(_main(), _reference(), n_ref), n_ref)


def closure_subtract(n_ref: int) -> Arm:
    """`profit` with the displacement as the paper writes it."""
    tx = profit(_main(), _reference(), n_ref, displacement="subtract")
    return _closure(f"subtract-{n_ref}", tx, n_ref)


def closure_compact(n_ref: int) -> Arm:
    """`profit` with the displacement kept in half of the bits."""
    tx = profit(_main(), _reference(), n_ref, displacement_dtype="bfloat16")
    return _closure(f"compact-{n_ref}", tx, n_ref)


def transparent(n_ref: int) -> Arm:
    """`profit_transparent`, whose program takes one gradient and is called n_ref + 1 times a step."""
    arm = _plain(f"transparent-{n_ref}", profit_transparent(_main(), _reference(), n_ref))
    return arm._replace(gradients=n_ref + 1, calls=n_ref + 1, theta=_theta)


def one_line() -> Arm:
    """`orthogonalize_to_previous` before AdamW, one gradient a step."""
    return _plain("one-line", optax.chain(orthogonalize_to_previous(), _main()))


def _main() -> optax.GradientTransformation:
    return optax.adamw(MAIN_RATE)


def _reference() -> optax.GradientTransformation:
    return optax.sgd(REFERENCE_RATE)


def _theta(params: chex.ArrayTree, state: Any) -> chex.ArrayTree:
    return eval_params(state, params)


def _batch(batches: Any, i: Any) -> Any:
    return jax.tree.map(lambda x: x[i], batches)


def _plain(name: str, tx: optax.GradientTransformation) -> Arm:
    def call(value_and_grad_fn: ValueAndGradFn, params: chex.ArrayTree, state: Any, batches: Any) -> Stepped:
        value, grads = value_and_grad_fn(params, _batch(batches, 0))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return Arm(name, 1, lambda params: (params, tx.init(params)), call)


def _closure(name: str, tx: optax.GradientTransformationExtraArgs, n_ref: int) -> Arm:
    def call(value_and_grad_fn: ValueAndGradFn, params: chex.ArrayTree, state: Any, batches: Any) -> Stepped:
        value, grads = value_and_grad_fn(params, _batch(batches, 0))
        others = jax.tree.map(lambda x: x[1:], batches)
        updates, state = tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
        return optax.apply_updates(params, updates), state, value

    return Arm(name, n_ref + 1, lambda params: (params, tx.init(params)), call)
