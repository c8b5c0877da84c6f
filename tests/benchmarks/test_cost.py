"""The cost benchmark: its arms do what they are named after, its statistics are right, its reports say what it saw."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import typer
from matplotlib.image import imread
from typer.testing import CliRunner

from benchmarks.cost import __main__ as cost
from benchmarks.cost import arms, comparing, corners, eager, growth, passes
from benchmarks.cost.cases import sizes, tree_bytes
from benchmarks.cost.cases.transformer import join, split
from benchmarks.cost.catalogue import CASES, CHOICES, FAMILIES, by_name, chosen
from benchmarks.cost.measure import Measured, Program, Times, time_steps
from benchmarks.cost.report import goal_table
from benchmarks.cost.stepper import Stepper, compile_step, prepare
from benchmarks.cost.summary import Interval, exact, goals, interval, summarize, verdict

UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def invoke(main, *options):
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(options), env={"COLUMNS": "200"})


def words(text):
    """Text without colours, boxes and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def large_steps(monkeypatch):
    """Rates at which rounding the displaced parameters costs little of the displacement."""
    monkeypatch.setattr(arms, "MAIN_RATE", 1e-2)
    monkeypatch.setattr(arms, "REFERENCE_RATE", 1.0)


def after(case, name, steps=2):
    """θ after some steps of an arm."""
    arm = by_name(name)
    stepper = prepare(case, arm, compile_step(case, arm, UNOPTIMIZED).executable)
    for _ in range(steps):
        stepper.step()
    return stepper.theta()


def eagerly_after(case, n_ref, steps=2):
    stepper = eager.prepare(case, n_ref)
    for _ in range(steps):
        stepper.step()
    return stepper.theta()


def moved(params, case):
    """How far parameters have come from the case's, as one vector."""
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(case.params), strict=True)
    return np.concatenate([np.ravel(np.asarray(x, np.float64) - np.asarray(y)) for x, y in pairs])


def assert_same_way(params, expected, case, tolerance):
    way, expected_way = moved(params, case), moved(expected, case)
    assert np.linalg.norm(expected_way) > 0
    assert np.linalg.norm(way - expected_way) <= tolerance * np.linalg.norm(expected_way)


@pytest.mark.parametrize("name", ["mlp", "transformer-8", "resnet", "lora"])
def test_every_arm_traces_in_every_case(name):
    case = CASES[name](quick=True)
    for arm in chosen(CHOICES, (2,)):
        params, state = jax.eval_shape(arm.init, case.params)
        batches = jax.eval_shape(lambda n=arm.gradients // arm.calls: case.batches(n))
        value_and_grad_fn = jax.value_and_grad(lambda p, batch: case.loss(p, case.frozen, batch))
        after = jax.eval_shape(lambda *args, arm=arm, fn=value_and_grad_fn: arm.call(fn, *args), params, state, batches)
        types = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (after[:2], (params, state))]
        assert types[0] == types[1], arm.name
        assert after[2].shape == ()


@pytest.mark.parametrize("name", ["resnet", "lora"])
def test_the_closure_is_algorithm_1_line_by_line_in_every_case(name, large_steps):
    case = CASES[name](quick=True)
    expected = after(case, "line-1")
    assert_same_way(after(case, "profit-1"), expected, case, 1e-3)
    check_eager(case, 1, expected)


def check_eager(case, n_ref, expected):
    """PyTorch's parameters against these where PyTorch is; where it is not, the reason why there are none."""
    if importlib.util.find_spec("torch"):
        assert eager.missing(case) is None
        assert_same_way(eagerly_after(case, n_ref), expected, case, 1e-3)
    else:
        assert eager.missing(case) == "PyTorch is not installed"


@pytest.mark.parametrize("n_ref", [1, 3])
def test_all_forms_of_algorithm_1_are_the_same(n_ref, large_steps):
    case = CASES["mlp"](quick=True)
    expected = after(case, f"line-{n_ref}")
    for family in ("profit", "subtract", "transparent"):
        assert_same_way(after(case, f"{family}-{n_ref}"), expected, case, 1e-4)
    check_eager(case, n_ref, expected)


def test_no_case_without_a_model_is_run_in_pytorch():
    assert eager.missing(growth.scattered(2)) == "no PyTorch model"


def test_kernels_keep_their_values_on_the_way_through_pytorchs_order():
    kernel = np.arange(24.0).reshape(1, 2, 3, 4)
    assert np.transpose(kernel, eager._order(4)).shape == (4, 3, 1, 2)
    back = np.transpose(np.transpose(kernel, eager._order(4)), np.argsort(eager._order(4)))
    np.testing.assert_array_equal(back, kernel)


def test_other_kernels_keep_their_places():
    assert [eager._order(ndim) for ndim in range(4)] == [(), (0,), (0, 1), (0, 1, 2)]


def batch_of(case, n, i):
    return jax.tree.map(lambda x: x[i], case.batches(n))


def adamw_along(case, gradient_at, steps=3):
    """θ after AdamW has been given these gradients of its parameters."""
    main, params = optax.adamw(arms.MAIN_RATE), case.params
    state = main.init(params)
    for _ in range(steps):
        updates, state = main.update(jax.jit(gradient_at)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture
def perceptron():
    return CASES["mlp"](quick=True)


def test_adamw_is_adamw(perceptron):
    expected = adamw_along(perceptron, lambda p: jax.grad(perceptron.loss)(p, {}, batch_of(perceptron, 1, 0)))
    assert_same_way(after(perceptron, "adamw", 3), expected, perceptron, 1e-4)


def test_the_base_of_the_floor_clips_by_the_global_norm(perceptron, monkeypatch):
    monkeypatch.setattr(arms, "MAX_NORM", 1e-6)  # of the order of AdamW's epsilon, so that the scale matters

    def clipped(params):
        grads = jax.grad(perceptron.loss)(params, {}, batch_of(perceptron, 1, 0))
        return optax.tree.scale(1e-6 / optax.tree.norm(grads), grads)

    assert_same_way(after(perceptron, "adamw-norm", 3), adamw_along(perceptron, clipped), perceptron, 1e-3)
    unclipped = after(perceptron, "adamw", 3)
    assert np.linalg.norm(moved(after(perceptron, "adamw-norm", 3), perceptron) - moved(unclipped, perceptron)) > 1e-4


def test_sam_ascends_before_it_descends(perceptron):
    def ascended(params):
        grads = jax.grad(perceptron.loss)(params, {}, batch_of(perceptron, 2, 0))
        above = optax.tree.add(params, optax.tree.scale(0.05 / optax.tree.norm(grads), grads))
        return jax.grad(perceptron.loss)(above, {}, batch_of(perceptron, 2, 1))

    # The sign of the adversary's step shows in its second order only: the tolerance is far below it.
    assert_same_way(after(perceptron, "sam", 3), adamw_along(perceptron, ascended), perceptron, 1e-4)


def test_lookahead_moves_slowly_after_five_steps(perceptron):
    fast = adamw_along(perceptron, lambda p: jax.grad(perceptron.loss)(p, {}, batch_of(perceptron, 1, 0)), steps=5)
    np.testing.assert_array_equal(moved(after(perceptron, "lookahead", 4), perceptron), 0)
    half = jax.tree.map(lambda p, f: p + 0.5 * (f - p), perceptron.params, fast)
    assert_same_way(after(perceptron, "lookahead", 5), half, perceptron, 1e-3)


def test_a_gradient_is_all_that_the_gradient_arm_takes(perceptron):
    arm = by_name("gradient")
    executable = compile_step(perceptron, arm).executable
    given = jax.tree.map(jnp.copy, arm.init(perceptron.params))
    params, grads, loss = executable(*given, {}, perceptron.batches(1))
    batch = batch_of(perceptron, 1, 0)
    expected_loss, expected = jax.value_and_grad(perceptron.loss)(perceptron.params, {}, batch)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    np.testing.assert_array_equal(moved(params, perceptron), 0)
    assert_same_way(grads, expected, perceptron._replace(params=optax.tree.zeros_like(grads)), 1e-4)


def test_the_one_line_projects_against_the_gradient_before(perceptron, large_steps):
    batch = batch_of(perceptron, 1, 0)
    main, theta = optax.adamw(arms.MAIN_RATE), perceptron.params
    state, previous = main.init(theta), optax.tree.zeros_like(theta)
    for _ in range(3):
        grads = jax.grad(perceptron.loss)(theta, {}, batch)
        product, square = optax.tree.vdot(previous, grads), optax.tree.vdot(previous, previous)
        along = product / square if product > 0 else 0.0
        updates, state = main.update(optax.tree.sub(grads, optax.tree.scale(along, previous)), state, theta)
        theta, previous = optax.apply_updates(theta, updates), grads
    assert_same_way(after(perceptron, "one-line", 3), theta, perceptron, 1e-3)


@pytest.mark.parametrize("arm", chosen(CHOICES, (2,)), ids=lambda arm: arm.name)
def test_a_step_takes_its_gradients_and_donates_what_it_is_given(arm, perceptron):
    taken = Counter()

    def loss(params, frozen, batch):
        jax.debug.callback(lambda: taken.update(["gradients"]))
        return perceptron.loss(params, frozen, batch)

    counted = perceptron._replace(loss=loss)
    executable = compile_step(counted, arm, UNOPTIMIZED).executable
    stepper = prepare(counted, arm, executable)
    stepper.step()
    jax.effects_barrier()
    assert taken["gradients"] == arm.gradients
    given = jax.eval_shape(arm.init, perceptron.params)
    assert executable.memory_analysis().alias_size_in_bytes == tree_bytes(given)


@pytest.mark.parametrize("name", CASES)
def test_a_full_case_has_its_thirty_megabytes(name):
    found = []
    # Abstractly: nothing is compiled or allocated.
    jax.eval_shape(lambda: found.append((CASES[name](quick=False), sizes(CASES[name](quick=False)))))
    ((case, size),) = found
    assert case.name == name
    assert size.params >= 30e6
    assert size.params == tree_bytes(case.params) + tree_bytes(case.frozen)
    assert not case.frozen or tree_bytes(case.frozen) >= 30e6
    assert (size.trained < 0.05 * size.params) == (name == "lora") == bool(case.frozen)


def test_activations_are_what_the_backward_pass_keeps():
    # Of each of two layers y = tanh(x W + b) on 8 x 16: y, and in some versions of JAX 1 - y; of the squares: the
    # difference; in float32.
    case = CASES["mlp"](quick=True)
    assert sizes(case).activations in [4 * 8 * 16 * kept for kept in (3, 4, 5)]


def test_adapters_are_split_off_and_joined_again():
    tree = {"params": {"a": {"lora_a": 1, "Dense_0": {"kernel": 2}}, "b": 3}}
    adapters, rest = split(tree)
    assert (adapters, rest) == ({"params": {"a": {"lora_a": 1}}}, {"params": {"a": {"Dense_0": {"kernel": 2}}, "b": 3}})
    assert join(adapters, rest) == tree


# Statistics


def test_intervals_are_order_statistics():
    # Of nine values the second and eighth: fewer than two of nine fall below a median with probability 10/512 < 0.025.
    assert interval([9, 1, 8, 2, 7, 3, 6, 4, 5]) == (5, 2, 8)
    assert interval(np.arange(6.0)) == (2.5, 0, 5)
    assert interval([1.0, 2.0, 3.0, 4.0, 10.0]) == (3, None, None)


def test_a_goal_is_met_where_the_whole_interval_keeps_to_it():
    assert verdict(Interval(1.0, 0.9, 1.1), 1.1) == "met"
    assert verdict(Interval(1.0, 0.9, 1.2), 1.1) == "undecided"
    assert verdict(Interval(1.3, 1.2, 1.4), 1.1) == "not met"
    assert verdict(Interval(1.0, None, None), 1.1) == "undecided"
    assert [verdict(exact(value), 1.0) for value in (1.0, 1.01)] == ["met", "not met"]


def test_steps_are_timed_after_an_untimed_one_and_in_changing_order():
    steps = []
    steppers = {name: Stepper(lambda name=name: steps.append(name), dict) for name in "abcdef"}
    timed = []
    times = time_steps(steppers, 3, timed.append)
    assert steps[::2] == steps[1::2] == timed
    rounds = [tuple(timed[i : i + 6]) for i in (0, 6, 12)]
    assert all(sorted(each) == list("abcdef") for each in rounds)
    assert len(set(rounds)) == 3
    assert all(times[name].seconds.shape == times[name].fresh_bytes.shape == (3,) for name in "abcdef")


def measured(arm, gradients, seconds, compile_seconds=(), temporary=None):
    """Six rounds of these seconds, each time doubled, so that only ratios within a round are constant."""
    times = seconds and Times(seconds * 2.0 ** np.arange(6), np.full(6, 50.0))
    program = None if temporary is None else Program(temporary, 300, 1.0, 2.0)
    return Measured(arm, gradients, times, compile_seconds, program)


MEASURED = [
    measured("adamw", 1, 2.0, [1.0, 2.0], 20),
    measured("adamw-norm", 1, 4.0, [1.5], 200),
    measured("gradient", 1, 1.0, [0.5], 0),
    measured("line-1", 2, 4.0, [4.0], 200),
    measured("profit-1", 2, 6.0, [2.0, 5.0], 350),
    measured("profit-3", 4, 7.0, [3.0, 5.0], 300),
    measured("subtract-1", 2, 5.0, [2.0], 205),
    measured("one-line", 1, 4.2, [2.0], 210),
    Measured("torch-1", 2, None, absent="PyTorch is not installed"),
]


def test_ratios_are_taken_within_a_round():
    rows = {row.arm: row for row in summarize(MEASURED, 100)}
    # The floor of two gradients takes 4 + 1 seconds in the first round, that of four 4 + 3.
    assert rows["profit-1"].over_floor == (6 / 5, 6 / 5, 6 / 5)
    assert rows["profit-3"].over_floor == (1, 1, 1)
    assert rows["one-line"].over_floor == pytest.approx((1.05,) * 3)
    assert rows["gradient"].over_floor is None
    assert rows["profit-1"].over_line == (1.5, 1.5, 1.5)
    assert rows["profit-3"].over_line is rows["one-line"].over_line is None
    assert rows["profit-1"].milliseconds == (1000 * (24 + 48) / 2, 6000, 32 * 6000)
    assert rows["profit-1"].compile_over_adamw.median == (2.0 + 2.5) / 2
    assert rows["profit-3"].compile_over_least.median == (1.5 + 1.0) / 2
    assert rows["profit-1"].compile_over_least is None
    assert (rows["profit-1"].temporaries, rows["profit-1"].extra_temporaries) == (3.5, 1.5)
    assert (rows["profit-1"].arguments, rows["profit-1"].fresh) == (3.0, 0.5)
    assert rows["torch-1"].absent == "PyTorch is not installed"
    assert rows["torch-1"].milliseconds is rows["torch-1"].over_floor is rows["torch-1"].temporaries is None


def test_goals_are_computed_for_the_arms_that_were_measured():
    rows = summarize(MEASURED, 100)
    found = {(goal.goal, goal.arm): (goal.bound, goal.verdict) for goal in goals("resnet", rows)}
    memory, compile_time = "temporaries beyond AdamW after a norm, in P", "compile time / AdamW's"
    assert found == {
        ("time / floor", "profit-1"): (1.05, "not met"),
        ("time / floor", "profit-3"): (1.05, "met"),
        ("time / line by line", "profit-1"): (1.0, "not met"),
        ("time / AdamW after a norm", "one-line"): (1.05, "met"),
        (memory, "profit-1"): (1.0, "not met"),
        (memory, "profit-3"): (1.0, "met"),
        (memory, "subtract-1"): (0.1, "met"),
        (memory, "one-line"): (0.0, "not met"),
        (compile_time, "profit-1"): (2.2, "undecided"),
        (compile_time, "profit-3"): (2.2, "undecided"),
        (compile_time, "one-line"): (1.5, "undecided"),
        ("compile time / that at the smallest n_ref", "profit-3"): (1.1, "undecided"),
    }
    in_mlp = {(goal.goal, goal.arm): goal.bound for goal in goals("mlp", rows)}
    assert in_mlp["time / floor", "profit-1"] == 1.10
    assert "| time / floor | profit-1 | not met: 1.20 (≤ 1.05) |" in goal_table(goals("resnet", rows))


# Passes over the parameters

HLO = """\
HloModule jit_program, is_scheduled=true

FileNames
1 "/somewhere/_cycle.py"

FunctionNames
1 "profit.<locals>.update_fn"

FileLocations
1 {file_name_id=1 function_name_id=1 line=10 end_line=10 column=6 end_column=79}

StackFrames
3 {file_location_id=1 parent_frame_id=1}

%fused (p.0: f32[4,4]) -> f32[4,4] {
  %p.0 = f32[4,4]{1,0} parameter(0)
  ROOT %inside = f32[4,4]{1,0} negate(%p.0)
}

%body (carry: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %carry = (s32[], f32[4,4]{1,0}) parameter(0)
  %old = f32[4,4]{1,0} get-tuple-element(%carry), index=1
  %moved = f32[4,4]{1,0} fusion(%old), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/while/Dense_7/add"}
  ROOT %next = (s32[], f32[4,4]{1,0}) tuple(%i, %moved)
}

%test (carry.1: (s32[], f32[4,4])) -> pred[] {
  %carry.1 = (s32[], f32[4,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

%taken (big: bf16[16]) -> f32[] {
  %big = bf16[16]{0} parameter(0)
  ROOT %sum = f32[] reduce(%big), metadata={op_name="jit(f)/cond/sum"}
}

ENTRY %main (a: f32[4,4], b: f32[3]) -> (f32[4,4], f32[2,8]) {
  %a = f32[4,4]{1,0} parameter(0)
  %b = f32[3]{0} parameter(1)
  %view = f32[16]{0} bitcast(%a)
  %squares = f32[] fusion(%view, %a, %a, /*index=3*/%b), kind=kLoop, metadata={op_name="jit(f)/dot" stack_frame_id=3}
  %start = (s32[], f32[4,4]{1,0}) tuple(%zero, %a)
  %w.1 = (s32[], f32[4,4]) while(%start), condition=%test, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %out = f32[4,4]{1,0} get-tuple-element(%w.1), index=1
  %cond.1 = f32[] conditional(%squares, %out, %out), branch_computations={%taken, %taken}
  %both = (f32[4,4]{1,0}, f32[2,8]{1,0}, f32[3]{0}) copy(%out)
  ROOT %result = (f32[4,4]{1,0}, f32[2,8]{1,0}) tuple(%out, %both)
}
"""


def test_passes_are_counted_where_data_move():
    case = growth.scattered(1)._replace(params={"w": jnp.ones((4, 4)), "b": jnp.ones(3), "tiny": jnp.ones(0)})
    found = {each.op_name: each for each in passes.passes(case._replace(params={"w": jnp.ones((4, 4))}), HLO)}
    assert found["jit(f)/dot"] == ("fusion", "jit(f)/dot", "_cycle.py: profit", False, 1, 128, 0)
    assert found["jit(f)/while/Dense_*/add"][3:] == (False, 3, 64, 64)
    assert found["jit(f)/cond/sum"][3:] == (True, 1, 32, 0)
    assert found[""][:1] + found[""][3:] == ("copy", False, 1, 64, 128)
    everything = passes.passes(case, HLO)
    # The view of 16 numbers and the matrix itself, three turns of the loop, the copy; with the vector of 3, too.
    assert passes.total(everything) == (5, (128 + 12) + 3 * 64 + 64, 3 * 64 + 128 + 12)
    groups = passes.grouped(everything)
    assert next(iter(groups)) == ("jit(f)/while/Dense_*/add", "", "")
    assert groups["jit(f)/cond/sum", "", "branch"] == (2, 64, 0)


def test_adamw_reads_and_writes_what_it_must():
    case = CASES["mlp"](quick=True)
    hlo = compile_step(case, by_name("adamw")).executable.as_text()
    size = sum(x.nbytes for x in jax.tree.leaves(case.params) if x.ndim == 2)
    found = passes.total(passes.passes(case, hlo))
    # Parameters and both moments, at the least.
    assert found.read >= 3 * size
    assert found.written >= 3 * size
    with_norm = compile_step(case, by_name("adamw-norm")).executable.as_text()
    assert passes.total(passes.passes(case, with_norm)).read > found.read


def test_the_passes_command_prints_a_table():
    run = invoke(passes.main, "--quick", "--case", "mlp", "--arm", "line-1", "--top", "2")
    assert run.exit_code == 0, run.output
    lines = run.output.splitlines()
    assert lines[0] == "Passes of line-1 over parameter-sized buffers of MLP, 2 layers of 16, in units of 0.00218 MB:"
    assert [line.split("|")[1].strip() for line in lines[2:3]] == ["op_name"]
    assert re.search(r"^\(\d+ more\)$", lines[6])
    assert re.search(r"^\| total outside of branches \| \| \d+ \| \d+\.\d\d \| \d+\.\d\d \| \|$", lines[7])


# The commands


def test_a_quick_run_reports_every_arm(tmp_path):
    run = invoke(cost.main, "--quick", "--cases", "mlp", "--output", str(tmp_path / "deep/er"))
    assert run.exit_code == 0, run.output
    said = words(run.stdout)
    assert "Its numbers mean nothing." in said
    assert re.search(
        r"\d{4}-\d\d-\d\dT.*; cpu: cpu; .* python [\d.]+, .* jax [\d.]+, .*matmul precision default; 2 rounds", said
    )
    assert re.search(r"P = 0.00218 MB of parameters; batch of 8 examples; 0.00(154|205|256) MB of activations\.", said)
    assert re.search(r"\| profit-1 \| 2 \| \d+\.\d \| \d+\.\d\d \|", said)
    assert (tmp_path / "deep/er/cost.md").read_text() in run.stdout
    content = json.loads((tmp_path / "deep/er/cost.json").read_text())
    (case,) = content["cases"]
    names = [arm["arm"] for arm in case["arms"]]
    families = [f"{family}-1" for family in FAMILIES]
    assert names == ["adamw", "adamw-norm", "gradient", "sam", "lookahead", "one-line", *families, "torch-1"]
    by_arm = {arm["arm"]: arm for arm in case["arms"]}
    assert [by_arm[name]["gradients"] for name in ("adamw", "sam", "one-line", "profit-1")] == [1, 2, 1, 2]
    assert by_arm["adamw"]["temporaries"] > 0
    assert by_arm["adamw"]["flops"] > by_arm["gradient"]["flops"] > 0
    assert by_arm["adamw"]["arguments"] > 3
    assert by_arm["transparent-1"]["arguments"] > 5
    if importlib.util.find_spec("torch"):
        assert by_arm["torch-1"]["milliseconds"]["median"] > 0
    else:
        assert by_arm["torch-1"]["absent"] == "PyTorch is not installed"
        assert "| torch-1 | 2 | absent: PyTorch is not installed |" in said
    assert {goal["goal"] for goal in content["goals"]} == {
        "time / floor", "time / line by line", "temporaries beyond AdamW after a norm, in P", "compile time / AdamW's",
        "time / AdamW after a norm",
    }  # fmt: skip
    assert len(case["measured"][0]["times"]["seconds"]) == 2
    picture = imread(tmp_path / "deep/er/cost.png")
    assert picture.shape[0] > 400
    assert picture.std() > 0.05


def test_every_option_changes_what_it_names(tmp_path):
    options = ("--cases", "mlp", "--arms", "subtract", "--n-ref", "3,2", "--rounds", "6", "--compilations", "2")
    run = invoke(cost.main, "--quick", *options, "--output", str(tmp_path))
    assert run.exit_code == 0, run.output
    content = json.loads((tmp_path / "cost.json").read_text())
    assert (content["quick"], content["n_ref"], content["rounds"], content["compilations"]) == (True, [2, 3], 6, 2)
    (case,) = content["cases"]
    measured = {arm["arm"]: arm for arm in case["measured"]}
    assert list(measured) == ["adamw", "adamw-norm", "gradient", "subtract-2", "subtract-3"]
    assert {len(arm["times"]["seconds"]) for arm in measured.values()} == {6}
    assert [len(arm["compile_seconds"]) for arm in measured.values()] == [2, 1, 1, 1, 1]
    assert None not in case["arms"][3]["over_floor"].values()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cases", "mlp,cnn"),
        ("--arms", "profit-1"),
        ("--n-ref", "0"),
        ("--n-ref", "1,x"),
        ("--n-ref", "1.5"),
        ("--rounds", "0"),
        ("--compilations", "0"),
        ("--output", __file__),
    ],
)
def test_a_wrong_value_is_refused_by_the_options_name(option, value):
    result = invoke(cost.main, "--quick", option, value)
    assert result.exit_code == 2
    assert re.search(f"Invalid value for '?{option}'?: ", words(result.stderr))


@pytest.mark.parametrize("name", ["profit", "profit-0", "profit-x", "adamw-1", ""])
def test_an_unknown_arm_is_refused(name):
    assert invoke(passes.main, "--quick", "--arm", name).exit_code == 2


@pytest.mark.parametrize("main", [cost.main, growth.main, passes.main])
def test_help_explains_every_option(main):
    said = words(invoke(main, "--help").stdout)
    for option in re.findall(r"--[a-z-]+", said):
        assert re.search(rf"{option}\b.*?[A-Z][a-z]+ .*?\.", said), option


# Growth


def test_costs_are_swept_over_sizes_up_to_the_limit(tmp_path):
    options = ("--parameters", "200,800", "--leaves", "2,4", "--n-ref", "2,1", "--rounds", "1", "--limit", "0")
    run = invoke(growth.main, "--quick", *options, "--output", str(tmp_path))
    assert run.exit_code == 0, run.output
    content = json.loads((tmp_path / "growth.json").read_text())
    parameters, leaves, n_refs = content["sweeps"]
    assert [sweep["sizes"] for sweep in content["sweeps"]] == [[200, 800], [2, 4], [1, 2]]
    assert list(parameters["points"][0]) == ["adamw-norm", "gradient", "profit", "one-line"]
    assert list(leaves["points"][0]) == ["adamw", "profit"]
    # Nothing may be expected to take XLA any time: only the first of each, with nothing to expect it from, is compiled.
    for sweep in (parameters, leaves, n_refs):
        for point in sweep["points"][0].values():
            assert point["milliseconds"]["median"] > 0
            assert point["compile_seconds"] > 0
        for point in sweep["points"][1].values():
            assert point["trace_seconds"] > 0
            assert point["milliseconds"] is point["compile_seconds"] is point["temporaries"] is None
    assert [curve["x"] for curve in content["curves"]] == ["parameters"] * 2 + ["leaves"] * 3 + ["n_ref"] * 3
    said = (tmp_path / "growth.md").read_text()
    assert "Its numbers mean nothing." in said
    assert re.search(r"\| 800 \|  \|  \|  \|  \|  \|", said)
    assert imread(tmp_path / "growth.png").std() > 0.05


def point(milliseconds=1.0, compile_seconds=1.0, temporaries=1.0):
    return growth.Point(exact(milliseconds), 0.5, compile_seconds, temporaries)


def test_the_lines_are_the_floors_and_the_goals():
    norm, gradient = point(4.0, temporaries=2.0), point(1.0)
    by_parameters = growth.Sweep("parameters", (10,), [{"adamw-norm": norm, "gradient": gradient, "profit": point(6)}])
    by_leaves = growth.Sweep("leaves", (10,), [{"adamw": point(3.0, 2.0), "profit": point(9.0)}])
    by_n_ref = growth.Sweep(
        "n_ref", (1, 4), [{"adamw-norm": norm, "gradient": gradient, "profit": point(7, 5 + n)} for n in (1, 4)]
    )
    found = growth.curves(by_parameters, by_leaves, by_n_ref)
    assert [curve.expected for curve in found] == [
        [5.0], [3.0], [pytest.approx(1.1)], [pytest.approx(4.4)], [6.0], [5.0, 8.0], [3.0, 3.0], [6, 6],
    ]  # fmt: skip
    assert found[5].values["profit"] == [exact(7), exact(7)]


def test_a_perceptron_has_as_many_parameters_as_asked_for():
    assert growth._of_size(8, 20_000).params["params"]["Dense_0"]["kernel"].shape == (50, 50)
    assert len(jax.tree.leaves(growth.scattered(7).params)) == 7


def test_compare_is_timed_beside_a_plain_loop(capsys):
    comparing.main(steps=2, repeats=2, quick=True)
    said = r"2 steps take \d+\.\d{3} s in a plain loop; in compare \d+\.\d{3} times as long \(median of 2 pairs"
    assert re.search(said, capsys.readouterr().out)


def test_corners_are_measured_by_public_names_alone():
    source = Path(corners.__file__).read_text(encoding="utf-8")
    assert "from benchmarks" not in source
    assert "profit_optax._" not in source
    command = [sys.executable, corners.__file__, "--quick"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for words in ("outside of jit", "2 models under vmap", "with convolutions", "2 leaves"):
        assert words in output
    ratios = re.findall(r"│ (.+?) +│ +(\d+\.\d+) +│", output)
    assert {name for name, _ in ratios} >= {"profit, n_ref 3", "one line before AdamW", "profit, after its warm-up"}
    assert all(float(ratio) > 0 for _, ratio in ratios)
