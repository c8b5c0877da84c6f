"""What a step sends between devices, read from compiled programs: its gradients' own collectives, and a few numbers."""

import functools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.scale import costs, figures, hlo, models, programs
from benchmarks.scale.figures import WAYS
from benchmarks.scale.hlo import Collective, Shape
from benchmarks.scale.plan import Program
from benchmarks.scale.targets import TARGETS
from tests import tuning
from tests.tuning import mesh_of

DEVICES, LAYERS = 8, 3
ARMS = {
    "closure-1": programs.closure(1),
    "closure-3": programs.closure(3),
    "subtract-3": programs.closure(3, displacement="subtract"),
    "transparent": programs.transparent(3),
    "one-line": programs.one_line(),
}
# The sizes of a mesh's axes by their names, and how it holds the weights.
LAYOUTS = {
    "fsdp": ({"data": 8}, P("data")),
    "data-model": ({"data": 2, "model": 4}, P("data", "model")),
    "model": ({"data": 1, "model": 8}, P(None, "model")),
    "replicated": ({"data": 8}, P()),
}


def loss_fn(params, x):
    for w in params:
        x = jnp.tanh(x @ w)
    return jnp.mean(x**2)


@functools.cache
def collectives(layout, arm):
    """Those of one call of an arm, on a stack of matrices."""
    sizes, spec = LAYOUTS[layout]
    mesh = mesh_of(tuple(sizes.values()), tuple(sizes))
    params = [jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, spec))] * LAYERS
    batch = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    return hlo.collectives(programs.compile_program(arm, loss_fn, params, batch).as_text(), DEVICES)


def arrays(collectives):
    """How often each array is sent, in which way."""
    sent = Counter()
    for c in collectives:
        for shape in c.arrays:
            sent[c.kind, c.devices, shape] += c.times
    return sent


def numbers(collectives, depth):
    """How many single numbers are sent from inside `depth` branches."""
    return sum(c.times * len(c.numbers) for c in collectives if c.depth == depth)


def times(count, sent):
    return Counter({what: count * often for what, often in sent.items()})


@pytest.mark.skipif(
    jax.__version_info__ < (0, 8), reason="XLA for CPUs leaves the sums of JAX 0.7 in as many all-reduces"
)
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_sends_what_its_gradients_send_and_three_numbers_a_leaf(layout, arm):
    # The one line knows one of the three.
    sums = 2 if arm == "one-line" else 3
    arm, baseline = ARMS[arm], collectives(layout, programs.baseline())
    found = collectives(layout, arm)
    assert arrays(baseline)
    assert arrays(found) == times(arm.batches, arrays(baseline))
    # Transparent calls project in the branch of the main call.
    projection = 0 if arm.calls == 1 else 1
    # XLA sums a number of a leaf over one axis of the mesh after the other.
    axes = len([axis for axis in LAYOUTS[layout][1] if axis])
    assert numbers(baseline, 0) == axes * LAYERS
    assert numbers(found, projection) == sums * axes * LAYERS
    assert {c.depth for c in found if not c.arrays} <= {projection}
    # Those of all leaves go in one operation, maybe in one that is sent anyway.
    assert sum(not c.arrays for c in found if c.depth == projection) <= axes


def test_an_inner_product_that_gathers_its_leaves_is_noticed():
    def flatten(grads, params):
        flat = jnp.concatenate([jnp.ravel(g) for g in jax.tree.leaves(grads)])
        return jax.tree.map(lambda g: g * jnp.vdot(flat, flat), grads)

    arm = programs.Arm(optax.with_extra_args_support(optax.chain(optax.stateless(flatten), optax.adamw(1e-4))))
    found, baseline = collectives("fsdp", arm), collectives("fsdp", programs.baseline())
    assert arrays(found) != arrays(baseline)


@pytest.mark.parametrize(("check_vma", "axis_name"), [(True, None), (False, "model")])
@pytest.mark.parametrize("form", tuning.FORMS)
def test_parameters_sharded_by_hand_send_three_numbers_in_all(form, check_vma, axis_name):
    tx = tuning.make(form, axis_name=axis_name)
    params = {"w": jnp.ones((8, 32)), "v": jnp.ones((32, 8))}
    specs = {"w": P(None, "model"), "v": P("model")}
    state = tx.init(params)
    spec_of = lambda path, _: next((specs[k.key] for k in path if getattr(k, "key", None) in specs), P())  # noqa: E731
    state_specs = jax.tree.map_with_path(spec_of, state)

    def by_hand(params, x):
        return jnp.mean(lax.psum(jnp.tanh(x @ params["w"]) @ params["v"], "model") ** 2)

    value_and_grad_fn = jax.value_and_grad(by_hand)
    batches = jnp.ones((tuning.N_REF + 1 if form == "closure" else 1, 16, 8))

    def program(function, out_specs):
        mapped = jax.shard_map(
            function,
            mesh=mesh_of((8,), ("model",)),
            in_specs=(specs, state_specs, P()),
            out_specs=out_specs,
            check_vma=check_vma,
        )
        return hlo.collectives(jax.jit(mapped).lower(params, state, batches).compile().as_text(), DEVICES)

    found = program(tuning.call_of(form, tx, value_and_grad_fn), (specs, state_specs, specs))
    gradient = program(lambda params, state, batches: value_and_grad_fn(params, batches[0])[1], specs)
    assert arrays(found) == times(len(batches), arrays(gradient))
    assert arrays(gradient)
    projection = 1 if form == "transparent" else 0
    assert [numbers(found, i) for i in range(3)] == [
        (2 if form == "one-line" else 3) * (i == projection) for i in range(3)
    ]
    assert numbers(gradient, 0) == 0


# What is counted on paper, at a size that takes seconds.


@pytest.fixture
def tiny(monkeypatch):
    """A transformer that is known by the name `tiny`, with an untied embedding."""
    tied = models.TINY["tiny"].config
    model = models._pieces("tiny", "tiny", tied._replace(layers=2, tied=False), 8)
    monkeypatch.setitem(models.MODELS, "tiny", model)
    return model


@pytest.mark.parametrize("way", ["profit-3", "subtract-1", "transparent-1", "previous", "previous-compact"])
def test_programs_hold_and_send_what_is_counted_on_paper(way, tiny):
    found = figures.measure(TARGETS["cpu"], DEVICES, tiny, WAYS[way])
    assert costs.not_as_on_paper({Program("cpu", DEVICES, "tiny", way): found}) == []


def test_every_program_that_is_not_as_on_paper_is_named(tiny, monkeypatch):
    found = figures.measure(TARGETS["cpu"], DEVICES, tiny, WAYS["profit-1"])
    monkeypatch.setitem(WAYS, "profit-1", WAYS["profit-1"]._replace(gradients=1, copies=2, numbers=1))
    wrong = costs.not_as_on_paper({Program("cpu", DEVICES, "tiny", "profit-1"): found})
    assert [problem.split(" ")[2] for problem in wrong] == ["held", "gathered", "summed", "numbers"]
    assert all(problem.startswith("tiny, profit-1: ") for problem in wrong)
    # What compilers for other devices send is theirs.
    assert costs.not_as_on_paper({Program("h100", DEVICES, "tiny", "profit-1"): found}) == []


def test_the_models_have_the_sizes_that_are_said():
    def parameters(name):
        return sum(math.prod(shape) for shape in models.MODELS[name].config.shapes().values())

    assert [round(parameters(name) / 1e9, 1) for name in ("1b", "8b")] == [1.0, 8.1]


# The reader of HLO.

PROGRAM = """HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], bf16[8,4])) -> (s32[], bf16[8,4]) {
  %p = (s32[], bf16[8,4]{1,0}) parameter(0)
  %g = bf16[8,4]{1,0} all-gather(%y), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %t = (s32[], bf16[8,4]{1,0}) tuple(%i, %g)
}

%condition (p: (s32[], bf16[8,4])) -> pred[] {
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%yes (p: f32[]) -> f32[] {
  ROOT %r = (f32[], /*index=1*/f32[2]{0}) all-reduce(%p, %q), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
}

%no (p: f32[]) -> f32[] {
  %w = f32[] while(%p), condition=%condition, body=%no_body, backend_config={"known_trip_count":{"n":"2"}}
}

%no_body (p: f32[]) -> f32[] {
  ROOT %s = f32[4]{0} reduce-scatter(%p), replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, to_apply=%add
}

ENTRY %main (a: f32[]) -> f32[] {
  %w = (s32[], bf16[8,4]{1,0}) while(%t), condition=%condition, body=%body, config={"known_trip_count":{"n":"3"}}
  %f = f32[] conditional(%p, %a, %a), branch_computations={%yes, %no}
  ROOT %p = pred[5]{0} collective-permute(%f), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_are_read_with_their_loops_branches_and_groups():
    assert hlo.collectives(PROGRAM, DEVICES) == [
        Collective("all-gather", (Shape("bf16", (8, 4)),), devices=4, times=3, depth=0),
        Collective("all-reduce", (Shape("f32", ()), Shape("f32", (2,))), devices=2, times=1, depth=1),
        Collective("reduce-scatter", (Shape("f32", (4,)),), devices=4, times=2, depth=1),
        Collective("collective-permute", (Shape("pred", (5,)),), devices=8, times=1, depth=0),
    ]
    assert [[shape.bytes for shape in c.shapes] for c in hlo.collectives(PROGRAM, DEVICES)] == [[64], [4, 8], [16], [5]]


def test_what_starts_a_collective_is_read_without_its_operands_and_what_ends_it_is_not_read():
    started = PROGRAM.replace("bf16[8,4]{1,0} all-gather(", "(bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(")
    ended = started.replace("  ROOT %t =", "  %d = bf16[8,4]{1,0} all-gather-done(%g)\n  ROOT %t =")
    assert hlo.collectives(ended, DEVICES) == hlo.collectives(PROGRAM, DEVICES)


def test_parts_of_one_collective_in_several_kernels_count_once():
    part = "  %g{} = bf16[8,4]{{1,0}} fusion(%y), kind=kCustom, calls=%part\n"
    whole = next(line for line in PROGRAM.splitlines() if "all-gather" in line) + "\n"
    kernel = f"%part (y: bf16[2,4]) -> bf16[8,4] {{\n{whole}}}\n\n"
    split = PROGRAM.replace(whole, part.format(1) + part.format(2)).replace("%body (", kernel + "%body (")
    assert hlo.collectives(split, DEVICES) == hlo.collectives(PROGRAM, DEVICES)


def test_a_loop_without_a_trip_count_is_as_long_as_its_condition_says():
    bare = PROGRAM.replace('{"known_trip_count":{"n":"3"}}', "{}")
    written = bare.replace("(%i, %n), direction", "(%i, %n.1), direction").replace(
        "  ROOT %c = pred", "  %n.1 = s32[]{:T(128)} constant(3)\n  ROOT %c = pred"
    )
    assert hlo.collectives(written, DEVICES) == hlo.collectives(PROGRAM, DEVICES)


def test_kernels_are_counted_with_their_loops_and_branches_apart():
    assert hlo.kernels(PROGRAM) == hlo.Kernels(
        fusions=0, kernels=4, branch_fusions=0, branch_kernels=3, loops=2, passes=5, conditionals=1, unknown_loops=0
    )
    fused = PROGRAM.replace("bf16[8,4]{1,0} all-gather(%y)", "bf16[8,4]{1,0} fusion(%y), calls=%add")
    assert hlo.kernels(fused) == hlo.kernels(PROGRAM)._replace(fusions=3)
    unknown = PROGRAM.replace('{"known_trip_count":{"n":"3"}}', "{}")
    assert (hlo.kernels(unknown).unknown_loops, hlo.kernels(unknown).kernels) == (1, 2)


def test_no_collective_of_a_program_is_overlooked():
    sizes, spec = LAYOUTS["data-model"]
    mesh = mesh_of(tuple(sizes.values()), tuple(sizes))
    params = [jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, spec))] * LAYERS
    batch = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    text = programs.compile_program(programs.closure(3), loss_fn, params, batch).as_text()
    lines = [line for line in text.splitlines() if any(f" {kind}(" in line for kind in hlo.KINDS)]
    assert len(hlo.collectives(text, DEVICES)) == len(lines) > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{"known_trip_count":{"n":"3"}}', "{}", "all-gather stands in a loop of unknown length, in body"),
        ("replica_groups=[2,4]<=[8]", "replica_groups=new", "no replica_groups that this reader knows"),
    ],
)
def test_what_the_reader_does_not_know_is_an_error(old, new, message):
    with pytest.raises(ValueError, match=message):
        hlo.collectives(PROGRAM.replace(old, new), DEVICES)
