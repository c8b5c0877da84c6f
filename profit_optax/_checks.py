"""What is validated, and the words of every error."""

import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

_STATIC_ARGS = 'static_args=("n_ref", "warmup_steps", "displacement_dtype")'


def check_count(name: str, value: Any, minimum: int) -> int:
    """`value` as an int, or an error: n_ref and warmup_steps shape the program and must be known to it."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python int, got a JAX array ({jax.typeof(value)}). It decides what is compiled and "
            f"cannot be traced. With optax.inject_hyperparams, declare it static: "
            f"optax.inject_hyperparams(factory, {_STATIC_ARGS})."
        )
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}. Pass a whole number.")
    count = operator.index(value)
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {count}.{_COUNT_REMEDIES.get(name, '')}")
    return count


_COUNT_REMEDIES = {
    "n_ref": " Without a reference step PROFIT is its main optimizer: use that one by itself, or n_ref=1.",
    "warmup_steps": " Pass 0 to start with PROFIT at once.",
}


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """An error unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """An error if `value` is a number not above 0. Traced values, such as injected ones, cannot be looked at."""
    if not isinstance(value, jax.Array) and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}. The paper's values lie between 10 and 10,000.")


def check_option_of_form(name: str, value: Any, only: Any, form: str) -> None:
    """An error unless an option has the one value that `form` knows."""
    if value != only:
        raise ValueError(
            f"{name}={value!r} is not for form={form!r}, which has {name}={only!r}: leave it out, or choose "
            'form="closure".'
        )


def check_dtype(name: str, value: Any) -> jnp.dtype | None:
    """`value` as a floating dtype or None, or an error."""
    if value is None:
        return None
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a dtype, got a JAX array ({jax.typeof(value)}). optax.inject_hyperparams takes a dtype "
            f"object for a schedule: declare it static, optax.inject_hyperparams(factory, {_STATIC_ARGS}), or write "
            'the dtype as a string, such as "bfloat16".'
        )
    try:
        dtype = jnp.dtype(value)
    except TypeError as error:
        raise TypeError(f'{name} must be a dtype or None, got {value!r}. Pass one such as "bfloat16".') from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be a real floating-point dtype or None, got {dtype.name}. For complex leaves the matching "
            "complex dtype is taken."
        )
    return dtype


def check_optimizer(name: str, value: Any) -> None:
    """An error unless `value` is an Optax gradient transformation."""
    if not isinstance(value, optax.GradientTransformation):
        raise TypeError(
            f"{name} must be an optax.GradientTransformation such as optax.sgd(1e-4), got {value!r} of type "
            f"{type(value).__name__}. Call the factory if you passed one."
        )


def check_params(name: str, params: Any) -> None:
    """An error unless there are parameters: restoring them is part of the algorithm."""
    if params is None:
        raise ValueError(f"{name} needs the parameters: call update(grads, state, params, ...), got params=None.")


def check_closure(value_and_grad_fn: Any, batches: Any, n_ref: int) -> Any:
    """`value_and_grad_fn`, or an error unless `update` was given it and the data for its own gradients."""
    if value_and_grad_fn is None:
        raise ValueError(
            "value_and_grad_fn is missing: profit takes further gradients inside update, so call "
            "tx.update(grads, state, params, value_and_grad_fn=jax.value_and_grad(loss_fn), batches=batches). If "
            "your training loop can only call update(grads, state, params), use profit_transparent (n_ref + 1 calls "
            "a step) or profit_lagged (one call a step) instead."
        )
    if not callable(value_and_grad_fn):
        raise TypeError(
            f"value_and_grad_fn must be a function (params, batch) -> (value, grads), got "
            f"{type(value_and_grad_fn).__name__}. Pass jax.value_and_grad(loss_fn)."
        )
    if batches is None:
        raise ValueError(
            f"batches is missing: pass the step's further {n_ref} batches as one pytree whose every leaf has a "
            f"leading axis of length n_ref = {n_ref} (in warm-up too), or batches=() if your function needs no data."
        )
    for path, leaf in jax.tree.leaves_with_path(batches):
        shape = jnp.shape(leaf)
        if shape[:1] != (n_ref,):
            remedy = "stack the batches with jax.tree.map(lambda *x: jnp.stack(x), *list_of_batches)"
            if n_ref == 1:
                remedy = "add the axis with jax.tree.map(lambda x: x[None], batch)"
            raise ValueError(
                f"batches{jax.tree_util.keystr(path)} must have a leading axis of length n_ref = {n_ref}, got shape "
                f"{shape}. batches holds the {n_ref} batches of the step that come after the one that grads was "
                f"taken on: {remedy}."
            )
    return value_and_grad_fn


def check_no_masked_nodes(params: Any) -> None:
    """An error if `params` went through `optax.masked` or `optax.partition`."""
    nodes = jax.tree.leaves_with_path(params, is_leaf=_is_masked_node)
    paths = [jax.tree_util.keystr(path) for path, leaf in nodes if _is_masked_node(leaf)]
    if paths:
        raise ValueError(
            f"params{paths[0]} is a MaskedNode: optax.masked or optax.partition is wrapped around profit, so "
            "value_and_grad_fn would be handed parameters with leaves missing. Freeze inside both optimizers instead: "
            'freeze = lambda tx: optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels); '
            "profit(freeze(optax.adamw(1e-4)), freeze(optax.sgd(1e-5))). Or pass only the trained subtree as params "
            "and close over the rest."
        )


def _is_masked_node(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def check_result(result: Any, grads: Any) -> Any:
    """The gradients of what `value_and_grad_fn` returned, or an error."""
    # No pair can have the structure of one of its own parts, not even where params are a pair themselves.
    structure: Any = jax.tree.structure(result)
    without_value = structure == jax.tree.structure(grads)
    if without_value or not (isinstance(result, tuple) and len(result) == 2):
        came = "gradients without a value" if without_value else f"a {type(result).__name__}"
        raise TypeError(
            f"value_and_grad_fn must return the pair (value, grads), got {came}. Build it with "
            "jax.value_and_grad(loss_fn) in place of jax.grad(loss_fn)."
        )
    check_same_tree("the gradients that value_and_grad_fn returned", result[1], "grads", grads)
    return result[1]


def check_same_tree(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """An error unless two pytrees have one structure and one shape a leaf."""
    structure: Any = jax.tree.structure(tree)
    expected = jax.tree.structure(reference)
    if structure != expected:
        raise ValueError(
            f"{name} must have the tree structure of {reference_name}.\n  expected: {expected}\n  got:      "
            f"{structure}\nDifferentiate with respect to the same parameters that update is given."
        )
    for (path, leaf), other in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(reference), strict=True):
        if jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(
                f"{name} must have the shapes of {reference_name}: at {jax.tree_util.keystr(path) or 'the only leaf'} "
                f"expected {jnp.shape(other)}, got {jnp.shape(leaf)}. Differentiate with respect to the same "
                "parameters that update is given."
            )
