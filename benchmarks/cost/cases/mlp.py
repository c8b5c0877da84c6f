"""A multilayer perceptron on a small batch: most of a step's time goes into reading and writing parameters."""

from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.cost.cases import Case


class Mlp(nn.Module):
    """Dense layers of one width."""

    width: int
    layers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The last layer's values, as small as the others'."""
        for _ in range(self.layers):
            x = nn.tanh(nn.Dense(self.width)(x))
        return x


def mlp(quick: bool) -> Case:
    """Eight layers of 1024 units on eight examples."""
    return perceptron(*((16, 2) if quick else (1024, 8)), batch=8)


def perceptron(width: int, layers: int, batch: int) -> Case:
    """A perceptron of any size, learning targets of its own width."""
    model = Mlp(width, layers)

    def loss(params: chex.ArrayTree, frozen: chex.ArrayTree, batch: Any) -> jax.Array:
        del frozen
        x, y = batch
        return jnp.mean((model.apply(params, x) - y) ** 2)

    def batches(n: int) -> Any:
        return tuple(jax.random.normal(jax.random.key(seed), (n, batch, width)) for seed in (1, 2))

    return Case(
        name="mlp",
        title=f"MLP, {layers} layers of {width}",
        params=jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, width))),
        frozen={},
        loss=loss,
        batches=batches,
        batch=f"{batch} examples",
        eager=eager_loss,
    )


def eager_loss(torch: Any, params: Mapping[str, Any], batch: Any) -> Any:
    """The same loss in PyTorch."""
    x, y = batch
    for layer in range(len(params) // 2):
        x = torch.tanh(torch.addmm(params[f"Dense_{layer}/bias"], x, params[f"Dense_{layer}/kernel"]))
    return torch.nn.functional.mse_loss(x, y)
