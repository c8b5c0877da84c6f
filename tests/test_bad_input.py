"""Every argument of every public function, given what it is not made for: one clear error, or a right result.

An error is a TypeError or a ValueError of this package, which names the argument. It comes when the function is called
or, where it returns something to be called, at the latest when that is. What a user's own function raises is not ours.
"""

import ast
import inspect
import re
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import (
    eval_params,
    orthogonalize,
    orthogonalize_to_previous,
    profit,
    profit_adamw,
    profit_sgd,
    profit_transparent,
    reject_nonfinite,
)
from profit_optax.distributed import reduced_value_and_grad
from profit_optax.recording import Recorder, plot_metrics, read_metrics
from profit_optax.training import group_batches, make_train_step

SGD = optax.sgd(0.1)
PARAMS = {"w": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([1.0, -1.0]), "b": jnp.array(2.0)}
BATCHES = {"x": jnp.array([[1.0, 3.0]])}


def loss_fn(params, batch):
    return jnp.sum(params["w"] * batch["x"]) ** 2 + params["b"] ** 2


value_and_grad_fn = jax.value_and_grad(loss_fn)


class Odd:
    """An object of nobody's."""


# What an argument may be given that is not made for it.
WRONG = {
    "None": None, "True": True, "0": 0, "1": 1, "-1": -1, "1.5": 1.5, "nan": float("nan"), "inf": float("inf"),
    "2 ** 40": 2**40, "text": "text", "empty text": "", "object": Odd(), "class": Odd, "module": ast, "list": [1, "x"],
    "empty list": [], "empty tuple": (), "dictionary": {"q": 1}, "NumPy numbers": np.array([1.0, 2.0]),
    "NumPy integers": np.array([1, 2]), "JAX number": jnp.array(1.5), "JAX integer": jnp.array(2),
    "JAX numbers": jnp.array([1.0, jnp.nan]), "function": lambda *_: 1, "factory": optax.sgd, "optimizer": SGD,
    "state": SGD.init(PARAMS), "dtype": jnp.float32, "complex": 1j, "bytes": b"1e-4",
    "NumPy text": np.str_("1"), "NumPy complex": np.complex64(1j), "JAX complex": jnp.array(1j),
    "JAX nan": jnp.array(jnp.nan), "JAX -1": jnp.array(-1.0), "JAX 0": jnp.array(0.0),
}  # fmt: skip


def drive(tx: Any) -> Any:
    """Two steps of any optimizer of these parameters."""
    state, params = tx.init(PARAMS), PARAMS
    for _ in range(2):
        updates, state = optax.with_extra_args_support(tx).update(
            GRADS, state, params, value_and_grad_fn=value_and_grad_fn, batches=BATCHES
        )
        params = optax.apply_updates(params, updates)
    return params, optax.tree.get(state, "cosine", 0.0)


def train(step: Any) -> Any:
    return step(PARAMS, profit(SGD, SGD).init(PARAMS), {"x": jnp.ones((2, 2))})[2]["loss"]


def profits(tx: Any) -> Any:
    """An optimizer that takes whatever another one takes."""
    return optax.GradientTransformationExtraArgs(tx.init, lambda *args, **_: tx.update(*args))


ALIAS = {"learning_rate": 0.1, "lr_ratio": 10.0, "n_ref": 1, "warmup_steps": 0, "displacement_dtype": None,
    "reset_reference_state": False, "mask": None, "axis_name": None}  # fmt: skip
FORM = {"optimizer": SGD, "reference_optimizer": SGD, "n_ref": 1, "warmup_steps": 0, "displacement_dtype": None,
    "reset_reference_state": False, "mask": None, "axis_name": None}  # fmt: skip
CLOSURE = {"displacement": "accumulate", "unroll": None}
# What is called, what it is called with, and what is done with what it returns.
FUNCTIONS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "profit": (profit, FORM | CLOSURE, drive),
    "profit_transparent": (profit_transparent, FORM, drive),
    "profit_sgd": (
        profit_sgd, ALIAS | CLOSURE | {"form": "closure", "nesterov": False, "accumulator_dtype": None}, drive,
    ),
    "profit_adamw": (
        profit_adamw, ALIAS | CLOSURE | {"form": "closure", "nesterov": False, "mu_dtype": None}, drive,
    ),
    "profit_sgd lagged": (
        lambda **options: profit_sgd(**(options | {"form": "lagged"})),
        {"learning_rate": 0.1, "lr_ratio": 10.0, "mask": None, "axis_name": None, "warmup_steps": 0, "n_ref": 1,
            "reset_reference_state": False},
        drive,
    ),
    "orthogonalize_to_previous": (
        orthogonalize_to_previous,
        {"decay": 0.0, "warmup_steps": 0, "dtype": None, "mask": None, "axis_name": None},
        lambda tx: drive(profits(tx)),
    ),
    "reject_nonfinite": (
        reject_nonfinite, {"inner": profit(SGD, SGD), "max_consecutive_errors": 1, "axis_name": None}, drive,
    ),
    "orthogonalize": (
        orthogonalize, {"gradient": GRADS, "displacement": PARAMS, "axis_name": None}, lambda result: result,
    ),
    "eval_params": (
        eval_params, {"opt_state": profit_transparent(SGD, SGD).init(PARAMS), "params": PARAMS}, lambda theta: theta,
    ),
    "make_train_step": (
        make_train_step, {"loss_fn": loss_fn, "tx": profit(SGD, SGD), "has_aux": False, "donate": False}, train,
    ),
    "make_train_step's step": (
        lambda batches: make_train_step(loss_fn, profit(SGD, SGD), donate=False)(
            PARAMS, profit(SGD, SGD).init(PARAMS), batches
        )[2]["loss"],
        {"batches": {"x": jnp.ones((2, 2))}},
        lambda loss: loss,
    ),
    "group_batches": (group_batches, {"batches": [BATCHES, BATCHES], "size": 2}, list),
    "reduced_value_and_grad": (
        reduced_value_and_grad,
        {"loss_fn": loss_fn, "axis_name": "devices", "has_aux": False},
        lambda function: jax.vmap(function, (None, 0), axis_name="devices")(PARAMS, {"x": jnp.ones((2, 2))}),
    ),
    "profit's update": (
        profit(SGD, SGD).update,
        {"updates": GRADS, "state": profit(SGD, SGD).init(PARAMS), "params": PARAMS,
         "value_and_grad_fn": value_and_grad_fn, "batches": BATCHES},
        lambda result: result,
    ),
    "profit_transparent's update": (
        profit_transparent(SGD, SGD).update,
        {"updates": GRADS, "state": profit_transparent(SGD, SGD).init(PARAMS), "params": PARAMS},
        lambda result: result,
    ),
    "orthogonalize_to_previous's update": (
        orthogonalize_to_previous().update,
        {"updates": GRADS, "state": orthogonalize_to_previous().init(PARAMS), "params": PARAMS},
        lambda result: result,
    ),
    "read_metrics": (
        read_metrics, {"opt_state": profit(SGD, SGD).init(PARAMS), "params": PARAMS},
        lambda metrics: metrics["cosine"],
    ),
    "Recorder": (
        Recorder, {"every": 1, "rows": ()},
        lambda recorder: recorder.record(2, profit(SGD, SGD).init(PARAMS), PARAMS) or {},
    ),
    "Recorder's record": (
        lambda **given: Recorder().record(**given),
        {"step": 2, "opt_state": profit(SGD, SGD).init(PARAMS), "params": PARAMS},
        lambda row: row["cosine"],
    ),
    "plot_metrics": (
        plot_metrics, {"rows": [{"step": i, "cosine": -0.5} for i in range(3)]}, lambda figure: len(figure.axes),
    ),
    # Gradients and parameters are for the optimizer inside to look at.
    "reject_nonfinite's update": (
        lambda state: reject_nonfinite(SGD, 1).update(GRADS, state, PARAMS),
        {"state": reject_nonfinite(SGD, 1).init(PARAMS)},
        lambda result: result,
    ),
}  # fmt: skip
CASES = [(name, argument) for name, (_, arguments, _) in FUNCTIONS.items() for argument in arguments]
# What messages call an argument that Optax has named.
NAMES = {"updates": "grads", "inner": "inner"}
# Where a function is right, or where a wrong value is for another one to find.
LEFT_OUT = {
    # JAX holds no such int, and says so.
    ("learning_rate", "2 ** 40"),
    ("batches", "2 ** 40"),
    # Optimizers of which the state that is trained here is not.
    ("tx", "optimizer"),
    # The loss here returns no pair, which JAX says.
    ("has_aux", "True"),
    # A form takes what decides nothing about it.
    ("donate", "True"),
}
# Another number of batches in a group, or other batches.
OF_OTHER_TREES = {"group_batches"}


def outcome(name: str, argument: str, value: Any) -> Any:
    """What comes of a call with one argument replaced: its result, or its error."""
    function, arguments, use = FUNCTIONS[name]
    try:
        return use(function(**(arguments | {argument: value})))
    except Exception as error:
        return error


def is_of_a_users_function(error: Exception, value: Any) -> bool:
    """Whether a function that was handed in raised it, or returned what its use could not take."""
    frames = traceback.extract_tb(error.__traceback__)
    return callable(value) or any(frame.filename == __file__ and frame.name == "loss_fn" for frame in frames)


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_what_an_argument_is_not_made_for_is_one_clear_error_or_works(name, argument):
    function, arguments, use = FUNCTIONS[name]
    right = use(function(**arguments))
    for what, value in WRONG.items():
        if (argument, what) in LEFT_OUT:
            continue
        result = outcome(name, argument, value)
        if isinstance(result, Exception):
            if isinstance(result, (TypeError, ValueError)) and is_of_a_users_function(result, value):
                continue
            assert type(result) in (TypeError, ValueError), (what, result)
            assert NAMES.get(argument, argument) in str(result) or argument in str(result), (what, result)
            # JAX leaves itself out of the trace: what it says of a jitted function's argument ends at the call.
            assert re.search("profit_optax/|test_bad_input", traceback.extract_tb(result.__traceback__)[-1].filename)
        elif name not in OF_OTHER_TREES:
            assert jax.tree.structure(result) == jax.tree.structure(right), what
            numbers = [
                np.asarray(x) for x in jax.tree.leaves(result) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)
            ]
            assert all(np.all(np.isfinite(x)) for x in numbers), what


@pytest.mark.parametrize("name", sorted({name.partition("'")[0].partition(" ")[0] for name in FUNCTIONS}))
def test_the_errors_that_a_docstring_names_are_those_that_are_raised(name):
    function = FUNCTIONS[name][0]
    documented = set(re.findall(r"^  (\w+Error):", inspect.getdoc(function).partition("Raises:")[2], re.MULTILINE))
    raised = {
        type(result).__name__
        for case, argument in CASES
        if case == name or case.startswith(f"{name}'s ")
        for what, value in WRONG.items()
        if (argument, what) not in LEFT_OUT and isinstance(result := outcome(case, argument, value), Exception)
    }
    # Of a package that is here.
    assert raised == documented - {"ImportError"}
