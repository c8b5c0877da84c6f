"""What is validated, and the words of every error."""

import contextlib
import functools
import inspect
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import dtypes

# With optax.inject_hyperparams these arrive as JAX arrays.
_INJECTED = ("n_ref", "warmup_steps", "displacement_dtype", "unroll", "dtype")


def check_count(name: str, value: Any, minimum: int) -> int:
    """`value` as an int, or an error: n_ref and warmup_steps shape the program and must be known to it."""
    if isinstance(value, jax.Array):
        raise TypeError(
            f"{name} must be a Python int, got a JAX array ({jax.typeof(value)}). It decides what is compiled and "
            f"cannot be traced.{_static(name)}"
        )
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}. Pass a whole number.")
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {count}.{_COUNT_REMEDIES.get(name, '')}")
    if count > _MOST:
        raise ValueError(f"{name} must be at most {_MOST}, got {count}. Steps are counted in 32 bits.")
    return count


def _static(name: str) -> str:
    if name not in _INJECTED:
        return ""
    return (
        " With optax.inject_hyperparams, declare it static: "
        f"optax.inject_hyperparams(factory, static_args={_INJECTED}), with those of these names that the factory has."
    )


# What an int32 holds.
_MOST = 2**31 - 1

_NUMBERS: Any = (numbers.Real, np.generic, np.ndarray, jax.Array)

_COUNT_REMEDIES = {
    "n_ref": " Without a reference step PROFIT is its main optimizer: use that one by itself, or n_ref=1.",
    "warmup_steps": " Pass 0 to start with PROFIT at once.",
    "max_consecutive_errors": " Pass 0 to let every non-finite update through.",
    "unroll": " Pass True for no loop at all, False for one step in the loop's body, None for what is fastest.",
}


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """An error unless `value` is one of `choices`."""
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}. Pass one of these.")


def check_flag(name: str, value: Any) -> None:
    """An error unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{name} must be True or False, got {value!r} of type {type(value).__name__}. Pass one of the two."
        )


def check_axis_name(value: Any) -> None:
    """An error unless every leaf of a prefix pytree of mesh axes is a name."""
    for path, name in jax.tree.leaves_with_path(value):
        if not isinstance(name, str):
            raise TypeError(
                f"axis_name{jax.tree_util.keystr(path)} must be the name of a mesh axis, got {name!r} of type "
                f"{type(name).__name__}. Pass a name, a tuple of names, or a prefix pytree of these with None for "
                "replicated leaves."
            )


def _is_number(value: Any) -> bool:
    """Whether it is one real number, which may be traced."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, _NUMBERS) or np.ndim(value):
        return False
    dtype = getattr(value, "dtype", None)
    return dtype is None or jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _is_known_outside(value: Any, is_inside: Callable[[float], bool]) -> bool:
    """Whether a number is outside of a range. Traced ones, such as injected ones, cannot be looked at."""
    return not (isinstance(value, jax.core.Tracer) or is_inside(float(np.asarray(value))))


def check_positive(name: str, value: Any) -> None:
    """An error unless `value` is a finite number above 0, as far as it is known."""
    if not _is_number(value):
        raise TypeError(
            f"{name} must be a number above 0, got {value!r} of type {type(value).__name__}. For a ratio that changes, "
            "build the form from two optimizers with schedules of their own."
        )
    if _is_known_outside(value, lambda x: 0 < x < np.inf):
        raise ValueError(
            f"{name} must be above 0 and finite, got {value!r}. The paper's values lie between 10 and 10,000."
        )


def check_decay(name: str, value: Any) -> None:
    """An error unless `value` is a number in [0, 1), as far as it is known, or a schedule."""
    if callable(value):
        return
    if not _is_number(value):
        raise TypeError(
            f"{name} must be a number in [0, 1) or a schedule of steps, got {value!r} of type {type(value).__name__}. "
            "Pass 0 to remember the last gradient alone."
        )
    if _is_known_outside(value, lambda x: 0 <= x < 1):
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}. Pass a number such as 0.5.")


def check_rate(name: str, value: Any) -> None:
    """An error unless `value` is a number, finite as far as it is known, or a schedule."""
    if callable(value):
        return
    if not _is_number(value):
        raise TypeError(
            f"{name} must be a number or a schedule of steps, got {value!r} of type {type(value).__name__}. Pass one "
            "such as 1e-4 or optax.cosine_decay_schedule(1e-4, 1000)."
        )
    if _is_known_outside(value, np.isfinite):
        raise ValueError(f"{name} must be finite, got {value!r}. Pass a number such as 1e-4, or a schedule of steps.")


def check_option_of_form(name: str, value: Any, only: Any, form: str) -> None:
    """An error unless an option has the one value that `form` knows."""
    if type(value) is not type(only) or value != only:
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
            f"{name} must be a dtype, got a JAX array ({jax.typeof(value)}): optax.inject_hyperparams takes a dtype "
            f'object for a schedule. Write the dtype as a string, such as "bfloat16".{_static(name)}'
        )
    try:
        dtype = jnp.dtype(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f'{name} must be a dtype or None, got {value!r}. Pass one such as "bfloat16".') from error
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be a real floating-point dtype or None, got {dtype.name}. For complex leaves the matching "
            "complex dtype is taken."
        )
    if jnp.finfo(dtype).bits < 16:
        raise TypeError(
            f"{name} must have 16 bits or more, got {dtype.name}, which JAX does not add to other dtypes. Pass "
            '"bfloat16".'
        )
    if dtypes.canonicalize_dtype(dtype) != dtype:
        raise TypeError(
            f"{name} must be a dtype that JAX keeps, got {dtype.name}, which it replaces by "
            f'{dtypes.canonicalize_dtype(dtype).name}. Enable it with jax.config.update("jax_enable_x64", True).'
        )
    return dtype


def check_optimizer(name: str, value: Any) -> None:
    """An error unless `value` is an Optax gradient transformation, or an object like one."""
    if isinstance(value, type) or not (hasattr(value, "init") and hasattr(value, "update")):
        raise TypeError(
            f"{name} must be an optax.GradientTransformation such as optax.sgd(1e-4), got {value!r} of type "
            f"{type(value).__name__}. Call the factory if you passed one."
        )


def check_reference_optimizer(value: Any) -> None:
    """An error unless `value` is an optimizer that needs gradients and parameters alone."""
    check_optimizer("reference_optimizer", value)
    required = [
        name
        for name, parameter in inspect.signature(value.update).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    if required:
        raise TypeError(_reference_needs(", ".join(required)))


@contextlib.contextmanager
def reference_arguments() -> Iterator[None]:
    """An error that tells which of the two optimizers is meant, where one inside a chain needs more arguments."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TypeError) and "required keyword-only" in str(error):
            raise TypeError(_reference_needs(str(error).rpartition(":")[2].strip())) from error
        error.add_note("This came from reference_optimizer, which is handed gradients and parameters alone.")
        raise


def _reference_needs(arguments: str) -> str:
    return (
        "reference_optimizer must need nothing but gradients and parameters, got one whose update requires "
        f"{arguments}. It is handed no extra arguments: take plain optax.sgd for the reference steps, and this one as "
        "the main optimizer."
    )


def check_unroll(value: Any) -> None:
    """An error unless `value` is None, True, False, or a number of steps."""
    if value is not None and not isinstance(value, (bool, np.bool_)):
        check_count("unroll", value, minimum=1)


def check_grads(name: str, grads: Any) -> None:
    """An error if there are no gradients at all: a loop that trains nothing would look like one that does."""
    if grads is None:
        raise ValueError(
            f"{name} must be a pytree of gradients like the parameters, got None. Pass what jax.grad(loss_fn)(params, "
            "...) returns; single leaves may be None."
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
            "a step) or orthogonalize_to_previous (one) instead. If you did pass it, a wrapper around profit has "
            "dropped it, as optax.lookahead does and whatever else takes no extra arguments: put profit outside of it."
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
        # Of what is no array NumPy says that it has no axes.
        shape = leaf.shape if hasattr(leaf, "shape") else np.shape(leaf)
        if shape[:1] != (n_ref,):
            remedy = "stack the batches with jax.tree.map(lambda *x: jnp.stack(x), *list_of_batches)"
            if n_ref == 1 and shape[:1] != (0,):
                remedy = "add the axis with jax.tree.map(lambda x: x[None], batch)"
            raise ValueError(
                f"batches{jax.tree_util.keystr(path)} must have a leading axis of length n_ref = {n_ref}, got shape "
                f"{shape}. batches holds the {n_ref} batches of the step that come after the one that grads was "
                f"taken on: {remedy}. For make_train_step group n_ref + 1 of them: group_batches(loader, {n_ref + 1})."
            )
    return value_and_grad_fn


def check_group(batches: Any, n_ref: int, warmup_steps: int) -> None:
    """An error if the group of a step, whose batches after the first one are these, would end within a cycle."""
    for others in (np.shape(leaf)[0] for leaf in jax.tree.leaves(batches)[:1] if np.ndim(leaf)):
        # A batch at a time is a loop of single calls.
        if others and (others + 1) % (n_ref + 1):
            raise ValueError(
                f"batches must be in groups of n_ref + 1 = {n_ref + 1} for profit_transparent with n_ref = {n_ref}, or "
                f"of a multiple, got a group of {others + 1}: its cycles would end in the middle of a group. Group "
                f"them with group_batches(loader, {n_ref + 1})."
            )
        if others and warmup_steps % (n_ref + 1):
            raise ValueError(
                f"warmup_steps must be a multiple of n_ref + 1 = {n_ref + 1} for profit_transparent on groups of "
                f"batches, got {warmup_steps}: a step of the warm-up is one batch, and every later cycle would end in "
                f"the middle of a group. Take {-(-warmup_steps // (n_ref + 1)) * (n_ref + 1)}."
            )


def check_no_masked_nodes(params: Any) -> None:
    """An error if `params` went through `optax.masked` or `optax.partition`."""
    nodes = jax.tree.leaves_with_path(params, is_leaf=_is_masked_node)
    paths = [jax.tree_util.keystr(path) for path, leaf in nodes if _is_masked_node(leaf)]
    if paths:
        raise ValueError(
            f"params{paths[0]} is a MaskedNode: optax.masked or optax.partition is wrapped around profit, so "
            "value_and_grad_fn would be handed parameters with leaves missing. Freeze with mask instead: "
            "profit(optax.adamw(1e-4), optax.sgd(1e-5), mask=...), a pytree of bools with False for what is frozen. Or "
            "pass only the trained subtree as params and close over the rest."
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
    check_complex_alike("the gradients that value_and_grad_fn returned", result[1], "grads", grads)
    return result[1]


def check_same_tree(
    name: str,
    tree: Any,
    reference_name: str,
    reference: Any,
    *,
    missing_leaves: bool = False,
    remedy: str = "Differentiate with respect to the same parameters that update is given.",
) -> None:
    """An error unless two pytrees have one structure and one shape a leaf.

    Args:
      name: what the first tree is called.
      tree: the first tree.
      reference_name: what the other one is called.
      reference: the other one.
      missing_leaves: whether `tree` may have None beside a leaf, or a whole branch, of `reference`.
      remedy: the end of the error.
    """
    is_leaf = _is_none if missing_leaves else None
    structure: Any = jax.tree.structure(tree, is_leaf=is_leaf)
    leaves = jax.tree.leaves_with_path(tree, is_leaf=is_leaf)
    try:
        others = structure.flatten_up_to(reference)
        same = all(leaf is None or _is_leaf(other) for (_, leaf), other in zip(leaves, others, strict=True))
    except ValueError:
        same = False
    if not same or not (missing_leaves or structure == jax.tree.structure(reference)):
        raise ValueError(
            f"{name} must have the tree structure of {reference_name}.\n  expected: {jax.tree.structure(reference)}\n  "
            f"got:      {structure}\n{remedy}"
        )
    for (path, leaf), other in zip(leaves, others, strict=True):
        if leaf is not None and jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(
                f"{name} must have the shapes of {reference_name}: at {_name(path)} expected {jnp.shape(other)}, got "
                f"{jnp.shape(leaf)}. {remedy}"
            )


def check_inexact(*names_and_trees: Any) -> None:
    """An error unless all leaves of trees, given as name, tree, name, tree, are floating-point or complex arrays."""
    for name, tree in zip(names_and_trees[::2], names_and_trees[1::2], strict=True):
        for path, leaf in jax.tree.leaves_with_path(tree):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
                raise TypeError(
                    f"{name} must have floating-point or complex leaves, got {jnp.result_type(leaf)} at {_name(path)}. "
                    "Nothing can be trained or projected there: leave the leaf out with mask, as in "
                    "profit(..., mask=lambda params: jax.tree.map(lambda p: jnp.issubdtype(p.dtype, jnp.inexact), "
                    "params)), or pass only floating-point leaves."
                )


def check_complex_together(gradient: Any, displacement: Any) -> None:
    """An error where a leaf of the gradient is real beside a complex one of the displacement, of the same structure."""
    for (path, g), d in zip(jax.tree.leaves_with_path(gradient), jax.tree.leaves(displacement), strict=True):
        if jnp.iscomplexobj(d) and not jnp.iscomplexobj(g):
            raise TypeError(
                f"gradient must have complex leaves where displacement has, got {jnp.result_type(g)} beside "
                f"{jnp.result_type(d)} at {_name(path)}. What a projection leaves of it has an imaginary part, for "
                f"which there is no room: pass it as {jnp.result_type(g, jnp.complex64)}."
            )


def check_complex_alike(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """An error unless gradients are complex where what they are of is, and real where that is real."""
    for (path, x), y in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(reference), strict=True):
        if jnp.iscomplexobj(x) != jnp.iscomplexobj(y):
            raise TypeError(
                f"{name} must be complex where {reference_name} are, and real elsewhere, got {jnp.result_type(x)} "
                f"beside {jnp.result_type(y)} at {_name(path)}. An imaginary part would be lost: take the gradients "
                "of a real loss by jax.grad, with respect to these parameters."
            )


def check_mask(mask: Any, tree: Any) -> None:
    """An error unless `mask` is a prefix pytree of bools for `tree`, with None where that has None."""
    structure: Any = jax.tree.structure(mask)
    try:
        structure.flatten_up_to(tree)
        misfit = None
    except ValueError as error:
        misfit = error
    for path, leaf in jax.tree.leaves_with_path(mask, is_leaf=_is_none if misfit else None):
        if not isinstance(leaf, (bool, np.bool_)):
            raise TypeError(
                f"mask must have True (trained) or False (frozen) as its leaves, got {leaf!r} of type "
                f"{type(leaf).__name__} at {_name(path)}. It decides what is compiled: pass Python bools, or a "
                "function of the parameters that returns them."
            )
    if misfit:
        raise ValueError(
            f"mask must be a prefix pytree of bools for the parameters, got {structure}, which is no prefix of "
            f"{jax.tree.structure(tree)}. Write one bool for a whole branch, or one for each leaf."
        ) from misfit


def check_state(form: str, state: Any, expected: type) -> None:
    """An error unless `state` is the state of `form`, of type `expected`."""
    if not isinstance(state, expected):
        came = type(state).__name__
        if type(state) is tuple:
            came += f" of {', '.join(type(part).__name__ for part in state)}"
        raise ValueError(
            f"state must be the {expected.__name__} of {form}, got a {came}: it is the state of "
            "another optimizer. Use the optimizer that the state was made by. To change over, call init of the new one "
            "on eval_params(opt_state, params), and go on from these parameters."
        )


def with_mask_of_state(init_fn: Any, update_fn: Any) -> Any:
    """`update_fn`, whose errors say so where the state was made for other trained leaves than are trained now."""

    @functools.wraps(update_fn)
    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        try:
            return update_fn(updates, state, params, **extra_args)
        except (TypeError, ValueError) as error:
            if not _has_other_mask(state, init_fn, updates if params is None else params):
                raise
            raise ValueError(
                "state must be made with the mask that update has, got one with other frozen leaves. To thaw or freeze "
                "leaves, call init of the new optimizer on eval_params(opt_state, params), and go on from there."
            ) from error

    return update


def _has_other_mask(state: Any, init_fn: Any, params: Any) -> bool:
    try:
        made_now = jax.eval_shape(init_fn, params)
    except Exception:  # The error that there was says what these parameters are.
        return False
    return _frozen(state) != _frozen(made_now)


def _frozen(state: Any) -> list[Any]:
    nodes = jax.tree.leaves_with_path(state, is_leaf=_is_masked_node)
    return [path for path, leaf in nodes if _is_masked_node(leaf)]


def check_no_inner_form(name: str, state: Any) -> None:
    """An error if the state of an inner optimizer holds that of a form of PROFIT."""
    nodes = jax.tree.leaves(state, is_leaf=_is_form)
    inner = [type(node).__name__ for node in nodes if _is_form(node)]
    if inner:
        raise ValueError(
            f"{name} must not be or contain a form of PROFIT, got one with the state {inner[0]}. Pass the plain Optax "
            "optimizers that the steps are to be taken with, such as optax.adamw(1e-4) and optax.sgd(1e-5)."
        )


def _is_form(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "metrics") and (hasattr(x, "reference_state") or hasattr(x, "previous"))


def _is_leaf(x: Any) -> bool:
    return jax.tree_util.all_leaves([x])


def _is_none(x: Any) -> bool:
    return x is None


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "the only leaf"
