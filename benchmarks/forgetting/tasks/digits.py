"""Handwritten digits, then the same digits rotated."""

import functools
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

from benchmarks.forgetting.tasks import Scores, Task

HELD_OUT = 360
N_TRAIN = 1797 - HELD_OUT
CONVERGED = 0.98

_BASE_STEPS = 500
_BASE_BATCH = 128
_BASE_RATE = 1e-3
_BASE_NOISE = 0.2


class Digits(NamedTuple):
    """All 1,797 images, in both versions.

    Attributes:
      upright: the old task's images, [n, 64] from 0 to 1.
      rotated: the new task's images in the same order.
      labels: which digit each one is, [n].
    """

    upright: jax.Array
    rotated: jax.Array
    labels: jax.Array


class Model(nn.Module):
    """A perceptron with two hidden layers, each with LayerNorm."""

    width: int = 256

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        for _ in range(2):
            images = nn.relu(nn.LayerNorm()(nn.Dense(self.width)(images)))
        return nn.Dense(10)(images)


class NotConvergedError(RuntimeError):
    """The old model is not one that PROFIT may start from."""


def rotated_digits(seeds: int, angle: float) -> Task:
    """Models converged on scikit-learn's digits, which are to learn the same digits rotated by `angle` degrees.

    A seed has its own split, initialisation and order of batches. Rotated images are split like their originals, so
    nothing that is evaluated was trained on in either version. The old model is trained on noisy pixels, which lifts
    it over 98 %; nothing else sees noise.
    """
    data = _load(angle)
    splits = [_split(seed, np.asarray(data.labels)) for seed in range(seeds)]
    train = jnp.asarray([split[0] for split in splits])
    held_out = jnp.asarray([split[1] for split in splits])
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    params = jax.jit(jax.vmap(_converged, in_axes=(0, None, 0)))(keys, data, train)
    return Task(
        name=f"digits rotated by {angle:g} degrees",
        data=data,
        train=train,
        held_out=held_out,
        params=params,
        batch=lambda data, indices: (data.rotated[indices], data.labels[indices]),
        loss=_loss,
        evaluate=_evaluate,
    )


def old_accuracies(task: Task) -> np.ndarray:
    """Held-out accuracy of every seed's model on the old task, before it learns the new one."""
    scores = jax.jit(jax.vmap(task.evaluate, in_axes=(0, None, 0)))(task.params, task.data, task.held_out)
    return np.asarray(scores.old)


def check_converged(accuracies: np.ndarray) -> None:
    """Raise `NotConvergedError` unless the old models classify 98 % of their held-out digits, taken together."""
    if not np.mean(accuracies) >= CONVERGED:
        raise NotConvergedError(
            f"the old models are not converged: {np.mean(accuracies):.2%} of the held-out digits are classified"
            f" correctly over {len(accuracies)} seeds, and {CONVERGED:.0%} is the least to start from. What PROFIT"
            " does to such a model says nothing about PROFIT."
        )


def _load(angle: float) -> Digits:
    images, labels = load_digits(return_X_y=True)
    upright = images.reshape(-1, 8, 8) / 16
    rotated = scipy.ndimage.rotate(upright, angle, axes=(1, 2), reshape=False, order=1)
    flat = functools.partial(jnp.asarray, dtype=jnp.float32)
    return Digits(flat(upright.reshape(-1, 64)), flat(rotated.reshape(-1, 64)), jnp.asarray(labels, jnp.int32))


def _split(seed: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    train, held_out = train_test_split(np.arange(len(labels)), test_size=HELD_OUT, random_state=seed, stratify=labels)
    return train, held_out


def _converged(key: jax.Array, data: Digits, train: jax.Array) -> chex.ArrayTree:
    tx = optax.adamw(optax.cosine_decay_schedule(_BASE_RATE, _BASE_STEPS))

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        index_key, noise_key = jax.random.split(key)
        indices = train[jax.random.randint(index_key, (_BASE_BATCH,), 0, len(train))]
        images = data.upright[indices]
        images += _BASE_NOISE * jax.random.normal(noise_key, images.shape)
        grads = jax.grad(_loss)(params, (images, data.labels[indices]))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    init_key, train_key = jax.random.split(key)
    params = Model().init(init_key, data.upright[:1])
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(train_key, _BASE_STEPS))
    return params


def _logits(params: chex.ArrayTree, images: jax.Array) -> Any:
    return Model().apply(params, images)


def _loss(params: chex.ArrayTree, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    images, labels = batch
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(_logits(params, images), labels))


def _accuracy(params: chex.ArrayTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(_logits(params, images), axis=-1) == labels)


def _evaluate(params: chex.ArrayTree, data: Digits, held_out: jax.Array) -> Scores:
    labels = data.labels[held_out]
    return Scores(
        old=_accuracy(params, data.upright[held_out], labels),
        new=_accuracy(params, data.rotated[held_out], labels),
    )
