"""The conventions of the public interface, by introspection."""

import ast
import doctest
import importlib
import importlib.resources
import inspect
import pkgutil
import re
import textwrap

import pytest

import profit_optax
from profit_optax import compare

# Names, order and defaults; those after the star are keywords only. Annotations are left out.
SIGNATURES = {
    "profit": "(optimizer, reference_optimizer, n_ref=1, *, warmup_steps=0, displacement='accumulate', "
    "displacement_dtype=None, reset_reference_state=False, unroll=None, mask=None, axis_name=None)",
    "profit_transparent": "(optimizer, reference_optimizer, n_ref=1, *, warmup_steps=0, displacement_dtype=None, "
    "reset_reference_state=False, mask=None, axis_name=None)",
    "orthogonalize_to_previous": "(decay=0.0, *, warmup_steps=0, dtype=None, mask=None, axis_name=None)",
    "eval_params": "(opt_state, params)",
    "orthogonalize": "(gradient, displacement, *, axis_name=None)",
    "reject_nonfinite": "(inner, max_consecutive_errors, *, axis_name=None)",
    "training.make_train_step": "(loss_fn, tx, *, has_aux=False, donate=True)",
    "training.group_batches": "(batches, size)",
    "distributed.reduced_value_and_grad": "(loss_fn, axis_name, *, has_aux=False)",
    "integrations.equinox.make_value_and_grad_fn": "(loss_fn, model, *, filter_spec=<function is_inexact_array>, "
    "has_aux=False)",
    "integrations.nnx.update_arguments": "(loss_fn, model, batches, *, wrt, has_aux=False)",
    "recording.read_metrics": "(opt_state, params)",
    "recording.plot_metrics": "(rows, path=None)",
    "compare.average_params": "(decay=0.99)",
    "compare.averaged": "(opt_state, params)",
    "compare.compare": "(task, methods=None, *, rates, gradients, seeds=3, levels=None, output=None, on_progress=None, "
    "evaluations=24)",
    "compare.consolidated": "(loss, start, stiffness, strength=1000.0)",
    "compare.distilled": "(loss, outputs, start, strength=0.3)",
    "compare.fisher": "(loss, params, batches)",
    "compare.from_optimizer": "(name, optimizer, *, gradients=1, closure=False, rate_factor=1.0, "
    "eval_params=<function params_to_evaluate>)",
    "compare.head_then_all": "(head_optimizer, optimizer, head, head_steps)",
    "compare.interpolate": "(start, params, alpha)",
    "compare.pull_to_start": "(strength)",
}
# None of their arguments is an option.
OF_FOUR = ("compare.consolidated", "compare.distilled", "compare.head_then_all")
# Only how these begin: the rest are Optax's own keywords.
BEGINNINGS = {
    "profit_sgd": "(learning_rate, lr_ratio=100.0, n_ref=1, *, form='closure'",
    "profit_adamw": "(learning_rate, lr_ratio=100.0, n_ref=1, *, form='closure'",
}
FIELDS = {
    "ProfitState": ["count", "optimizer_state", "reference_state", "metrics"],
    "ProfitMetrics": ["inner_product", "cosine", "conflict", "displacement_norm", "gradient_norm"],
}

PUBLIC = {name: getattr(profit_optax, name) for name in profit_optax.__all__}
FUNCTIONS = [name for name, value in PUBLIC.items() if inspect.isfunction(value)]
STATES = [name for name, value in PUBLIC.items() if inspect.isclass(value)]
MODULES = ["profit_optax", *(m.name for m in pkgutil.walk_packages(profit_optax.__path__, "profit_optax."))]
# Public modules beside the package's own names, which users import by their path.
BESIDE = [
    name
    for name in MODULES
    if re.fullmatch(r"profit_optax\.(training|distributed|recording|integrations\.[a-z]+)", name)
]


def functions_of(module):
    """The public functions that are written in a module, by their paths in the package."""
    path = module.removeprefix("profit_optax.")
    found = vars(importlib.import_module(module)).items()
    return {
        f"{path}.{name}": value
        for name, value in found
        if inspect.isfunction(value) and name[0] != "_" and value.__module__ == module
    }


EVERY_FUNCTION = (
    {name: PUBLIC[name] for name in FUNCTIONS}
    | {name: value for module in BESIDE for name, value in functions_of(module).items()}
    | {f"compare.{name}": value for name in compare.__all__ if inspect.isfunction(value := getattr(compare, name))}
)


def without_annotations(function):
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    # Without the address of a function that is a default.
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def sections(value):
    """The sections of a Google-style docstring: {"": the summary, "Args": its text, ...}."""
    parts = re.split(r"^([A-Z]\w+):\n(?=[ ]{2}\S)", inspect.getdoc(value), flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(section):
    """The names that a section of a docstring explains."""
    return [name.lstrip("*") for name in re.findall(r"^  (\*{0,2}\w+):", section, flags=re.MULTILINE)]


def test_the_public_names_are_listed_in_order_and_belong_to_the_package():
    assert list(PUBLIC) == sorted(PUBLIC)
    for value in PUBLIC.values():
        assert value.__module__.startswith("profit_optax.")


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_that_are_promised(name):
    assert without_annotations(EVERY_FUNCTION[name]) == SIGNATURES[name]


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() & BEGINNINGS.keys()))
def test_signatures_of_aliases_begin_as_promised(name):
    assert without_annotations(PUBLIC[name]).startswith(BEGINNINGS[name])


@pytest.mark.parametrize("name", EVERY_FUNCTION)
def test_every_public_function_has_its_signature_promised(name):
    assert name in SIGNATURES | BEGINNINGS


@pytest.mark.parametrize("name", EVERY_FUNCTION)
def test_every_argument_and_the_result_have_a_type(name):
    signature = inspect.signature(EVERY_FUNCTION[name])
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", EVERY_FUNCTION)
def test_options_after_the_first_three_arguments_are_keywords_only(name):
    parameters = inspect.signature(EVERY_FUNCTION[name]).parameters.values()
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    assert len(positional) <= (4 if name in OF_FOUR else 3)
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in positional)


@pytest.mark.parametrize("name", PUBLIC | EVERY_FUNCTION)
def test_docstrings_begin_with_one_sentence(name):
    first, _, rest = inspect.getdoc((PUBLIC | EVERY_FUNCTION)[name]).partition("\n")
    assert first.endswith(".")
    assert not rest or rest.startswith("\n")


@pytest.mark.parametrize("name", EVERY_FUNCTION)
def test_docstrings_explain_arguments_result_errors_and_show_an_example(name):
    found = sections(EVERY_FUNCTION[name])
    assert documented(found["Args"]) == list(inspect.signature(EVERY_FUNCTION[name]).parameters)
    assert found["Returns"].strip()
    assert documented(found["Raises"])
    assert ">>>" in found["Examples"]
    assert found["References"].strip()
    order = [title for title in found if title]
    assert order == [title for title in ("Args", "Returns", "Raises", "Examples", "References") if title in order]


@pytest.mark.parametrize("name", STATES)
def test_states_are_named_tuples_whose_docstrings_name_every_field(name):
    state = PUBLIC[name]
    assert issubclass(state, tuple)
    assert documented(sections(state)["Attributes"]) == list(state._fields)


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_those_that_are_promised(name):
    assert list(PUBLIC[name]._fields) == FIELDS[name]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tried = {test.name for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples}
    assert {name.rpartition(".")[2] for name in tried} >= {name.rpartition(".")[2] for name in EVERY_FUNCTION}


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are_for(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", EVERY_FUNCTION)
def test_user_errors_are_no_assertions(name):
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.getmodule(EVERY_FUNCTION[name]))))
    asserted = [ast.unparse(node.test) for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    # What a type checker cannot see is nobody's error.
    assert [test for test in asserted if not test.endswith(" is not None")] == []


def test_the_package_is_typed():
    assert importlib.resources.files(profit_optax).joinpath("py.typed").is_file()
