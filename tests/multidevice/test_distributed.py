"""Data parallelism: every recipe gives the run of one device, and the recipe of another place is noticed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import profit
from profit_optax.distributed import reduced_value_and_grad
from tests import phasors, tuning
from tests.multidevice.meshes import set_mesh
from tests.tuning import assert_same_run, call_of, loss_fn, make, mesh_of, on_one_device, start

DEVICES = 8
EPS = float(jnp.finfo(jnp.float32).eps)
RECIPES = ("pmap", "checked", "unchecked")


def split(tree, axis):
    """The axis as two, the first of which counts the devices."""
    if axis is None:
        return tree
    return jax.tree.map(lambda x: x.reshape(*x.shape[:axis], DEVICES, -1, *x.shape[axis + 1 :]), tree)


def mapped(recipe, function, in_axes, out_axes=None):
    """`function` on eight devices along "data".

    Args:
      recipe: one of RECIPES.
      function: what each device runs.
      in_axes: for each argument, the axis that is split over devices, or None for the same on all.
      out_axes: None for a result that is the same on all devices, 0 for one that is stacked.
    """
    if recipe == "pmap":
        parallel = jax.pmap(function, axis_name="data", in_axes=in_axes, out_axes=out_axes)
        return lambda *args: parallel(*map(split, args, in_axes))
    spec = lambda axis: P() if axis is None else P(*[None] * axis, "data")  # noqa: E731
    stack = functools.partial(jax.tree.map, lambda x: x[None])
    return jax.jit(
        jax.shard_map(
            function if out_axes is None else lambda *args: stack(function(*args)),
            mesh=mesh_of((DEVICES,), ("data",)),
            in_specs=tuple(map(spec, in_axes)),
            out_specs=spec(out_axes),
            check_vma=recipe == "checked",
        )
    )


def mean_of_gradients(params, batch):
    """Right where types are not tracked."""
    return lax.pmean(jax.value_and_grad(loss_fn)(params, batch), "data")


def gradient_of_mean(params, batch):
    """Right where they are."""
    return jax.value_and_grad(lambda params: lax.pmean(loss_fn(params, batch), "data"))(params)


RIGHT = {"pmap": mean_of_gradients, "checked": gradient_of_mean, "unchecked": mean_of_gradients}
WRONG = {"pmap": gradient_of_mean, "checked": mean_of_gradients, "unchecked": gradient_of_mean}


def run_on_eight(recipe, form, value_and_grad_fn):
    tx = make(form)
    call = mapped(recipe, call_of(form, tx, value_and_grad_fn), in_axes=(None, None, 1))
    return tuning.run(form, call, start(), tx.init(start()), tuning.data(form))


@pytest.mark.parametrize("form", tuning.FORMS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_six_steps_on_eight_devices_are_those_of_one(recipe, form):
    assert_same_run(run_on_eight(recipe, form, reduced_value_and_grad(loss_fn, "data")), on_one_device(form))


def test_parameters_replicated_by_pmap_stay_the_same_on_all_devices():
    form = "closure"
    tx, data = make(form), tuning.data(form)
    call = call_of(form, tx, reduced_value_and_grad(loss_fn, "data"))
    parallel = jax.pmap(call, axis_name="data", in_axes=(0, 0, 1))
    replicate = functools.partial(jax.tree.map, lambda x: jnp.stack([x] * DEVICES))
    params, state = replicate(start()), replicate(tx.init(start()))
    parts = split(data, 2)
    for i in range(tuning.STEPS):
        params, state, _ = parallel(params, state, jax.tree.map(lambda x: x[i], parts))  # noqa: B023
    for leaf in jax.tree.leaves((params, state)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    assert tuning.relative_error(jax.tree.map(lambda x: x[0], params), on_one_device(form).theta) <= 2e-6


@pytest.mark.parametrize("form", tuning.FORMS)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda axis_type: axis_type.name)
def test_six_steps_under_jit_on_a_sharded_batch_are_those_of_one_device(axis_type, form):
    tx = make(form)
    mesh = mesh_of((DEVICES,), ("data",), axis_type)
    with set_mesh(mesh):
        params = jax.device_put(start(), NamedSharding(mesh, P()))
        data = jax.device_put(tuning.data(form), NamedSharding(mesh, P(None, None, "data")))
        result = tuning.run(form, jax.jit(call_of(form, tx)), params, tx.init(params), data)
    assert_same_run(result, on_one_device(form))


def batch():
    return jax.tree.map(lambda x: x[0, 0], tuning.data("one-line"))


def gradients(recipe, value_and_grad_fn):
    """What every device computes for the value and the gradients, stacked."""
    return mapped(recipe, value_and_grad_fn, in_axes=(None, 0), out_axes=0)(start(), batch())


def assert_close(tree, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), tree, expected)


def on_all_devices(tree):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (DEVICES, *x.shape)), tree)


@pytest.mark.parametrize("recipe", RECIPES)
def test_value_and_gradients_are_those_of_the_whole_batch(recipe):
    expected = on_all_devices(tuning.value_and_grad_fn(start(), batch()))
    assert_close(gradients(recipe, RIGHT[recipe]), expected)
    assert_close(gradients(recipe, reduced_value_and_grad(loss_fn, "data")), expected)


def test_under_check_vma_the_mean_of_gradients_is_too_large_by_the_number_of_devices():
    _, grads = gradients("checked", mean_of_gradients)
    _, expected = on_all_devices(tuning.value_and_grad_fn(start(), batch()))
    assert_close(jax.tree.map(lambda g: g / DEVICES, grads), expected)


@pytest.mark.parametrize("recipe", ["pmap", "unchecked"])
def test_elsewhere_the_gradient_of_the_mean_is_that_of_each_device_alone(recipe):
    _, grads = gradients(recipe, gradient_of_mean)
    _, alone = gradients(recipe, jax.value_and_grad(loss_fn))
    _, expected = tuning.value_and_grad_fn(start(), batch())
    assert_close(grads, alone)
    # A share of the mean was due, of which there are as many as devices.
    assert_close(jax.tree.map(lambda g: jnp.sum(g, axis=0) / DEVICES, grads), expected)
    assert tuning.relative_error(jax.tree.map(lambda g: g[0], grads), expected) > 0.1


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_with_the_reduction_of_another_place_is_noticed(recipe):
    with pytest.raises(AssertionError):
        assert_same_run(run_on_eight(recipe, "closure", WRONG[recipe]), on_one_device("closure"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_collectives_inside_the_loss_are_differentiated_through(recipe):
    def loss_of(params, batch, mean):
        # BatchNorm over the whole batch, wherever its parts lie.
        center = mean(jnp.mean(batch["x"] * params["w"][0, :8][None], axis=0))
        return jnp.mean((batch["y"] - jnp.sum(batch["x"] - center[None], axis=1) * jnp.sum(params["v"])) ** 2)

    local = lambda params, batch: loss_of(params, batch, lambda x: lax.pmean(x, "data"))  # noqa: E731
    whole = lambda params, batch: loss_of(params, batch, lambda x: x)  # noqa: E731
    expected = on_all_devices(jax.value_and_grad(whole)(start(), batch()))
    value, grads = gradients(recipe, reduced_value_and_grad(local, "data"))
    assert tuning.relative_error((value, grads), expected) <= 64 * EPS


@pytest.mark.parametrize("recipe", RECIPES)
def test_aux_is_that_of_each_device(recipe):
    def loss_and_sum(params, batch):
        return loss_fn(params, batch), {"sum": jnp.sum(batch["y"]), "examples": jnp.asarray(len(batch["y"]))}

    (value, aux), grads = gradients(recipe, reduced_value_and_grad(loss_and_sum, "data", has_aux=True))
    expected = on_all_devices(tuning.value_and_grad_fn(start(), batch()))
    assert_close((value, grads), expected)
    np.testing.assert_allclose(aux["sum"], batch()["y"].reshape(DEVICES, -1).sum(axis=1), rtol=64 * EPS)
    np.testing.assert_array_equal(aux["examples"], len(batch()["y"]) // DEVICES)


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_batch_may_be_sharded_over_two_axes(check_vma):
    mapped = jax.shard_map(
        reduced_value_and_grad(loss_fn, ("slice", "data")),
        mesh=mesh_of((2, 4), ("slice", "data")),
        in_specs=(P(), P(("slice", "data"))),
        out_specs=P(),
        check_vma=check_vma,
    )
    assert_close(jax.jit(mapped)(start(), batch()), tuning.value_and_grad_fn(start(), batch()))


def test_an_axis_of_vmap_may_be_one_of_them():
    def on_device(params, batch):
        halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
        both = jax.vmap(reduced_value_and_grad(loss_fn, ("half", "data")), in_axes=(None, 0), axis_name="half")
        return both(params, halves)

    result = mapped("unchecked", on_device, in_axes=(None, 0))(start(), batch())
    expected = tuning.value_and_grad_fn(start(), batch())
    assert_close(result, jax.tree.map(lambda x: jnp.stack([x, x]), expected))


def test_the_other_axes_of_a_mesh_may_be_left_to_the_compiler():
    mapped = jax.shard_map(
        reduced_value_and_grad(loss_fn, "data"),
        mesh=mesh_of((2, 4), ("data", "model")),
        in_specs=(P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
    )
    specs = {"w": P(None, "model"), "b": P("model"), "v": P("model"), "c": P()}
    mesh = mesh_of((2, 4), ("data", "model"))
    params = jax.device_put(start(), {name: NamedSharding(mesh, spec) for name, spec in specs.items()})
    value, grads = jax.jit(mapped)(params, batch())
    assert_close((value, grads), tuning.value_and_grad_fn(start(), batch()))


@pytest.mark.parametrize("form", tuning.FORMS)
@pytest.mark.parametrize("case", tuning.HALF_PRECISION)
def test_half_precision_on_eight_devices_is_half_precision_on_one(case, form):
    setting = tuning.HALF_PRECISION[case]
    tx, data = make(form, **setting.options), tuning.data(form)
    params = start(setting.dtype)
    # Here the mean is taken over gradients that are rounded to the parameters' dtype: the least exact of the recipes.
    value_and_grad_fn = reduced_value_and_grad(setting.loss_fn, "data")
    call = mapped("unchecked", call_of(form, tx, value_and_grad_fn), in_axes=(None, None, 1))
    tuning.assert_same_in_half_precision(case, tuning.run(form, call, params, tx.init(params), data), form)


# Errors, each of which would otherwise be a result that is wrong by the number of devices.


REPLICATED, SHARDED = P(), P("data")


def trace(function, params_spec=REPLICATED, batch_spec=SHARDED):
    mesh = mesh_of((DEVICES,), ("data",))
    traced = jax.shard_map(function, mesh=mesh, in_specs=(params_spec, batch_spec), out_specs=P())
    jax.eval_shape(traced, start(), batch())


@pytest.mark.parametrize("reduce", [lax.pmean, lax.psum])
def test_a_loss_that_was_reduced_already_is_refused(reduce):
    with pytest.raises(
        ValueError, match=r"loss_fn must return the loss of this device's part .* leave pmean and psum out"
    ):
        trace(reduced_value_and_grad(lambda params, batch: reduce(loss_fn(params, batch), "data"), "data"))


def test_a_batch_that_is_the_same_on_all_devices_is_refused():
    with pytest.raises(ValueError, match=r"got one that does not: .* in_specs such as P\('data'\)"):
        trace(reduced_value_and_grad(loss_fn, "data"), batch_spec=REPLICATED)


def test_parameters_that_differ_along_the_axis_are_refused():
    specs = {"w": REPLICATED, "b": SHARDED, "v": SHARDED, "c": REPLICATED}
    with pytest.raises(ValueError, match=r"params\['b'\] must be the same on all devices along axis_name='data'"):
        trace(reduced_value_and_grad(loss_fn, "data"), params_spec=specs)


@pytest.mark.parametrize("under_jit", [True, False])
def test_an_axis_that_is_not_bound_is_refused(under_jit):
    function = reduced_value_and_grad(loss_fn, "data")
    with pytest.raises(ValueError, match=r"axis_name='data' is not bound here: .* use jax\.value_and_grad"):
        (jax.jit(function) if under_jit else function)(start(), batch())


def test_an_axis_that_is_left_to_the_compiler_is_not_bound():
    mapped = jax.shard_map(
        reduced_value_and_grad(loss_fn, "model"),
        mesh=mesh_of((2, 4), ("data", "model")),
        in_specs=(P(), P("data")),
        out_specs=P(),
        axis_names={"data"},
    )
    with pytest.raises(ValueError, match="axis_name='model' is not bound here"):
        jax.eval_shape(mapped, start(), batch())


@pytest.mark.parametrize("axis_name", [None, (), 0, ["data"], ("data", None)])
def test_axis_names_are_checked(axis_name):
    with pytest.raises(TypeError, match="axis_name must be the name of a mesh axis or a tuple of such names, got "):
        reduced_value_and_grad(loss_fn, axis_name)


def test_a_loss_that_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"loss_fn must be a function .* got float"):
        reduced_value_and_grad(1.0, "data")


def test_aux_that_is_missing_is_refused():
    with pytest.raises(TypeError, match=r"loss_fn must return the pair \(loss, aux\) with has_aux=True"):
        trace(reduced_value_and_grad(loss_fn, "data", has_aux=True))


def test_an_axis_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"axis_name must name each axis once, got \('data', 'data'\)"):
        reduced_value_and_grad(loss_fn, ("data", "data"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_of_complex_parameters_come_conjugated(recipe):
    tx = profit(optax.sgd(phasors.RATE), optax.sgd(phasors.REFERENCE_RATE), phasors.N_REF)
    call = call_of("closure", tx, reduced_value_and_grad(phasors.loss_fn, "data"))
    step = mapped(recipe, call, in_axes=(None, None, 1))
    z, state = phasors.start(), tx.init(phasors.start())
    for batches in phasors.data():
        z, state, _ = step(z, state, batches)
    phasors.assert_right(z)
