"""Llama as a Linen module, with low-rank adapters (LoRA) on the queries and values."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

# What an adapter's product is multiplied by, over its rank.
_ALPHA = 16.0


class Shape(NamedTuple):
    """How large a model is.

    Attributes:
      vocabulary: how many tokens it knows.
      width: of the residual stream.
      hidden: width of the perceptrons.
      layers: how many there are.
      heads: of the queries.
      groups: heads of keys and values, each of which serves heads/groups queries.
      base: of the rotation's wave lengths.
      epsilon: of the normalisations.
    """

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    groups: int
    base: float
    epsilon: float


class Llama(nn.Module):
    """From tokens [n, length] to the logits of the next ones, [n, length, vocabulary].

    Parameters are in the collection "params", adapters in "lora". Input and output share their embedding.
    """

    shape: Shape
    rank: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        embedding = nn.Embed(self.shape.vocabulary, self.shape.width, name="embedding")
        layers = nn.scan(
            Layer,
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            length=self.shape.layers,
            in_axes=nn.broadcast,
        )
        x, _ = layers(self.shape, self.rank, name="layers")(embedding(tokens), rotations(self.shape, tokens.shape[1]))
        logits: jax.Array = embedding.attend(nn.RMSNorm(self.shape.epsilon, name="norm")(x))
        return logits


class Layer(nn.Module):
    """Attention to what came before, then a gated perceptron."""

    shape: Shape
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array, turns: jax.Array) -> tuple[jax.Array, None]:
        width, heads, groups = self.shape.width, self.shape.heads, self.shape.groups
        size = width // heads
        normed = nn.RMSNorm(self.shape.epsilon, name="attention_norm")(x)
        split = (*x.shape[:2], groups, -1, size)
        query = rotated(Projection(width, self.rank, name="query")(normed).reshape(split), turns)
        key = rotated(Projection(groups * size, 0, name="key")(normed).reshape(split), turns)
        value = Projection(groups * size, self.rank, name="value")(normed).reshape(split)
        scores = jnp.einsum("nqghd,nkgxd->nghqk", query, key) / size**0.5
        past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = jax.nn.softmax(jnp.where(past[None, None, None], scores, -jnp.inf))
        mixed = jnp.einsum("nghqk,nkgxd->nqghd", weights, value).reshape(x.shape)
        x += Projection(width, 0, name="output")(mixed)
        normed = nn.RMSNorm(self.shape.epsilon, name="perceptron_norm")(x)
        gate, up = (Projection(self.shape.hidden, 0, name=name)(normed) for name in ("gate", "up"))
        return x + Projection(width, 0, name="down")(nn.silu(gate) * up), None


class Projection(nn.Module):
    """A linear map without a bias, and beside it an adapter of that rank; none for 0."""

    width: int
    rank: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.width))
        if not self.rank:
            return y
        down = self.variable("lora", "down", lambda: jnp.zeros((x.shape[-1], self.rank)))
        up = self.variable("lora", "up", lambda: jnp.zeros((self.rank, self.width)))
        return y + _ALPHA / self.rank * (x @ down.value) @ up.value


def fresh_adapters(shape: Shape, rank: int, key: jax.Array) -> chex.ArrayTree:
    """Adapters that change nothing yet: random first factors, and zeros for the second ones."""
    width, head = shape.width, shape.width // shape.heads
    names = {"query": width, "value": shape.groups * head}
    return {
        "layers": {
            name: {
                "down": jax.random.normal(each, (shape.layers, width, rank)) / width**0.5,
                "up": jnp.zeros((shape.layers, rank, wide)),
            }
            for each, (name, wide) in zip(jax.random.split(key, 2), names.items(), strict=True)
        }
    }


def logits(shape: Shape, params: chex.ArrayTree, adapters: chex.ArrayTree, tokens: jax.Array) -> jax.Array:
    """The logits of the next tokens, [n, length, vocabulary]; without adapters for an empty tree of them."""
    found_adapters = jax.tree.leaves(adapters)
    rank = found_adapters[0].shape[-1] if found_adapters else 0
    found: Any = Llama(shape, rank).apply({"params": params, "lora": adapters}, tokens)
    return found


def rotations(shape: Shape, length: int) -> jax.Array:
    """By which angle each pair of a head's numbers is turned at each position, [length, size/2]."""
    size = shape.width // shape.heads
    return jnp.arange(length)[:, None] * shape.base ** (-jnp.arange(0, size, 2) / size)[None]


def rotated(x: jax.Array, turns: jax.Array) -> jax.Array:
    """Neighbouring numbers of [n, length, groups, heads, size] as pairs, each turned."""
    cos, sin = (function(turns)[None, :, None, None] for function in (jnp.cos, jnp.sin))
    even, odd = x[..., ::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)
