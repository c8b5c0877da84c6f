"""The examples for several devices end where a plain loop on one device does, on the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from examples import data_parallel_pmap, data_parallel_shard_map, fsdp
from tests.tuning import relative_error

DEVICES = 8
TOLERANCE = 2e-6


@pytest.fixture(autouse=True)
def examples_may_promote_ranks():
    # The suite forbids it to itself; a script to copy from writes x @ w + b.
    with jax.numpy_rank_promotion("allow"):
        yield


def on_one_device(example):
    """The run of the example's model, data and optimizer in a plain loop."""
    value_and_grad_fn = jax.value_and_grad(example.loss_fn)

    @jax.jit
    def step(params, state, batches):
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        _, grads = value_and_grad_fn(params, first)
        updates, state = example.tx.update(grads, state, params, value_and_grad_fn=value_and_grad_fn, batches=others)
        return optax.apply_updates(params, updates), state

    params, conflicts = example.converged_params(), set()
    state = example.tx.init(params)
    for batches in example.new_task():
        params, state = step(params, state, batches)
        conflicts.add(bool(state.metrics.conflict))
    assert conflicts == {True, False}
    return params, state


@pytest.mark.parametrize("example", [data_parallel_pmap, data_parallel_shard_map], ids=lambda module: module.__name__)
def test_data_parallel_examples_end_where_one_device_does(example, capsys):
    params = example.main()
    assert relative_error(params, on_one_device(example)[0]) <= TOLERANCE
    assert capsys.readouterr().out.startswith(f"devices: {DEVICES}, loss on the new task: ")


def test_fsdp_ends_where_one_device_does_with_everything_in_pieces(capsys):
    params, state = fsdp.main()
    expected_params, expected_state = on_one_device(fsdp)
    assert relative_error(params, expected_params) <= TOLERANCE
    moments, expected_moments = ([optax.tree.get(s, name) for name in ("mu", "nu")] for s in (state, expected_state))
    assert relative_error(moments, expected_moments) <= 100 * TOLERANCE
    specs = {"w": P(None, "devices"), "b": P("devices"), "v": P("devices")}
    for tree in (params, *moments):
        for name, leaf in tree.items():
            assert leaf.sharding.is_equivalent_to(NamedSharding(leaf.sharding.mesh, specs[name]), leaf.ndim), name
            assert leaf.addressable_shards[0].data.size == leaf.size // DEVICES
    assert capsys.readouterr().out.startswith(f"devices: {DEVICES}, loss on the new task: ")


def test_the_examples_run_as_scripts_on_one_device():
    for example in (data_parallel_pmap, data_parallel_shard_map, fsdp):
        command = [sys.executable, "-W", "error", str(Path(example.__file__))]
        environment = os.environ | {"XLA_FLAGS": ""}
        result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
        assert result.stdout.startswith("devices: 1, loss on the new task: ")
