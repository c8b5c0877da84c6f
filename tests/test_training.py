"""The ready train step with every form and with plain optimizers, and the grouping of batches."""

import ast
import functools
import inspect
import itertools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit, profit_transparent, reject_nonfinite, training
from profit_optax.training import group_batches, make_train_step
from tests import regression
from tests.agreement import relative_error
from tests.algorithm1 import Adam, Profit, Sgd, float64
from tests.forms import one_line
from tests.recurrence import OneLine

EPS = float(jnp.finfo(jnp.float32).eps)
N_REF = 2
MAIN, REFERENCE = optax.adamw(0.03, weight_decay=0.1), optax.sgd(0.02)
OPTIMIZERS = {
    "closure": profit(MAIN, REFERENCE, N_REF),
    "guarded closure": reject_nonfinite(optax.chain(profit(MAIN, REFERENCE, N_REF)), 3),
    "transparent": profit_transparent(MAIN, REFERENCE, N_REF),
    "one-line": one_line(MAIN, REFERENCE),
    "plain": MAIN,
}


def run(tx, data, **options):
    train_step = make_train_step(regression.loss_fn, tx, **options)
    params = regression.params()
    state = tx.init(params)
    seen = []
    for step in range(data["x"].shape[0]):
        params, state, metrics = train_step(params, state, {name: x[step] for name, x in data.items()})
        seen.append(metrics)
    return params, state, seen


def run_by_hand(name, data):
    """θ after the same batches, and the projections on the way, in float64."""
    data = float64(data)
    steps = [[{name: x[i, j] for name, x in data.items()} for j in range(N_REF + 1)] for i in range(len(data["x"]))]
    theta, main, reference = float64(regression.params()), Adam(0.03, weight_decay=0.1), Sgd(0.02)
    if name == "plain":
        for batch in itertools.chain.from_iterable(steps):
            theta = main(theta, regression.gradient(theta, batch))
        return theta, []
    if name == "one-line":
        line = OneLine(theta, main)
        for batch in itertools.chain.from_iterable(steps):
            line.step(regression.gradient, batch)
        return line.theta, line.projections[N_REF :: N_REF + 1]
    algorithm = Profit(main, reference, N_REF)
    for batches in steps:
        theta = algorithm.step(theta, regression.gradient, batches)
    return theta, algorithm.projections


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_is_one_step_of_the_cycle_forms_and_a_step_a_batch_of_the_others(name):
    data = regression.data(8, N_REF + 1)
    params, state, seen = run(OPTIMIZERS[name], data)
    expected, projections = run_by_hand(name, data)
    theta = params if name == "plain" else eval_params(state, params)
    assert relative_error(theta, expected, float64(regression.params())) <= 1000 * EPS
    if name == "plain":
        return
    assert {projection.conflict for projection in projections} == {True, False}
    for metrics, projection in zip(seen, projections, strict=True):
        assert bool(metrics["conflict"]) == projection.conflict
        for field in ("cosine", "displacement_norm", "gradient_norm"):
            value = getattr(projection, field)
            np.testing.assert_allclose(metrics[field], value, rtol=1000 * EPS, atol=1000 * EPS)


def test_the_metrics_of_a_plain_optimizer_are_its_loss():
    _, _, seen = run(OPTIMIZERS["plain"], regression.data(1, 2))
    assert list(seen[0]) == ["loss"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_loss_and_aux_are_those_of_the_pass_on_the_first_batch_at_the_parameters_passed_in(name):
    def loss_fn(params, batch):
        return regression.loss_fn(params, batch), {"size": optax.tree.norm(params), "first": batch["y"][0]}

    tx, params = OPTIMIZERS[name], regression.params()
    batches = {name: x[0] for name, x in regression.data(1, N_REF + 1).items()}
    _, _, metrics = make_train_step(loss_fn, tx, has_aux=True)(regression.params(), tx.init(params), batches)
    loss, aux = jax.jit(loss_fn)(params, {name: x[0] for name, x in batches.items()})
    np.testing.assert_allclose(metrics["loss"], loss, rtol=8 * EPS)
    np.testing.assert_allclose(metrics["aux"]["size"], aux["size"], rtol=8 * EPS)
    assert metrics["aux"]["first"] == aux["first"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_program_with_two_traces_of_the_loss_serves_all_steps(name, count_traces):
    tx, params = OPTIMIZERS[name], regression.params()
    loss_fn = count_traces(regression.loss_fn)
    train_step = make_train_step(loss_fn, tx)
    state = tx.init(params)
    for batches in group_batches(_loader(3 * (N_REF + 1)), N_REF + 1):
        params, state, _ = train_step(params, state, batches)
    # The pass on the first batch, and the loop over the other ones.
    assert loss_fn.traces == 2
    assert train_step._cache_size() == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("donate", [True, False])
def test_params_and_state_are_donated_unless_told_otherwise(name, donate):
    tx, params = OPTIMIZERS[name], regression.params()
    state = tx.init(params)
    batches = next(group_batches(_loader(N_REF + 1), N_REF + 1))
    make_train_step(regression.loss_fn, tx, donate=donate)(params, state, batches)
    # Of a state, what a first step does not read has no memory to give.
    assert all(leaf.is_deleted() == donate for leaf in jax.tree.leaves(params))
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(state)) == donate


def test_params_are_donated_where_nothing_is_said():
    tx, params = MAIN, regression.params()
    make_train_step(regression.loss_fn, tx)(params, tx.init(params), next(group_batches(_loader(1), 1)))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_leaves_of_a_batch_may_have_any_shapes_behind_the_group():
    tx, params = OPTIMIZERS["closure"], regression.params()
    group = next(group_batches(_loader(N_REF + 1), N_REF + 1))
    step = make_train_step(lambda params, batch: batch["weight"] * regression.loss_fn(params, batch), tx, donate=False)
    weighted, _, _ = step(params, tx.init(params), group | {"weight": jnp.ones(N_REF + 1)})
    plain, _, _ = make_train_step(regression.loss_fn, tx)(params, tx.init(params), group)
    assert relative_error(weighted, float64(plain), float64(regression.params())) <= 1000 * EPS


@pytest.mark.parametrize("length", [1, 4])
def test_one_gradient_a_step_takes_groups_of_any_length(length):
    _, state, _ = run(OPTIMIZERS["one-line"], regression.data(1, length))
    assert state[0].count == length
    _, state, _ = run(OPTIMIZERS["plain"], regression.data(1, length))
    assert optax.tree.get(state, "count") == length


@pytest.mark.parametrize("form", [profit, profit_transparent, one_line, lambda main, _: main])
def test_a_complex_leaf_moves_like_its_real_and_imaginary_parts(form):
    tx = form(optax.sgd(0.2), optax.sgd(0.05))
    batches = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2, 2, 3)), jnp.float32)

    def loss_of_parts(parts, batch):
        return jnp.sum(jnp.log1p(jnp.sum((parts - batch) ** 2, axis=0)))

    def loss_of_complex(z, batch):
        return loss_of_parts(jnp.stack([z.real, z.imag]), batch)

    parts, z = jnp.ones((2, 3)), jnp.full(3, 1 + 1j, jnp.complex64)
    step_of_parts, step_of_complex = make_train_step(loss_of_parts, tx), make_train_step(loss_of_complex, tx)
    state_of_parts, state_of_complex = tx.init(parts), tx.init(z)
    for batch in batches:
        parts, state_of_parts, _ = step_of_parts(parts, state_of_parts, batch)
        z, state_of_complex, _ = step_of_complex(z, state_of_complex, batch)
    np.testing.assert_allclose(jnp.stack([z.real, z.imag]), parts, rtol=64 * EPS, atol=64 * EPS)


@pytest.mark.parametrize("name", ["closure", "plain"])
def test_typed_keys_are_batches(name):
    def loss_fn(params, key):
        return jnp.sum((params - jax.random.normal(key, (3,))) ** 2)

    tx, params, keys = OPTIMIZERS[name], jnp.zeros(3), jax.random.split(jax.random.key(0), N_REF + 1)
    _, _, metrics = make_train_step(loss_fn, tx)(params, tx.init(params), keys)
    np.testing.assert_allclose(metrics["loss"], loss_fn(jnp.zeros(3), keys[0]), rtol=8 * EPS)


def test_optimizers_wrapped_in_objects_of_optax_are_optimizers():
    tx = optax.MultiSteps(OPTIMIZERS["plain"], 3)
    _, state, _ = run(tx, regression.data(2, 3))
    assert state.gradient_step == 2


@pytest.mark.parametrize("name", ["closure", "guarded closure"])
@pytest.mark.parametrize("length", [N_REF, N_REF + 2])
def test_a_group_of_another_length_is_an_error_that_says_which_was_expected(name, length):
    with pytest.raises(ValueError, match=r"leading axis of length n_ref = 2, got shape"):
        run(OPTIMIZERS[name], regression.data(1, length))


@pytest.mark.parametrize(
    "batches",
    [
        (),
        {"x": jnp.zeros(())},
        {"x": jnp.zeros((0, 4))},
        {"x": jnp.zeros((3, 4, 3)), "y": jnp.zeros((2, 4))},
    ],
)
@pytest.mark.parametrize("name", ["closure", "plain"])
def test_batches_that_are_no_group_are_an_error_that_names_the_remedy(name, batches):
    tx, params = OPTIMIZERS[name], regression.params()
    with pytest.raises(
        ValueError, match=r"batches must be a pytree whose every leaf .* group_batches\(loader"
    ) as raised:
        make_train_step(regression.loss_fn, tx)(params, tx.init(params), batches)
    shapes = {f"['{name}']": x.shape for name, x in dict(batches).items()}
    assert f"got leaves of shapes {shapes}. " in str(raised.value)


def test_what_is_no_loss_and_what_is_no_optimizer_is_an_error():
    with pytest.raises(TypeError, match=r"loss_fn must be a function .* got Array"):
        make_train_step(jnp.zeros(()), MAIN)
    with pytest.raises(TypeError, match=r"tx must be an Optax optimizer .* got function\. Call the factory"):
        make_train_step(regression.loss_fn, optax.adamw)
    for half in ("init", "update"):
        with pytest.raises(TypeError, match=r"tx must be an Optax optimizer .* got SimpleNamespace"):
            make_train_step(regression.loss_fn, types.SimpleNamespace(**{half: print}))


def test_the_train_step_imports_no_form():
    nodes = ast.walk(ast.parse(inspect.getsource(training)))
    imported = [(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert [name for module, name in imported if module.startswith("profit_optax")] == ["_checks", "_extra_args"]


def test_the_package_imports_no_library_of_the_integrations():
    code = (
        "import sys, profit_optax, profit_optax.training, profit_optax.integrations\n"
        "print({'flax', 'equinox', 'orbax'} & {name.partition('.')[0] for name in sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_groups_stack_the_batches_in_their_order():
    groups = list(group_batches(_loader(6), 3))
    data = regression.data(1, 6)
    assert len(groups) == 2
    for i, group in enumerate(groups):
        for name, leaf in group.items():
            np.testing.assert_array_equal(leaf, data[name][0, 3 * i : 3 * i + 3])


@pytest.mark.parametrize("batches", range(5))
def test_the_last_incomplete_group_is_dropped(batches):
    assert len(list(group_batches(_loader(batches), 2))) == batches // 2


def test_a_group_may_be_of_one_batch():
    assert [group["x"].shape[0] for group in group_batches(_loader(3), 1)] == [1, 1, 1]


def test_grouping_reads_no_further_than_the_groups_that_were_asked_for():
    loader = iter(_loader(5))
    next(group_batches(loader, 2))
    assert len(list(loader)) == 3


def test_leaves_stay_where_they_are_and_keys_stay_keys():
    keys = jax.random.split(jax.random.key(0), 4)
    loader = [{"host": np.ones(3), "device": jnp.ones(3), "key": key, "number": 2.5, "none": None} for key in keys]
    group = next(group_batches(loader, 4))
    assert type(group["host"]) is np.ndarray
    assert type(group["number"]) is np.ndarray
    assert isinstance(group["device"], jax.Array)
    assert group["none"] is None
    assert jnp.array_equal(jax.random.key_data(group["key"]), jax.random.key_data(keys))


def test_a_ragged_last_batch_is_an_error_that_names_the_leaf_and_the_remedy():
    loader = [*_loader(3), {name: x[:2] for name, x in _loader(1)[0].items()}]
    groups = group_batches(loader, 2)
    next(groups)
    with pytest.raises(ValueError, match=r"at \['x'\] expected \(4, 3\), got \(2, 3\) at place 1 .*drop_last"):
        next(groups)


def test_batches_of_different_structures_are_an_error():
    with pytest.raises(ValueError, match=r"one tree structure, got .*'y'.* at place 1 .* same keys"):
        next(group_batches([{"x": 1.0}, {"y": 1.0}], 2))


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_group_has_a_whole_number_of_batches_and_says_so_at_once(size, error):
    with pytest.raises(error, match="size must be"):
        group_batches([], size)


def _loader(batches):
    data = regression.data(1, batches)
    return [{name: x[0, i] for name, x in data.items()} for i in range(batches)]


def test_metrics_of_several_forms_in_one_optimizer_are_left_out():
    tx = optax.partition(
        {"a": one_line(optax.sgd(0.1), optax.sgd(0.01)), "b": one_line(optax.sgd(0.1), optax.sgd(0.01))},
        {"w": "a", "v": "b"},
    )
    params = {"w": jnp.ones(2), "v": jnp.ones(2)}
    step = make_train_step(lambda params, batch: jnp.sum((params["w"] + params["v"]) * batch), tx)
    params, _, metrics = step(params, tx.init(params), jnp.ones((1, 2)))
    assert list(metrics) == ["loss"]
    assert float(params["w"][0]) < 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: tx,
        lambda tx: optax.chain(optax.clip(10.0), reject_nonfinite(optax.apply_if_finite(tx, 3), 3)),
        lambda tx: optax.partition({"all": tx}, dict.fromkeys("wbv", "all")),
    ],
    ids=["bare", "chain", "partition"],
)
@pytest.mark.parametrize("length", [N_REF, N_REF + 2])
def test_a_group_that_ends_within_a_cycle_is_an_error_that_names_the_size(length, wrap):
    message = r"batches must be in groups of n_ref \+ 1 = 3 .* got a group of \d.* group_batches\(loader, 3\)"
    with pytest.raises(ValueError, match=message):
        run(wrap(OPTIMIZERS["transparent"]), regression.data(1, length))


def test_a_warm_up_that_would_put_the_groups_out_of_phase_is_an_error_that_names_the_next_multiple():
    make = functools.partial(profit_transparent, optax.sgd(0.1), optax.sgd(0.01), N_REF)
    with pytest.raises(ValueError, match=r"warmup_steps must be a multiple of n_ref \+ 1 = 3 .* got 4.* Take 6\."):
        run(make(warmup_steps=4), regression.data(1, N_REF + 1))
    _, state, _ = run(make(warmup_steps=3), regression.data(2, N_REF + 1))
    assert (state.count, state.reference_step) == (4, 0)


def test_batches_one_at_a_time_make_the_steps_of_whole_groups():
    data = regression.data(2, N_REF + 1)
    single = {name: x.reshape(-1, 1, *x.shape[2:]) for name, x in data.items()}
    params, state, _ = run(OPTIMIZERS["transparent"], single)
    expected, _, _ = run(OPTIMIZERS["transparent"], data)
    assert state.count == 2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), params, expected)


def test_a_group_may_hold_several_cycles():
    data = regression.data(2, N_REF + 1)
    together = {name: x.reshape(1, -1, *x.shape[2:]) for name, x in data.items()}
    params, state, _ = run(OPTIMIZERS["transparent"], together)
    expected, _, _ = run(OPTIMIZERS["transparent"], data)
    assert state.count == 2
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), params, expected)


@pytest.mark.parametrize("length", [1, N_REF, N_REF + 2])
def test_too_few_and_too_many_batches_for_the_closure_form_name_the_size_of_a_group(length):
    with pytest.raises(ValueError, match=r"n_ref = 2, got shape .* group n_ref \+ 1 .* group_batches\(loader, 3\)"):
        run(OPTIMIZERS["closure"], regression.data(1, length))


def test_a_group_of_one_for_one_reference_step_is_not_told_to_add_an_axis():
    with pytest.raises(ValueError, match=r"group_batches\(loader, 2\)") as error:
        run(profit(MAIN, REFERENCE), regression.data(1, 1))
    assert "x[None]" not in str(error.value)


@pytest.mark.parametrize("name", ["has_aux", "donate"])
def test_flags_that_are_neither_true_nor_false_are_an_error(name):
    with pytest.raises(TypeError, match=f"{name} must be True or False, got 'no' of type str"):
        make_train_step(regression.loss_fn, MAIN, **{name: "no"})


def test_batches_of_different_dtypes_are_an_error_that_names_the_leaf():
    loader = [{"x": np.ones(2, np.float32)}, {"x": np.ones(2, np.int32)}]
    with pytest.raises(ValueError, match=r"same dtypes .* at \['x'\] expected float32, got int32 at place 1"):
        next(group_batches(loader, 2))


def test_the_closure_reaches_objects_of_optax():
    params, state, _ = run(optax.MultiSteps(OPTIMIZERS["closure"], 1), regression.data(3, N_REF + 1))
    expected, _, _ = run(OPTIMIZERS["closure"], regression.data(3, N_REF + 1))
    assert state.inner_opt_state.count == 3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), params, expected)


def test_an_optimizer_that_takes_other_keywords_only_is_not_handed_the_closure():
    adversarial = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    # It keeps the parameters themselves in its state, which cannot be donated twice.
    params, _, seen = run(optax.contrib.sam(MAIN, adversarial), regression.data(4, 2), donate=False)
    assert list(seen[0]) == ["loss"]
    assert optax.tree.norm(optax.tree.sub(params, regression.params())) > 0
