"""A decoder-only transformer of any size, as shapes: what is compiled is never allocated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

Params = dict[str, jax.Array]

# The parameters that are not in blocks.
ENDS = ("embedding", "norm", "unembedding")


class Config(NamedTuple):
    """A model's sizes.

    Attributes:
      layers: how many blocks.
      width: of the residual stream.
      heads: of the queries.
      kv_heads: of the keys and values, each shared by several queries.
      hidden: width of the gated perceptron.
      vocabulary: how many tokens there are.
      tied: whether the embedding is also the last layer.
      dtype: of the parameters.
      compute: the dtype in which weights are gathered and used.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    tied: bool
    dtype: str = "float32"
    compute: str = "float32"

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The parameters; those of all blocks are stacked."""
        keys = self.kv_heads * self.head_width
        block = {
            "query": (self.width, self.width),
            "key": (self.width, keys),
            "value": (self.width, keys),
            "output": (self.width, self.width),
            "gate": (self.width, self.hidden),
            "up": (self.width, self.hidden),
            "down": (self.hidden, self.width),
            "attention_norm": (self.width,),
            "mlp_norm": (self.width,),
        }
        stacked = {name: (self.layers, *shape) for name, shape in block.items()}
        ends = {"embedding": (self.vocabulary, self.width), "norm": (self.width,)}
        return stacked | ends | ({} if self.tied else {"unembedding": (self.vocabulary, self.width)})


def abstract_params(config: Config, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Every parameter, in as many pieces along its last axis as there are devices."""
    return {
        name: jax.ShapeDtypeStruct(
            shape, config.dtype, sharding=NamedSharding(mesh, P(*[None] * (len(shape) - 1), mesh.axis_names))
        )
        for name, shape in config.shapes().items()
    }


def loss_fn(config: Config, mesh: jax.sharding.Mesh, params: Params, tokens: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next token; `tokens` are [sequences, length].

    Weights are gathered where they are used and a block's activations are computed again in the backward pass, as is
    usual with this much to keep.
    """
    everywhere = NamedSharding(mesh, P())
    gather = lambda x: lax.with_sharding_constraint(x.astype(config.compute), everywhere)  # noqa: E731
    by_sequence = NamedSharding(mesh, P(mesh.axis_names))
    blocks = {name: x for name, x in params.items() if name not in ENDS}

    def block(x: jax.Array, weights: Params) -> tuple[jax.Array, None]:
        weights = {name: gather(w) for name, w in weights.items()}
        x = x + _attention(config, weights, _normalize(x, weights["attention_norm"]))
        x = x + _perceptron(weights, _normalize(x, weights["mlp_norm"]))
        return lax.with_sharding_constraint(x, by_sequence), None

    embedding = gather(params["embedding"])
    x = lax.with_sharding_constraint(embedding[tokens], by_sequence)
    x, _ = lax.scan(jax.checkpoint(block), x, blocks)
    x = _normalize(x, gather(params["norm"]))
    unembedding = embedding if config.tied else gather(params["unembedding"])
    log_probabilities = jax.nn.log_softmax((x[:, :-1] @ unembedding.T).astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_probabilities, tokens[:, 1:, None], axis=-1))


def _normalize(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale[None, None]


def _attention(config: Config, weights: Params, x: jax.Array) -> jax.Array:
    heads = lambda name: (x @ weights[name]).reshape(*x.shape[:2], -1, config.head_width)  # noqa: E731
    attended = jax.nn.dot_product_attention(heads("query"), heads("key"), heads("value"), is_causal=True)
    return attended.reshape(x.shape) @ weights["output"]


def _perceptron(weights: Params, x: jax.Array) -> jax.Array:
    return (jax.nn.silu(x @ weights["gate"]) * (x @ weights["up"])) @ weights["down"]
