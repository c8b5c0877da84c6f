"""A pretrained language model that learns one kind of text, and what becomes of other kinds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forgetting.tasks.language.network import Shape, fresh_adapters, logits
from benchmarks.forgetting.tasks.language.weights import LanguageModel
from profit_optax import compare
from profit_optax.compare.batches import stream

# Parts of a text, in its order: to train on, to tune on, to report on.
PARTS = (0.7, 0.1, 0.2)
# Windows of a forward pass when scoring.
_CHUNK = 8


class TextError(compare.CompareError):
    """A text is missing, or too short."""


class Sizes(NamedTuple):
    """How much is read at once.

    Attributes:
      length: tokens that are predicted in a window.
      batch: windows for one gradient.
      scored: windows of the new text that are scored, and about as many of the old ones together.
      rank: of the adapters.
    """

    length: int = 64
    batch: int = 8
    scored: int = 32
    rank: int = 8


class Parts(NamedTuple):
    """A text in windows of length + 1 tokens, each [n, length + 1].

    Attributes:
      train: to train on.
      held_out: to tune on.
      test: to report on.
    """

    train: np.ndarray
    held_out: np.ndarray
    test: np.ndarray


def read(paths: Sequence[Path]) -> str:
    """The texts of files, one after the other.

    Raises:
      TextError: for a file that cannot be read.
    """
    try:
        return "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    except OSError as error:
        raise TextError(f"{error.filename} cannot be read: {error.strerror}.") from error


def windows(tokens: Sequence[int], length: int) -> Parts:
    """Tokens in windows that do not overlap, split in the order of the text.

    Raises:
      TextError: if a part would be empty.
    """
    count = len(tokens) // (length + 1)
    whole = np.asarray(tokens[: count * (length + 1)], np.int32).reshape(count, length + 1)
    ends = np.round(np.cumsum(PARTS) * count).astype(int)
    parts = Parts(*np.split(whole, ends[:-1]))
    if not all(map(len, parts)):
        raise TextError(f"a text must have at least {10 * (length + 1)} tokens, got {len(tokens)}.")
    return parts


def language(
    name: str,
    model: LanguageModel,
    old: Mapping[str, Parts],
    new: Parts,
    sizes: Sizes,
    tuning: bool,
    full: bool = False,
) -> compare.Task:
    """The task as a user would bring it to `compare`; scores are perplexities with a minus sign.

    "old" is the perplexity of all old texts together. Where there are several, each has a score of its own beside it,
    called as `score_of` says.

    Args:
      name: what the new text is.
      model: what is fine-tuned.
      old: texts of other kinds by name; nothing of them is trained on.
      new: the new text.
      sizes: how much is read at once.
      tuning: whether scores are on held-out windows in place of those for the report.
      full: whether the model's own weights are trained. Else they stay, are closed over, and adapters are trained.
    """
    shape, params, _ = model
    per_old = -(-sizes.scored // len(old))

    def some(parts: Parts, count: int) -> np.ndarray:
        return spread(parts.held_out if tuning else parts.test, count)

    # The new text is that without a name.
    scored: dict[str | None, np.ndarray] = {None: some(new, sizes.scored)}
    scored |= {kind: some(parts, per_old) for kind, parts in old.items()}

    def weights(trained: chex.ArrayTree) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        return (trained, {}) if full else (params, trained)

    def loss(trained: chex.ArrayTree, tokens: jax.Array) -> jax.Array:
        return mean_loss(shape, *weights(trained), tokens)

    # The weights are an argument here, so that the program does not hold a copy of them.
    @jax.jit
    def of_windows(params: chex.ArrayTree, adapters: chex.ArrayTree, tokens: np.ndarray) -> jax.Array:
        return mean_loss(shape, params, adapters, tokens)

    def total(trained: chex.ArrayTree, tokens: np.ndarray) -> float:
        parts = [tokens[i : i + _CHUNK] for i in range(0, len(tokens), _CHUNK)]
        return sum(len(part) * float(of_windows(*weights(trained), part)) for part in parts)

    def evaluate(trained: chex.ArrayTree) -> dict[str, float]:
        totals = {kind: total(trained, tokens) for kind, tokens in scored.items()}

        def score(kinds: Sequence[str | None]) -> float:
            count = sum(len(scored[kind]) for kind in kinds)
            return -math.exp(sum(totals[kind] for kind in kinds) / count)

        each = {score_of(kind): score([kind]) for kind in old} if len(old) > 1 else {}
        return {"old": score(list(old)), "new": score([None]), **each}

    def batches(seed: int) -> Iterator[np.ndarray]:
        return stream("batches", new.train, sizes.batch, seed)

    trained = params if full else fresh_adapters(shape, sizes.rank, jax.random.key(0))
    return compare.Task(trained, loss, batches, evaluate, name=name)


def score_of(kind: str) -> str:
    """The score's name of one of several old texts."""
    return f"old: {kind}"


def mean_loss(shape: Shape, params: chex.ArrayTree, adapters: chex.ArrayTree, tokens: Any) -> jax.Array:
    """The mean cross-entropy of the next token in nats, for windows [n, length + 1]."""
    outputs = logits(shape, params, adapters, tokens[:, :-1])
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, tokens[:, 1:]))


def spread(windows: np.ndarray, count: int) -> np.ndarray:
    """At most so many windows, at even distances."""
    if len(windows) <= count:
        return windows
    return windows[np.round(np.linspace(0, len(windows) - 1, count)).astype(int)]
