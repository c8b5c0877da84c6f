"""Handwritten digits, then the same digits rotated or otherwise transformed."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks.forgetting.tasks import Scores, Task, layer, start_scores, trained
from profit_optax.compare.errors import CompareError

HELD_OUT = 360
N_TRAIN = 1797 - HELD_OUT
CONVERGED = 0.98
BASE_STEPS = 500

_BASE_BATCH = 128
_BASE_RATE = 1e-3
_BASE_NOISE = 0.2

# From images [n, 8, 8] and labels [n] to those of the new task, in the same order.
Transform = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Digits(NamedTuple):
    """All 1,797 examples of both tasks, in the same order.

    Attributes:
      upright: the old task's images, [n, 64] from 0 to 1.
      labels: which digit each one is, [n].
      new_images: the new task's images, [n, 64].
      new_labels: the new task's classes, [n].
    """

    upright: jax.Array
    labels: jax.Array
    new_images: jax.Array
    new_labels: jax.Array


class Model(nn.Module):
    """A perceptron with two hidden layers, each with LayerNorm."""

    width: int = 256

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        for _ in range(2):
            images = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(images)))
        return nn.Dense(10)(images)


def rotated_digits(seeds: Sequence[int], angle: float, base_steps: int = BASE_STEPS) -> Task:
    """Models converged on scikit-learn's digits, which are to learn the same digits rotated by `angle` degrees."""
    return transformed_digits(f"digits rotated by {angle:g} degrees", seeds, rotation(angle), base_steps)


def rotation(angle: float) -> Transform:
    """Every image rotated by `angle` degrees, with its label."""
    return lambda images, labels: (scipy.ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1), labels)


def transformed_digits(name: str, seeds: Sequence[int], transform: Transform, base_steps: int = BASE_STEPS) -> Task:
    """Models converged on scikit-learn's digits, which are to learn what `transform` makes of them.

    A seed has its own split, initialisation and order of batches. New examples are split like their originals, so
    nothing that is evaluated was trained on in either version. The old model is trained on noisy pixels, which lifts
    it over 98 %; nothing else sees noise. It is trained for `base_steps` steps, and fewer leave it unconverged.
    """
    data, numbers = _load(transform), jnp.asarray(list(seeds))
    labels = np.asarray(data.labels)
    examples = np.arange(len(labels))
    splits = [train_test_split(examples, test_size=HELD_OUT, random_state=seed, stratify=labels) for seed in seeds]
    train, held_out = (jnp.asarray(part) for part in zip(*splits, strict=True))
    keys = jax.vmap(jax.random.key)(numbers)
    params = jax.jit(jax.vmap(functools.partial(_trained, base_steps), in_axes=(0, None, 0)))(keys, data, train)
    return Task(
        name=name if base_steps == BASE_STEPS else f"{name} after {base_steps} old steps",
        seeds=numbers,
        data=data,
        train=train,
        held_out=held_out,
        params=params,
        batch=lambda data, indices, key: (data.new_images[indices], data.new_labels[indices]),
        loss=_loss,
        evaluate=_evaluate,
        outputs=lambda params, batch: _logits(params, batch[0]),
        old_batch=lambda data, indices, key: (data.upright[indices], data.labels[indices]),
        head=layer("Dense_2"),
    )


def check_converged(task: Task) -> Task:
    """The task, or a `CompareError` unless its old models classify 98 % of their held-out digits, taken together."""
    accuracies = start_scores(task).old
    if not np.mean(accuracies) >= CONVERGED:
        raise CompareError(
            f"the old models are not converged: {np.mean(accuracies):.2%} of the held-out digits are classified"
            f" correctly over {len(accuracies)} seeds, and {CONVERGED:.0%} is the least to start from. What PROFIT"
            " does to such a model says nothing about PROFIT."
        )
    return task


def _load(transform: Transform) -> Digits:
    images, labels = load_digits(return_X_y=True)
    upright = images.reshape(-1, 8, 8) / 16
    new_images, new_labels = transform(upright, labels)
    pixels = [jnp.asarray(each.reshape(-1, 64), jnp.float32) for each in (upright, new_images)]
    return Digits(pixels[0], jnp.asarray(labels, jnp.int32), pixels[1], jnp.asarray(new_labels, jnp.int32))


def _trained(steps: int, key: jax.Array, data: Digits, train: jax.Array) -> chex.ArrayTree:
    def batch(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        index_key, noise_key = jax.random.split(key)
        indices = train[jax.random.randint(index_key, (_BASE_BATCH,), 0, len(train))]
        images = data.upright[indices]
        return images + _BASE_NOISE * jax.random.normal(noise_key, images.shape), data.labels[indices]

    tx = optax.adamw(optax.cosine_decay_schedule(_BASE_RATE, steps))
    init_key, train_key = jax.random.split(key)
    params = Model().init(init_key, data.upright[:1])
    return trained(_loss, tx, params, batch, jax.random.split(train_key, steps))


def _logits(params: chex.ArrayTree, images: jax.Array) -> Any:
    return Model().apply(params, images)


def _loss(params: chex.ArrayTree, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, labels = batch
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(_logits(params, images), labels))


def _accuracy(params: chex.ArrayTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(_logits(params, images), axis=-1) == labels)


def _evaluate(params: chex.ArrayTree, data: Digits, held_out: jax.Array) -> Scores:
    return Scores(
        old=_accuracy(params, data.upright[held_out], data.labels[held_out]),
        new=_accuracy(params, data.new_images[held_out], data.new_labels[held_out]),
    )
