"""A small transformer in the manner of Wayformer: an encoder of the past, a decoder with a query for each future."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.forgetting.tasks.motion.windows import FUTURE, PAST

# Metres that are 1 inside the network.
_UNIT = 5.0
# The names of what comes before the decoder, of two encoder layers.
ENCODER = ("times", "Dense_0", "Layer_0", "Layer_1", "LayerNorm_0")


class Futures(NamedTuple):
    """What may come.

    Attributes:
      positions: in metres, [n, queries, 12, 2].
      logits: how likely each is, [n, queries].
    """

    positions: jax.Array
    logits: jax.Array


class Forecaster(nn.Module):
    """From eight past positions [n, 8, 2] to six `Futures`."""

    width: int = 64
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 2
    queries: int = 6

    @nn.compact
    def __call__(self, past: jax.Array) -> Futures:
        x = past / _UNIT
        x = jnp.concatenate([x, jnp.diff(x, axis=1, prepend=x[:, :1])], axis=-1)
        times = self.param("times", nn.initializers.normal(0.02), (PAST, self.width))
        x = nn.Dense(self.width)(x) + times[None]
        for _ in range(self.encoder_layers):
            x = Layer(self.heads)(x, None)
        memory = nn.LayerNorm()(x)
        query = self.param("queries", nn.initializers.normal(1.0), (self.queries, self.width))
        y = jnp.broadcast_to(query[None], (len(past), *query.shape))
        for _ in range(self.decoder_layers):
            y = Layer(self.heads)(y, memory)
        outputs = nn.Dense(FUTURE * 2 + 1, name="head")(nn.LayerNorm()(y))
        positions = _UNIT * outputs[..., :-1].reshape(*outputs.shape[:-1], FUTURE, 2)
        return Futures(positions, outputs[..., -1])


class Layer(nn.Module):
    """Attention to one another, then to a memory if there is one, then a perceptron of four times the width."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array | None) -> jax.Array:
        x += nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x))
        if memory is not None:
            x += nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), memory)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x))))
