"""CIFAR-10, then CIFAR-100 with a fresh head.

The old head stays what it was, and is evaluated on the tuned backbone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.forgetting.tasks import Scores, Task
from benchmarks.forgetting.tasks.cifar.archives import Images
from benchmarks.forgetting.tasks.cifar.augment import random_crop_and_flip
from benchmarks.forgetting.tasks.cifar.networks import accuracy, init_params, logits

CLASSES = 100


class Data(NamedTuple):
    """CIFAR-100's training images, CIFAR-10's test images, and CIFAR-100's, as bytes."""

    train: Images
    old: Images
    new: Images


def cifar100(seeds: Sequence[int], backbone: nn.Module, base: chex.ArrayTree, data: Data, model: str) -> Task:
    """One model of CIFAR-10, which is to learn CIFAR-100.

    Args:
      seeds: each has its own initialisation of the new head, order of batches and augmentation. All have the same old
        model and the same images.
      backbone: what both heads are put on.
      base: the old model's parameters, {"backbone": ..., "head": ...}.
      data: images of both tasks.
      model: what the old model is, for the task's name.
    """

    def start(seed: jax.Array) -> chex.ArrayTree:
        return {"backbone": base["backbone"], "head": init_params(backbone, CLASSES, jax.random.key(seed))["head"]}

    def batch(data: Data, indices: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return random_crop_and_flip(key, data.train.pixels[indices]), data.train.labels[indices]

    def loss(params: chex.ArrayTree, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        pixels, labels = batch
        outputs = logits(backbone, params, pixels)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))

    def evaluate(params: chex.ArrayTree, data: Data, old_head: chex.ArrayTree) -> Scores:
        old_params = {"backbone": params["backbone"], "head": old_head}
        return Scores(
            old=accuracy(backbone, old_params, data.old.pixels, data.old.labels),
            new=accuracy(backbone, params, data.new.pixels, data.new.labels),
        )

    def for_each_seed(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (len(seeds), *x.shape))

    return Task(
        name=f"CIFAR-100 after CIFAR-10, {model}",
        seeds=jnp.asarray(seeds),
        data=jax.tree.map(jnp.asarray, data),
        train=for_each_seed(jnp.arange(len(data.train.labels))),
        held_out=jax.tree.map(for_each_seed, base["head"]),
        params=jax.jit(jax.vmap(start))(jnp.asarray(seeds)),
        batch=batch,
        loss=loss,
        evaluate=evaluate,
        head={"backbone": False, "head": True},
        fresh_head=True,
        together=False,
    )
