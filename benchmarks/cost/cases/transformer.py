"""A decoder-only transformer: on one sequence, on several, and frozen under low-rank adapters."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from benchmarks.cost.cases import Case


class Size(NamedTuple):
    """The shape of a transformer.

    Attributes:
      layers: how many blocks.
      width: of the residual stream; four times as much inside the feed-forward layers.
      heads: of each attention.
      vocabulary: how many tokens there are.
      length: tokens in a sequence.
      rank: of the adapters of every dense layer, 0 for none.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int
    length: int
    rank: int = 0


FULL = Size(layers=4, width=384, heads=6, vocabulary=1024, length=64)
QUICK = Size(layers=1, width=16, heads=2, vocabulary=32, length=8)


class Dense(nn.Module):
    """A dense layer, with W + A B in place of W if there is a rank; A B is never formed."""

    features: int
    rank: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Dense(self.features, self.use_bias)(x)
        if not self.rank:
            return y
        a = self.param("lora_a", nn.initializers.lecun_normal(), (x.shape[-1], self.rank))
        # Not zero, as LoRA begins: then nothing would reach `lora_a` in the first gradient.
        b = self.param("lora_b", nn.initializers.normal(0.01), (self.rank, self.features))
        return y + (x @ a) @ b


class Block(nn.Module):
    """Causal attention and a feed-forward layer, each behind a layer norm and beside the residual stream."""

    size: Size

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, heads, rank = self.size.width, self.size.heads, self.size.rank
        # No bias: that of the keys has no gradient but rounding, which Adam would blow up to full steps.
        qkv = Dense(3 * width, rank, use_bias=False, name="qkv")(nn.LayerNorm(name="norm_1")(x))
        q, k, v = jnp.split(qkv.reshape(*x.shape[:-1], heads, -1), 3, axis=-1)
        attended = nn.dot_product_attention(q, k, v, mask=nn.make_causal_mask(x[..., 0]))
        x = x + Dense(width, rank, name="out")(attended.reshape(x.shape))
        hidden = nn.gelu(Dense(4 * width, rank, name="up")(nn.LayerNorm(name="norm_2")(x)))
        return x + Dense(width, rank, name="down")(hidden)


class Transformer(nn.Module):
    """Logits of the next token at every position."""

    size: Size

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        positions = self.param("positions", nn.initializers.normal(0.02), (self.size.length, self.size.width))
        x = nn.Embed(self.size.vocabulary, self.size.width, name="tokens")(tokens) + positions[None]
        for layer in range(self.size.layers):
            x = Block(self.size, name=f"block_{layer}")(x)
        return nn.Dense(self.size.vocabulary, use_bias=False, name="head")(nn.LayerNorm(name="norm")(x))


def transformer_1(quick: bool) -> Case:
    """One sequence a batch: bound by the parameters."""
    return _case("transformer-1", QUICK if quick else FULL, batch=1)


def transformer_8(quick: bool) -> Case:
    """Eight sequences a batch: bound by arithmetic."""
    return _case("transformer-8", QUICK if quick else FULL, batch=8)


def lora(quick: bool) -> Case:
    """The transformer frozen, with adapters of rank 8 on all dense layers but the head."""
    return _case("lora", (QUICK if quick else FULL)._replace(rank=8), batch=8)


def _case(name: str, size: Size, batch: int) -> Case:
    model = Transformer(size)

    def loss(params: chex.ArrayTree, frozen: chex.ArrayTree, batch: Any) -> jax.Array:
        inputs, targets = batch[:, :-1], batch[:, 1:]
        logits = model.apply(join(params, frozen), inputs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, targets))

    def batches(n: int) -> Any:
        return jax.random.randint(jax.random.key(1), (n, batch, size.length + 1), 0, size.vocabulary)

    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size.length), jnp.int32))
    params, frozen = split(params) if size.rank else (params, {})
    about = f"LoRA of rank {size.rank} on a frozen transformer" if size.rank else "transformer"
    return Case(
        name=name,
        title=f"{about}, {size.layers} layers of {size.width}",
        params=params,
        frozen=frozen,
        loss=loss,
        batches=batches,
        batch=f"{batch} x {size.length} tokens",
        eager=functools.partial(eager_loss, size),
    )


def split(params: chex.ArrayTree) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """The adapters, and all the rest."""
    flat = traverse_util.flatten_dict(params)
    adapters = {path: x for path, x in flat.items() if path[-1].startswith("lora")}
    rest = {path: x for path, x in flat.items() if path not in adapters}
    return traverse_util.unflatten_dict(adapters), traverse_util.unflatten_dict(rest)


def join(params: chex.ArrayTree, frozen: chex.ArrayTree) -> chex.ArrayTree:
    """One tree again."""
    both = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(frozen)
    return traverse_util.unflatten_dict(both)


def eager_loss(size: Size, torch: Any, params: Mapping[str, Any], batch: Any) -> Any:
    """The same loss in PyTorch."""
    functional = torch.nn.functional

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, x.shape[-1:], params[f"{name}/scale"], params[f"{name}/bias"], eps=1e-6)

    def dense(x: Any, name: str) -> Any:
        y, bias = x @ params[f"{name}/Dense_0/kernel"], params.get(f"{name}/Dense_0/bias")
        y = y if bias is None else y + bias
        return y + (x @ params[f"{name}/lora_a"]) @ params[f"{name}/lora_b"] if size.rank else y

    inputs, targets = batch[:, :-1], batch[:, 1:]
    x = functional.embedding(inputs, params["tokens/embedding"]) + params["positions"]
    for block in (f"block_{layer}" for layer in range(size.layers)):
        qkv = dense(norm(x, f"{block}/norm_1"), f"{block}/qkv").unflatten(-1, (size.heads, -1)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(*qkv.chunk(3, dim=-1), is_causal=True)
        x = x + dense(attended.transpose(1, 2).flatten(-2), f"{block}/out")
        hidden = functional.gelu(dense(norm(x, f"{block}/norm_2"), f"{block}/up"), approximate="tanh")
        x = x + dense(hidden, f"{block}/down")
    logits = norm(x, "norm") @ params["head/kernel"]
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
