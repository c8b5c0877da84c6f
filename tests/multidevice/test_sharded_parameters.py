"""Parameters in pieces, by NamedSharding or by hand: the run of one device, and everything keeps its sharding."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from profit_optax import orthogonalize
from profit_optax.distributed import reduced_value_and_grad
from tests import tuning
from tests.multidevice.meshes import set_mesh
from tests.tuning import assert_same_run, call_of, make, mesh_of, on_one_device, start

AXIS_TYPES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
FORMS = pytest.mark.parametrize("form", tuning.FORMS)


class Layout(NamedTuple):
    """How a mesh holds the parameters; the batch lies over "data".

    Attributes:
      mesh: the sizes of its axes by their names.
      specs: how each parameter is kept.
      used: how the loss needs it. What is kept in more pieces is gathered.
    """

    mesh: dict[str, int]
    specs: dict[str, P]
    used: dict[str, P]


LAYOUTS = {
    "fsdp": Layout(
        {"data": 8},
        {"w": P(None, "data"), "b": P("data"), "v": P("data"), "c": P()},
        {"w": P(), "b": P(), "v": P(), "c": P()},
    ),
    "data-model": Layout(
        {"data": 2, "model": 4},
        {"w": P("data", "model"), "b": P("model"), "v": P("model"), "c": P()},
        {"w": P(None, "model"), "b": P("model"), "v": P("model"), "c": P()},
    ),
}


def gathering(layout, mesh, loss_fn):
    """The loss at gathered parameters. An Explicit mesh must be told; elsewhere the compiler finds out by itself."""
    if AxisType.Explicit not in mesh.axis_types:
        return loss_fn
    gather = lambda name, x: jax.sharding.reshard(x, layout.used[name])  # noqa: E731
    return lambda params, batch: loss_fn({name: gather(name, x) for name, x in params.items()}, batch)


def run_in_pieces(layout, axis_type, form, tx, loss_fn=tuning.loss_fn, dtype=np.float32):
    mesh = mesh_of(tuple(layout.mesh.values()), tuple(layout.mesh), axis_type)
    with set_mesh(mesh):
        shardings = {name: NamedSharding(mesh, spec) for name, spec in layout.specs.items()}
        params = jax.device_put(start(dtype), shardings)
        data = jax.device_put(tuning.data(form), NamedSharding(mesh, P(None, None, "data")))
        call = jax.jit(call_of(form, tx, jax.value_and_grad(gathering(layout, mesh, loss_fn))))
        # Counts and metrics come from `init` on one device. Once they lie on the mesh, a call compiles once.
        on_mesh = lambda x: jax.device_put(x, NamedSharding(mesh, P())) if x.ndim == 0 else x  # noqa: E731
        result = tuning.run(form, call, params, jax.tree.map(on_mesh, tx.init(params)), data)
    assert call._cache_size() == 1
    return result, shardings


def assert_shardings(tree, shardings, copies):
    """Whatever belongs to a parameter lies as it does; there are `copies` such leaves of each."""
    found = dict.fromkeys(shardings, 0)
    for path, leaf in jax.tree.leaves_with_path(tree):
        names = [key.key for key in path if getattr(key, "key", None) in shardings]
        for name in names:
            found[name] += 1
            where = f"{jax.tree_util.keystr(path)} is {leaf.sharding}"
            assert leaf.sharding.is_equivalent_to(shardings[name], leaf.ndim), where
    assert set(found.values()) == {copies}


# AdamW's moments; θ and Δ where the loop holds displaced parameters; the gradient before.
COPIES = {"closure": 2, "transparent": 4, "one-line": 3}


@FORMS
@AXIS_TYPES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_six_steps_under_named_sharding_are_those_of_one_device(layout, axis_type, form):
    result, shardings = run_in_pieces(LAYOUTS[layout], axis_type, form, make(form))
    assert_same_run(result, on_one_device(form))
    assert_shardings((result.params, result.updates), shardings, copies=2)
    assert_shardings(result.state, shardings, COPIES[form])


@FORMS
@AXIS_TYPES
def test_parameters_and_state_in_pieces_are_donated(axis_type, form):
    layout, tx = LAYOUTS["data-model"], make(form)
    mesh = mesh_of(tuple(layout.mesh.values()), tuple(layout.mesh), axis_type)
    with set_mesh(mesh):
        params = jax.device_put(start(), {name: NamedSharding(mesh, spec) for name, spec in layout.specs.items()})
        on_mesh = lambda x: jax.device_put(x, NamedSharding(mesh, P())) if x.ndim == 0 else x  # noqa: E731
        state = jax.tree.map(on_mesh, tx.init(params))
        batches = jax.tree.map(lambda x: x[0], tuning.data(form))
        batches = jax.device_put(batches, NamedSharding(mesh, P(None, "data")))
        call = call_of(form, tx, jax.value_and_grad(gathering(layout, mesh, tuning.loss_fn)))
        # The old metrics are read by nothing, and would be left out of the program.
        jax.jit(call, donate_argnums=(0, 1), keep_unused=True)(params, state, batches)
    kept = [jax.tree_util.keystr(p) for p, x in jax.tree.leaves_with_path((params, state)) if not x.is_deleted()]
    assert not kept


@FORMS
@pytest.mark.parametrize("case", tuning.HALF_PRECISION)
def test_half_precision_under_named_sharding_is_that_of_one_device(case, form):
    setting = tuning.HALF_PRECISION[case]
    tx = make(form, **setting.options)
    result, shardings = run_in_pieces(LAYOUTS["data-model"], AxisType.Auto, form, tx, setting.loss_fn, setting.dtype)
    tuning.assert_same_in_half_precision(case, result, form)
    assert_shardings(result.params, shardings, copies=1)
    assert_shardings(result.state, shardings, COPIES[form])


# By hand. The hidden axis lies over the model axes: a device has its units of it, and the sum over all of them is a
# collective. Where types are not tracked, collectives are their own transposes, which is wrong for a sum whose result
# all devices use alike: Megatron's pair of functions says what is meant.


def summed(x, axes, tracked):
    """The sum of `x` over devices, of which each device's gradient is that of its own part."""
    if tracked:
        return lax.psum(x, axes)
    function = jax.custom_vjp(lambda x: lax.psum(x, axes))
    function.defvjp(lambda x: (lax.psum(x, axes), None), lambda _, g: (g,))
    return function(x)


def used_in_parts(x, axes, tracked):
    """`x`, of which every device uses a part, so that its gradient is the sum over devices."""
    if tracked:
        return x
    function = jax.custom_vjp(lambda x: x)
    function.defvjp(lambda x: (x, None), lambda _, g: (lax.psum(g, axes),))
    return function(x)


class ByHand(NamedTuple):
    """Parameters sharded by hand.

    Attributes:
      check_vma: whether types are tracked.
      axis_name: what the optimizer is told.
      model_axes: the mesh axes that hold the hidden units.
      whole: the parameters that every device has.
    """

    check_vma: bool
    axis_name: Any
    model_axes: tuple[str, ...] = ("model",)
    whole: tuple[str, ...] = ()


BY_HAND = {
    "all-tracked": ByHand(True, None),
    "all-name": ByHand(False, "model"),
    "all-tuple": ByHand(False, ("row", "column"), model_axes=("row", "column")),
    "some-tracked": ByHand(True, None, whole=("b", "c")),
    "some-tracked-and-named": ByHand(True, "model", whole=("b", "c")),
    "some-prefix": ByHand(False, {"pieces": "model", "whole": None}, whole=("b", "c")),
}
MESHES = {("model",): {"data": 2, "model": 4}, ("row", "column"): {"data": 2, "row": 2, "column": 2}}


def nested(params, whole):
    """The parameters in two groups, so that a prefix of the tree says how each is sharded."""
    groups = {"pieces": {name: x for name, x in params.items() if name not in whole}}
    return groups | ({"whole": {name: params[name] for name in whole}} if whole else {})


def flat(params):
    return {name: x for group in params.values() for name, x in group.items()}


def spec_of(name, case):
    if name in case.whole:
        return P()
    return P(None, case.model_axes) if name == "w" else P(case.model_axes)


def loss_by_hand(case, params, batch):
    params = flat(params)
    size = lax.axis_size(case.model_axes)
    if "b" in case.whole:
        units = params["b"].size // size
        b = used_in_parts(params["b"], case.model_axes, case.check_vma)
        params["b"] = lax.dynamic_slice_in_dim(b, lax.axis_index(case.model_axes) * units, units)
    hidden = jnp.tanh(batch["x"] @ params["w"] + params["b"][None])
    output = summed(hidden @ params["v"], case.model_axes, case.check_vma)
    return jnp.mean((output + params.get("c", 0.0) - batch["y"]) ** 2)


def run_by_hand(case, form, axis_name, loss_fn=loss_by_hand):
    tx = make(form, axis_name=axis_name)
    params = start() if "c" in case.whole else without_c(start())
    params = nested(params, case.whole)
    state = tx.init(params)

    def spec(path, leaf):
        names = [key.key for key in path if getattr(key, "key", None) in start()]
        return spec_of(names[-1], case) if names else P()

    specs = jax.tree.map_with_path(spec, params)
    state_specs = jax.tree.map_with_path(spec, state)
    sizes = MESHES[case.model_axes]
    value_and_grad_fn = reduced_value_and_grad(functools.partial(loss_fn, case), "data")
    call = jax.jit(
        jax.shard_map(
            call_of(form, tx, value_and_grad_fn),
            mesh=mesh_of(tuple(sizes.values()), tuple(sizes)),
            in_specs=(specs, state_specs, P(None, "data")),
            out_specs=(specs, state_specs, specs),
            check_vma=case.check_vma,
        )
    )
    result = tuning.run(form, call, params, state, tuning.data(form))
    return result._replace(theta=flat(result.theta))


def without_c(params):
    return {name: x for name, x in params.items() if name != "c"}


@functools.cache
def expected_run(form, with_c):
    """The run of one device on the parameters that a case has."""
    if with_c:
        return on_one_device(form)
    tx = make(form)
    loss_fn = lambda params, batch: tuning.loss_fn({**params, "c": jnp.zeros(())}, batch)  # noqa: E731
    call = jax.jit(call_of(form, tx, jax.value_and_grad(loss_fn)))
    expected = tuning.run(form, call, without_c(start()), tx.init(without_c(start())), tuning.data(form))
    assert set(expected.metrics.conflict) == {True, False}
    return expected


@FORMS
@pytest.mark.parametrize("case", BY_HAND)
def test_six_steps_on_parameters_sharded_by_hand_are_those_of_one_device(case, form):
    case = BY_HAND[case]
    assert_same_run(run_by_hand(case, form, case.axis_name), expected_run(form, "c" in case.whole))


@pytest.mark.parametrize("axis_name", [None, "model", {"pieces": None, "whole": "model"}], ids=str)
def test_axis_names_that_are_wrong_are_noticed(axis_name):
    with pytest.raises(AssertionError):
        assert_same_run(run_by_hand(BY_HAND["some-prefix"], "one-line", axis_name), on_one_device("one-line"))


@pytest.mark.parametrize(
    ("axis_name", "message"),
    [
        ("modle", "axis_name='modle' is not bound here: it must be an axis of a surrounding jax.shard_map"),
        ({"piece": "model"}, "axis_name must be a name, a tuple of names, or a prefix pytree.*got {'piece': 'model'}"),
    ],
    ids=["unbound", "no prefix"],
)
def test_axis_names_that_cannot_be_right_are_errors(axis_name, message):
    with pytest.raises(ValueError, match=message):
        run_by_hand(BY_HAND["some-prefix"], "one-line", axis_name)


def test_what_a_sum_may_lose_to_underflow_is_counted_over_all_devices():
    # One entry whose square is safe for the size of a piece, and squares that underflow in all pieces.
    info, size = jnp.finfo(jnp.float32), 64
    tiny, eps = float(info.tiny), float(info.eps)
    g = np.full(8 * size, (0.99 * tiny) ** 0.5, np.float32)
    g[0] = (1.01 * size * tiny / eps) ** 0.5
    norm = jax.jit(
        jax.shard_map(
            lambda g: orthogonalize(g, g, axis_name="model")[1].gradient_norm,
            mesh=mesh_of((8,), ("model",)),
            in_specs=P("model"),
            out_specs=P(),
            check_vma=False,
        )
    )(g)
    exact = np.linalg.norm(g.astype(np.float64))
    assert abs(float(norm) - exact) <= 2 * eps * exact


def test_a_plain_psum_in_the_loss_makes_gradients_too_large_where_types_are_not_tracked():
    def plain(case, params, batch):
        return loss_by_hand(case._replace(check_vma=True), params, batch)

    case = BY_HAND["all-name"]
    result = run_by_hand(case, "one-line", case.axis_name, plain)
    expected = expected_run("one-line", with_c=False)
    np.testing.assert_allclose(result.metrics.gradient_norm[0], 4 * expected.metrics.gradient_norm[0], rtol=1e-5)


@FORMS
def test_six_steps_on_parameters_sharded_by_pmap_are_those_of_one_device(form):
    tx = make(form, axis_name="model")
    pieces = {
        "w": lambda x: x.reshape(8, 8, 4).swapaxes(0, 1),
        "b": lambda x: x.reshape(8, 4),
        "v": lambda x: x.reshape(8, 4),
    }
    params = {name: cut(start()[name]) for name, cut in pieces.items()}
    case = ByHand(False, "model")
    value_and_grad_fn = jax.value_and_grad(lambda params, batch: loss_by_hand(case, {"pieces": params}, batch))
    call = jax.pmap(call_of(form, tx, value_and_grad_fn), axis_name="model", in_axes=(0, 0, None))
    result = tuning.run(form, call, params, jax.vmap(tx.init)(params), tuning.data(form))
    expected = expected_run(form, with_c=False)
    theta = {name: cut(expected.theta[name]) for name, cut in pieces.items()}
    one = result._replace(metrics=jax.tree.map(lambda x: x[:, 0], result.metrics))
    assert_same_run(one, expected._replace(theta=theta))
