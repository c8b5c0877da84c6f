"""Every optimizer of Optax that works on gradients and parameters alone, found by looking."""

import functools
import inspect
import warnings
from typing import Any

import optax
import optax.contrib

RATE = 0.03125
# Need the loss, another function, or gradients of each example: neither steps of a loop nor reference steps have these.
NEED_MORE = {
    "differentially_private_aggregate", "dpsgd", "hutchinson_estimator_diag_hessian", "lbfgs", "momo", "momo_adam",
    "polyak_sgd", "reduce_on_plateau", "sam", "sophia",
}  # fmt: skip
# Are given an optimizer.
WRAPPERS = {
    "mechanize": lambda: optax.contrib.mechanize(optax.sgd(RATE)),
    "schedule_free": lambda: optax.contrib.schedule_free(optax.sgd(RATE), RATE),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(optax.adam(RATE)),
}
NO_OPTIMIZERS = {"schedule_free_eval_params"}


def of_module(module: Any, is_it: Any) -> dict[str, Any]:
    found = {name: value for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: value for name, value in found.items() if is_it(name, value)}


OFFERED = of_module(optax, lambda _, value: value.__module__ == "optax._src.alias") | of_module(
    optax.contrib, lambda name, _: not name.startswith("scale_by_")
)


def make(name: str) -> optax.GradientTransformation:
    if name in WRAPPERS:
        return WRAPPERS[name]()
    factory = OFFERED[name]
    takes_rate = inspect.signature(factory).parameters.get("learning_rate")
    with warnings.catch_warnings():
        # What Optax says of its own: that a key will be asked for, and that another one is newer.
        warnings.simplefilter("ignore")
        return factory(RATE) if takes_rate and takes_rate.default is inspect.Parameter.empty else factory()


ALONE = {name: functools.partial(make, name) for name in sorted(OFFERED.keys() - NEED_MORE - NO_OPTIMIZERS)}
