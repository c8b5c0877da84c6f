"""The paper's toy problem (Table 1, appendix C.1): a ripple on one square, then on another beside it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.tasks import Scores, Task, layer, trained
from benchmarks.forgetting.tasks.arrays import kept

OLD_SQUARE = (-1.0, 1.0)
NEW_SQUARE = (0.8, 1.5)

# The paper does not say which one it uses.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": jnp.tanh, "gelu": nn.gelu}


class Size(NamedTuple):
    """How large the problem is; by default as in the paper.

    Attributes:
      examples: training examples of each square.
      held_out: noise-free examples of each square that a model is scored on.
      width: of the two hidden layers.
      base_steps: steps on the old square.
      base_batch: examples of each of these. The paper does not say how many it took.
    """

    examples: int = 50_000
    held_out: int = 10_000
    width: int = 500
    base_steps: int = 10_000
    base_batch: int = 256


class Examples(NamedTuple):
    """Points of one square, [n, 2], and what is to be predicted there, [n]."""

    points: jax.Array
    targets: jax.Array


class Toy(NamedTuple):
    """Examples of both squares."""

    old: Examples
    new: Examples


class Model(nn.Module):
    """A perceptron with two hidden layers, each with LayerNorm, set up as PyTorch does by default."""

    activation: Callable[[jax.Array], jax.Array]
    width: int

    @nn.compact
    def __call__(self, points: jax.Array) -> jax.Array:
        for _ in range(2):
            points = self.activation(nn.LayerNorm(epsilon=1e-5)(_dense(self.width, points)))
        return _dense(1, points, name="head")[..., 0]

    def predict(self, params: chex.ArrayTree, points: jax.Array) -> Any:
        """What the network with those parameters says at the points, [n]."""
        return self.apply(params, points)

    def error(self, params: chex.ArrayTree, examples: Examples) -> jax.Array:
        """The mean squared error."""
        return jnp.mean((self.predict(params, examples.points) - examples.targets) ** 2)


def truth(points: jax.Array) -> jax.Array:
    """sin(10 ‖x‖), without noise."""
    return jnp.sin(10 * jnp.linalg.norm(points, axis=-1))


def toy(
    seeds: Sequence[int],
    activation: str,
    size: Size | None = None,
    store: Path | None = None,
    new_square: tuple[float, float] = NEW_SQUARE,
) -> Task:
    """Models trained on the old square, which are to learn the new one. A score is a mean squared error, negated.

    Args:
      seeds: each has its own examples, initialisation and order of batches.
      activation: one of `ACTIVATIONS`.
      size: how large the problem is; None for the paper's size.
      store: a folder that keeps the old models, so that they are trained once. None to keep nothing.
      new_square: where it begins and ends along both axes. Old models do not depend on it.
    """
    size = size or Size()
    model = Model(ACTIVATIONS[activation], size.width)
    numbers = jnp.asarray(list(seeds))
    keys = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3))(numbers)
    data = jax.vmap(lambda key: _toy(key, size.examples, 1.0, new_square))(keys[:, 0])
    # The examples of all seeds in one row, of which each trains on its own stretch.
    data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), data)
    train = jnp.arange(len(numbers) * size.examples).reshape(len(numbers), size.examples)
    old_model = jax.jit(functools.partial(_old_model, model, size))
    params = []
    for seed, key, indices in zip(seeds, keys[:, 1], train, strict=True):
        path = store / f"toy-{activation}-{'-'.join(map(str, size))}-{seed}.msgpack" if store else None
        params.append(kept(path, functools.partial(old_model, key, data.old, indices)))
    elsewhere = "" if new_square == NEW_SQUARE else ", new square {:g} to {:g}".format(*new_square)
    return Task(
        name=f"the toy problem with {activation}, {size}{elsewhere}",
        seeds=numbers,
        data=data,
        train=train,
        held_out=jax.vmap(lambda key: _toy(key, size.held_out, 0.0, new_square))(keys[:, 2]),
        params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *params),
        batch=lambda data, indices, key: jax.tree.map(lambda x: x[indices], data.new),
        loss=model.error,
        evaluate=lambda params, data, held_out: Scores(*(-model.error(params, square) for square in held_out)),
        outputs=lambda params, batch: model.predict(params, batch.points),
        old_batch=lambda data, indices, key: jax.tree.map(lambda x: x[indices], data.old),
        head=layer("head"),
    )


def _dense(features: int, inputs: jax.Array, name: str | None = None) -> jax.Array:
    """A layer whose weights and biases start as PyTorch's do: uniform up to 1/√(inputs)."""
    bound = inputs.shape[-1] ** -0.5

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)(inputs)


def _toy(key: jax.Array, n: int, noise: float, new_square: tuple[float, float] = NEW_SQUARE) -> Toy:
    old_key, new_key = jax.random.split(key)
    return Toy(_examples(old_key, OLD_SQUARE, n, noise), _examples(new_key, new_square, n, noise))


def _examples(key: jax.Array, square: tuple[float, float], n: int, noise: float) -> Examples:
    points_key, noise_key = jax.random.split(key)
    points = jax.random.uniform(points_key, (n, 2), minval=square[0], maxval=square[1])
    return Examples(points, truth(points) + noise * jax.random.normal(noise_key, (n,)))


def _old_model(model: Model, size: Size, key: jax.Array, examples: Examples, train: jax.Array) -> chex.ArrayTree:
    def batch(key: jax.Array) -> Examples:
        indices = train[jax.random.randint(key, (size.base_batch,), 0, len(train))]
        return jax.tree.map(lambda x: x[indices], examples)

    tx = pytorch_rmsprop(optax.exponential_decay(1e-2, 500, 0.9, staircase=True))
    init_key, train_key = jax.random.split(key)
    params = model.init(init_key, examples.points[:1])
    return trained(model.error, tx, params, batch, jax.random.split(train_key, size.base_steps))


def pytorch_rmsprop(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """RMSProp with the defaults of PyTorch: α 0.99, and ε 1e-8 outside of the root."""
    return optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def decaying_rmsprop(rate: Any) -> optax.GradientTransformation:
    """The same at a rate that falls to 0.95 of itself every 100 steps, as in the paper's toy problem."""
    return pytorch_rmsprop(optax.exponential_decay(rate, 100, 0.95, staircase=True))
