"""A comparison on sharded parameters stays sharded and ends where one device does."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from profit_optax.compare import Task, compare, runner

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 16)).astype(np.float32)
DATA = {"x": X, "y": (X @ np.linspace(-1, 1, 16)).astype(np.float32)}


def loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def test_sharded_parameters_stay_sharded_and_give_what_one_device_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_EVERY", 0.0)
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("model"))
    seen = []

    def task(params, folder):
        def evaluate(params):
            seen.append((folder, params["w"].sharding))
            return {"old": -float(jnp.sum(params["w"] ** 2)), "new": -float(loss(params, DATA))}

        return Task(params, loss, DATA, evaluate, batch_size=8)

    methods, size = ["adamw", "profit", "one_line", "l2_sp", "wise_ft", "ema"], {"gradients": 20, "seeds": 2}
    found = {}
    for folder, params in (
        ("one", {"w": jnp.zeros(16)}),
        ("many", {"w": jax.device_put(jnp.zeros(16), sharding)}),
    ):
        found[folder] = compare(
            task(params, folder), methods, rates=[0.02], **size, evaluations=4, output=tmp_path / folder
        )
    assert all(each.is_equivalent_to(sharding, 1) for folder, each in seen if folder == "many")
    for one, many in zip(found["one"].curves, found["many"].curves, strict=True):
        np.testing.assert_allclose(one.new, many.new, rtol=1e-4, atol=1e-5)
