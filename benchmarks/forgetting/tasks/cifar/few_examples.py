"""A converged network of CIFAR-10 that is to learn something new, from a thousand examples as in VTAB-1K, or more."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forgetting.tasks.cifar.archives import Archive, Images
from benchmarks.forgetting.tasks.cifar.pretrained import Pretrained, logits, with_adapters
from profit_optax import compare
from profit_optax.compare.batches import stream

# The first classes of CIFAR-100 in the alphabet, so that nobody chose them.
CLASSES = 20
# From parameters and uint8 images to the outputs of a head, [n, classes].
Outputs = Callable[[chex.ArrayTree, jax.Array], jax.Array]


class Kind(NamedTuple):
    """A new task.

    Attributes:
      title: what it is.
      fresh_head: whether it has classes of its own, and so a new head beside the old one.
      archive: the new task's images, for which it is handed CIFAR-10 and CIFAR-100.
      adapters: whether the network stays as it is, and adapters beside its convolutions learn.
    """

    title: str
    fresh_head: bool
    archive: Callable[[Archive, Archive], Archive]
    adapters: bool = False


def first_classes(ten: Images, hundred: Images) -> Images:
    """Those of CIFAR-100 in its first classes."""
    del ten
    among = np.flatnonzero(hundred.labels < CLASSES)
    return Images(hundred.pixels[among], hundred.labels[among])


def rotated(ten: Images, hundred: Images) -> Images:
    """Those of CIFAR-10 turned by 90 degrees."""
    del hundred
    return ten._replace(pixels=np.rot90(ten.pixels, axes=(1, 2)))


def recoloured(ten: Images, hundred: Images) -> Images:
    """The negatives of CIFAR-10's."""
    del hundred
    return ten._replace(pixels=255 - ten.pixels)


def both(made: Callable[[Images, Images], Images]) -> Callable[[Archive, Archive], Archive]:
    """What is made of images, of those to train on and of those to evaluate on."""
    return lambda ten, hundred: Archive(*(made(*parts) for parts in zip(ten, hundred, strict=True)))


_NEW_CLASSES = f"{CLASSES} classes of CIFAR-100"
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "classes": Kind(_NEW_CLASSES, True, both(first_classes)),
        "adapters": Kind(f"{_NEW_CLASSES}, through adapters alone", True, both(first_classes), adapters=True),
        "hundred": Kind("all of CIFAR-100", True, lambda ten, hundred: hundred),
        "rotated": Kind("CIFAR-10 turned by 90 degrees", False, both(rotated)),
        "recoloured": Kind("negatives of CIFAR-10", False, both(recoloured)),
    }
)


class Sizes(NamedTuple):
    """How much of the data is used.

    Attributes:
      examples: training examples of a seed, as many of each class.
      held_out: of the new task's training images, left to tune on; at most half of what the examples leave.
      test: of each test set, to report on.
      batch: examples for one gradient.
    """

    examples: int = 1000
    held_out: int = 1000
    test: int = 1000
    batch: int = 32


def few_examples(
    kind: str, network: Pretrained, ten: Archive, hundred: Archive, sizes: Sizes, tuning: bool = False
) -> compare.Task:
    """The task as a user would bring it to `compare`.

    A seed has its own examples, drawn out of all training images but the held-out ones, and their order. Old scores
    are of the old head on the tuned backbone; where both tasks have the same classes there is one head, which is tuned.

    Args:
      kind: one of `KINDS`.
      network: what is fine-tuned.
      ten: CIFAR-10.
      hundred: CIFAR-100.
      sizes: how much of them is used.
      tuning: whether new scores are on the held-out training images in place of test images.
    """
    title, fresh_head, made, adapters = KINDS[kind]
    params, statistics = network
    new, old_head = made(ten, hundred), params["head"]
    if fresh_head:
        params = {"backbone": params["backbone"], "head": fresh(old_head, len(np.unique(new.train.labels)))}
    if adapters:
        params = {"backbone": with_adapters(params["backbone"]), "head": params["head"]}

    def outputs(params: chex.ArrayTree, images: jax.Array) -> jax.Array:
        return logits(params, statistics, images)

    def old_outputs(params: chex.ArrayTree, images: jax.Array) -> jax.Array:
        return outputs({"backbone": params["backbone"], "head": old_head} if fresh_head else params, images)

    return from_few(title, params, outputs, new, old_outputs, ten.test, sizes, tuning, fresh_head)


def from_few(
    name: str,
    params: chex.ArrayTree,
    outputs: Outputs,
    new: Archive,
    old_outputs: Outputs,
    old: Images,
    sizes: Sizes,
    tuning: bool,
    fresh_head: bool,
    chunk: int = 500,
) -> compare.Task:
    """A task of few examples, whatever the network.

    Args:
      name: of the new task.
      params: what is fine-tuned, {"backbone": ..., "head": ...}.
      outputs: for the new task.
      new: its images.
      old_outputs: for the old one.
      old: its test images.
      sizes: how much of both is used.
      tuning: as for `few_examples`.
      fresh_head: as in `Kind`.
      chunk: images of a forward pass when scoring.
    """
    count = len(new.train.labels)
    learnt = count - min(sizes.held_out, (count - sizes.examples) // 2)
    pool = new.train.first(learnt)
    held_out = Images(*(array[learnt:] for array in new.train))
    scored = held_out if tuning else new.test.first(sizes.test)
    old = old.first(sizes.test)

    def loss(params: chex.ArrayTree, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, labels = batch
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs(params, images), labels))

    old_accuracy, new_accuracy = accuracy_of(old_outputs, chunk), accuracy_of(outputs, chunk)

    def evaluate(params: chex.ArrayTree) -> dict[str, float]:
        return {"old": old_accuracy(params, old), "new": new_accuracy(params, scored)}

    return compare.Task(
        params,
        loss,
        lambda seed: batches(pool, sizes.examples, sizes.batch, seed),
        evaluate,
        head={"backbone": False, "head": True} if fresh_head else None,
        name=name,
    )


def accuracy_of(outputs: Outputs, chunk: int = 500) -> Callable[[chex.ArrayTree, Images], float]:
    """The share of images that outputs are right on, as a function of parameters and images, `chunk` at once."""

    @jax.jit
    def right(params: chex.ArrayTree, images: Images) -> jax.Array:
        return jnp.sum(jnp.argmax(outputs(params, images.pixels), axis=-1) == images.labels)

    def accuracy(params: chex.ArrayTree, images: Images) -> float:
        count = len(images.labels)
        parts = [Images(*(array[i : i + chunk] for array in images)) for i in range(0, count, chunk)]
        return sum(int(right(params, part)) for part in parts) / count

    return accuracy


def head_and_adapters(params: chex.ArrayTree) -> Any:
    """Which leaves are the head's or an adapter's, as a tree like `params`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(getattr(entry, "key", None) in ("head", "adapter") for entry in path), params
    )


def fresh(head: chex.ArrayTree, classes: int) -> Any:
    """A head of zeros for so many classes, in the place of another one."""
    width = head["kernel"].shape[0]
    return {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}


def batches(pool: Images, examples: int, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, endlessly, of that seed's examples."""
    at = drawn(pool.labels, examples, seed)
    return stream("batches", (pool.pixels[at], pool.labels[at]), size, seed)


def drawn(labels: np.ndarray, examples: int, seed: int) -> np.ndarray:
    """Indices of so many examples, as many of each class."""
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    each = examples // len(classes)
    return np.concatenate([rng.choice(np.flatnonzero(labels == label), each, replace=False) for label in classes])
