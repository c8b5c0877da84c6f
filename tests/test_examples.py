"""Every example runs, and ends where Algorithm 1 (or the recurrence of the one line) ends on the same batches.

The algorithms are the float64 NumPy ones of `tests.algorithm1` and `tests.recurrence`. Gradients are written out in
NumPy where the model is simple, and come from JAX for the networks.
"""

import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from examples import (
    checkpoint_resume,
    clipping_inside,
    compare_methods,
    equinox_loop,
    fresh_head,
    frozen_backbone,
    linen_loop,
    lora,
    nnx_loop,
    one_line_train_state,
    plain_loop,
    ready_train_step,
    record_metrics,
)
from tests.algorithm1 import Adam, Profit, Sgd, float64, inner, scale
from tests.integrations.pure import as_pure
from tests.recurrence import OneLine

EPS = float(jnp.finfo(jnp.float32).eps)
# Of the way that a run goes: some tens of steps, each of which rounds its gradient, the difference Δ and the weights.
TOLERANCE = 1000 * EPS
EXAMPLES = Path(plain_loop.__file__).parent
# tests/multidevice/test_examples.py has these.
ON_SEVERAL_DEVICES = {"data_parallel_pmap", "data_parallel_shard_map", "fsdp"}


@pytest.fixture(autouse=True)
def examples_may_promote_ranks():
    # The suite forbids it to itself; a script to copy from writes x @ w + b.
    with jax.numpy_rank_promotion("allow"):
        yield


def flat(tree):
    """A pytree as a dictionary of float64 arrays."""
    return float64({jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)})


def unflat(arrays, like):
    return jax.tree.map_with_path(lambda path, leaf: jnp.asarray(arrays[jax.tree_util.keystr(path)], leaf.dtype), like)


def jax_gradient(loss_fn, like):
    """The gradient of a loss on a pytree, for an algorithm that holds float64 arrays."""
    gradient = jax.jit(jax.grad(loss_fn))
    return lambda theta, batch: flat(gradient(unflat(theta, like), batch))


def split(batches):
    """The batches of one step, one by one."""
    return [jax.tree.map(lambda x: x[i], batches) for i in range(jax.tree.leaves(batches)[0].shape[0])]  # noqa: B023


def run_profit(algorithm, start, gradient, steps):
    """θ after the steps of Algorithm 1, some of which the projection has changed."""
    theta = flat(start)
    for batches in steps:
        theta = algorithm.step(theta, gradient, batches)
    assert any(projection.conflict for projection in algorithm.projections)
    return theta


def assert_equal_run(params, expected, start):
    """The end of a run, relative to how far it went."""
    params, start = flat(params), flat(start)
    assert params.keys() == expected.keys()
    stack = lambda tree: np.concatenate([tree[name].ravel() for name in sorted(expected)])  # noqa: E731
    way = np.linalg.norm(stack(expected) - stack(start))
    assert np.linalg.norm(stack(params) - stack(expected)) <= TOLERANCE * way


def linear_gradient(theta, batch):
    x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
    return {"['w']": 2 * x.T @ (x @ theta["['w']"] - y) / len(y)}


def test_plain_loop_is_algorithm_1():
    def gradient(theta, batch):
        x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
        w, b, v = theta["['w']"], theta["['b']"], theta["['v']"]
        hidden = np.tanh(x @ w + b)
        d_out = 2 * (hidden @ v - y) / len(y)
        d_hidden = np.outer(d_out, v) * (1 - hidden**2)
        return {"['w']": x.T @ d_hidden, "['b']": d_hidden.sum(axis=0), "['v']": hidden.T @ d_out}

    start = plain_loop.converged_params()
    algorithm = Profit(Adam(3e-3, weight_decay=1e-4), Sgd(3e-4), n_ref=2)
    expected = run_profit(algorithm, start, gradient, map(split, plain_loop.new_task()))
    assert_equal_run(plain_loop.main(), expected, start)


def test_ready_train_step_is_algorithm_1_on_pairs_of_the_loader():
    batches = list(ready_train_step.loader())
    start = ready_train_step.converged_params()
    algorithm = Profit(Adam(1e-2, weight_decay=1e-4), Sgd(1e-3))
    pairs = zip(batches[:-1:2], batches[1::2], strict=True)
    expected = run_profit(algorithm, start, linear_gradient, pairs)
    assert_equal_run(ready_train_step.main(), expected, start)


def test_record_metrics_has_a_row_of_every_second_step_with_what_algorithm_1_saw():
    start = record_metrics.converged_params()
    algorithm = Profit(Adam(3e-2, weight_decay=1e-4), Sgd(3e-3))
    steps = list(map(split, record_metrics.new_task()))
    run_profit(algorithm, start, linear_gradient, steps)
    rows = record_metrics.main()
    assert [row["step"] for row in rows] == list(range(0, 160, 2))
    for row, seen in zip(rows, algorithm.projections[::2], strict=True):
        assert row["conflict"] == seen.conflict
        np.testing.assert_allclose(row["cosine"], seen.cosine, atol=TOLERANCE)
        np.testing.assert_allclose(row["removed"], seen.conflict * seen.cosine**2, atol=TOLERANCE)
    # What the picture shows: two batches agree while there is something to learn, and less and less of it is removed.
    removed = [row["removed"] for row in rows]
    assert np.mean(removed[:10]) > 0.7
    assert np.mean(removed[-10:]) < 0.5 * np.mean(removed[:10])


def test_clipping_inside_clips_what_each_optimizer_is_given():
    class Clipped:
        def __init__(self, optimizer):
            self.optimizer, self.clipped = optimizer, 0

        def __call__(self, theta, g):
            norm = inner(g, g) ** 0.5
            self.clipped += norm > 1
            return self.optimizer(theta, scale(min(1.0, 1 / norm), g))

    start = clipping_inside.converged_params()
    main, reference = Clipped(Sgd(0.02, momentum=0.9)), Clipped(Sgd(0.002))
    steps = map(split, clipping_inside.new_task())
    expected = run_profit(Profit(main, reference), start, linear_gradient, steps)
    assert main.clipped
    assert reference.clipped
    assert_equal_run(clipping_inside.main(), expected, start)


def test_linen_loop_is_algorithm_1_and_its_statistics_are_those_of_the_passes_at_theta():
    start = linen_loop.initial_state()

    def forward(params, statistics, batch):
        variables = {"params": params, "batch_stats": statistics}
        return start.apply_fn(variables, batch["x"], True, rngs={"dropout": batch["key"]}, mutable=["batch_stats"])

    def loss_fn(params, batch):
        # In training mode the output does not depend on the running statistics.
        logits, _ = forward(params, start.batch_stats, batch)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))

    gradient = jax_gradient(loss_fn, start.params)
    algorithm = Profit(Adam(3e-3, weight_decay=1e-4), Sgd(3e-4), n_ref=2)
    update_statistics = jax.jit(lambda *arguments: forward(*arguments)[1]["batch_stats"])
    theta, statistics = flat(start.params), start.batch_stats
    for batches in map(split, linen_loop.new_task()):
        statistics = update_statistics(unflat(theta, start.params), statistics, batches[0])
        theta = algorithm.step(theta, gradient, batches)

    state = linen_loop.main()
    assert_equal_run(state.eval_params, theta, start.params)
    assert_equal_run(state.batch_stats, flat(statistics), start.batch_stats)
    assert any(projection.conflict for projection in algorithm.projections)


def test_nnx_loop_is_algorithm_1_with_a_mask_for_each_pass_and_the_statistics_of_the_passes_at_theta():
    graphdef, start, rest = nnx.split(nnx_loop.Model(nnx.Rngs(0)), nnx.Param, ...)
    start, rest = as_pure((start, rest))
    stream = nnx.merge(graphdef, start, rest).dropout.rngs

    def model_at(params, key, count):
        model = nnx.merge(graphdef, params, rest)
        nnx.update(model, {"dropout": {"rngs": {"key": key, "count": count}}})
        return model

    def loss_fn(params, batch):
        return nnx_loop.loss_fn(model_at(params, batch["key"], batch["count"]), batch)

    @jax.jit
    def update_statistics(statistics, params, batch):
        model = model_at(params, batch["key"], batch["count"])
        nnx.update(model, statistics)
        model(batch["x"])
        return as_pure(nnx.state(model, nnx.BatchStat))

    gradient = jax_gradient(loss_fn, start)
    algorithm = Profit(Adam(3e-3, weight_decay=1e-4), Sgd(3e-4), n_ref=2)
    theta = flat(start)
    statistics = initial_statistics = as_pure(nnx.state(nnx.merge(graphdef, start, rest), nnx.BatchStat))
    forked = jax.random.split(jax.random.fold_in(stream.key[...], 2**32 - 1), 2)
    for step, batches in enumerate(nnx_loop.new_task()):
        # The model's own stream serves the pass at θ and moves on by one; the forks start from there.
        first, *others = split(batches)
        first |= {"key": stream.key[...], "count": jnp.uint32(step)}
        others = [
            other | {"key": key, "count": jnp.uint32(step + 1)} for other, key in zip(others, forked, strict=True)
        ]
        statistics = update_statistics(statistics, unflat(theta, start), first)
        theta = algorithm.step(theta, gradient, [first, *others])

    model = nnx_loop.main()
    assert_equal_run(as_pure(nnx.state(model, nnx.Param)), theta, start)
    assert_equal_run(as_pure(nnx.state(model, nnx.BatchStat)), flat(statistics), initial_statistics)
    assert any(projection.conflict for projection in algorithm.projections)


def test_equinox_loop_is_algorithm_1_on_the_arrays_of_the_model():
    start, static = eqx.partition(equinox_loop.converged_model(), eqx.is_inexact_array)
    gradient = jax_gradient(lambda params, batch: equinox_loop.loss_fn(eqx.combine(params, static), batch), start)
    algorithm = Profit(Adam(3e-3, weight_decay=1e-4), Sgd(3e-4), n_ref=2)
    expected = run_profit(algorithm, start, gradient, map(split, equinox_loop.new_task()))
    assert_equal_run(eqx.filter(equinox_loop.main(), eqx.is_inexact_array), expected, start)


def test_lora_is_algorithm_1_on_the_adapters_and_leaves_the_rest_untouched():
    start = lora.initial_params()
    weights, adapters = start["weights"], start["adapters"]
    gradient = jax_gradient(lambda p, batch: lora.loss_fn({"weights": weights, "adapters": p}, batch), adapters)
    algorithm = Profit(Adam(1e-2, weight_decay=1e-4), Sgd(1e-3))
    expected = run_profit(algorithm, adapters, gradient, map(split, lora.new_task()))

    params, opt_state = lora.main()
    assert_equal_run(params["adapters"], expected, adapters)
    jax.tree.map(np.testing.assert_array_equal, params["weights"], weights)
    # Two moments for each adapter weight, two counters of steps, five metrics: nothing for what is frozen.
    assert lora.size(opt_state) == 2 * lora.size(adapters) + 7


def test_frozen_backbone_is_algorithm_1_on_the_head_alone():
    start = frozen_backbone.converged_params()
    backbone = np.asarray(start["backbone"], np.float64)

    def gradient(theta, batch):
        x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"], np.float64)
        features = np.tanh(x @ backbone)
        return {"['head']": 2 * features.T @ (features @ theta["['head']"] - y) / len(y)}

    algorithm = Profit(Adam(1e-2, weight_decay=1e-4), Sgd(1e-3))
    head = {"head": start["head"]}
    expected = run_profit(algorithm, head, gradient, map(split, frozen_backbone.new_task()))
    params, opt_state = frozen_backbone.main()
    assert_equal_run({"head": params["head"]}, expected, head)
    np.testing.assert_array_equal(params["backbone"], start["backbone"])
    seen, metrics = algorithm.projections[-1], opt_state.metrics
    np.testing.assert_allclose(metrics.gradient_norm, seen.gradient_norm, rtol=TOLERANCE)
    np.testing.assert_allclose(metrics.displacement_norm, seen.displacement_norm, rtol=TOLERANCE)
    np.testing.assert_allclose(metrics.cosine, seen.cosine, atol=TOLERANCE)


def test_fresh_head_is_adam_on_the_head_and_then_algorithm_1_on_everything():
    backbone = fresh_head.converged_backbone()
    fresh = {"head": jnp.zeros(16)}
    gradient = jax_gradient(lambda p, batch: fresh_head.loss_fn({"backbone": backbone, **p}, batch), fresh)
    adam, theta = Adam(1e-2), flat(fresh)
    for batches in fresh_head.new_task(steps=80, batches_a_step=1, seed=1):
        theta = adam(theta, gradient(theta, split(batches)[0]))
    head, params = fresh_head.main()
    assert_equal_run({"head": head}, theta, fresh)

    start = {"backbone": backbone, "head": head}
    gradient = jax_gradient(fresh_head.loss_fn, start)
    steps = map(split, fresh_head.new_task(steps=40, batches_a_step=2, seed=2))
    expected = run_profit(Profit(Adam(1e-3), Sgd(1e-4)), start, gradient, steps)
    assert_equal_run(params, expected, start)


def test_checkpoint_resume_is_algorithm_1_in_spite_of_the_break():
    start = checkpoint_resume.converged_params()
    batches = checkpoint_resume.new_task()
    algorithm = Profit(Adam(1e-2, weight_decay=1e-4), Sgd(1e-3), n_ref=2)
    cycles = [batches[i : i + 3] for i in range(0, len(batches), 3)]
    assert len(batches) % 3 == 0
    assert checkpoint_resume.STOP % 3 != 0
    expected = run_profit(algorithm, start, linear_gradient, cycles)
    resumed, uninterrupted = checkpoint_resume.main()
    assert_equal_run(resumed[0], expected, start)
    jax.tree.map(np.testing.assert_array_equal, resumed, uninterrupted)


def test_one_line_train_state_follows_the_recurrence():
    start = one_line_train_state.initial_state().params
    gradient = jax_gradient(one_line_train_state.loss_fn, start)
    expected = OneLine(flat(start), Adam(3e-3, weight_decay=1e-4))
    for batch in one_line_train_state.new_task():
        expected.step(gradient, batch)
    assert any(projection.conflict for projection in expected.projections)
    assert_equal_run(one_line_train_state.main().params, expected.theta, start)


def test_compare_methods_keeps_more_between_the_weights_and_says_so(capsys):
    result = compare_methods.main()
    at_top = {row.method: row for row in result.rows if row.level == result.levels[-1]}
    assert list(at_top) == ["AdamW", "PROFIT", "WiSE-FT", "L2-SP 0.1"]
    assert at_top["AdamW"].reached == 3
    assert at_top["WiSE-FT"].difference.low > 0
    assert result.about["start"]["old"] > 0.85
    out = capsys.readouterr().out
    assert result.table() in out
    assert "Use WiSE-FT at rate" in out


def test_every_example_has_a_test_and_says_what_came_out(capsys):
    modules = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"} - ON_SEVERAL_DEVICES
    assert modules == {name for name, value in globals().items() if getattr(value, "__package__", "") == "examples"}
    ready_train_step.main()
    assert "loss" in capsys.readouterr().out


def test_an_example_runs_as_a_script():
    command = [sys.executable, "-W", "error", str(EXAMPLES / "clipping_inside.py")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith(
        "largest gradient norm"
    )
