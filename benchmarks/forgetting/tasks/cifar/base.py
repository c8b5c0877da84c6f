"""The old model: a network trained on CIFAR-10 until its held-out loss is flat.

Images stay on the device as bytes, and an epoch is one compiled program. A tenth of the training images is held out;
the parameters kept are those with the lowest loss on it. The test images are looked at once, at the end.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forgetting.tasks.cifar.archives import Archive, Images
from benchmarks.forgetting.tasks.cifar.augment import random_crop_and_flip
from benchmarks.forgetting.tasks.cifar.networks import accuracy, init_params, logits, logits_in_chunks, network
from profit_optax.compare.store import Store

CLASSES = 10
CONVERGED = 0.8

# By how much of itself a held-out loss must fall to count: on CIFAR-10's 5,000 held-out images the standard error of
# the mean loss is about twice that.
_FALL = 0.01


class Recipe(NamedTuple):
    """How the old model is trained, by Adam.

    Attributes:
      network: its name among `networks.NETWORKS`.
      epochs: how many at most.
      rate: the learning rate.
      decay_epochs: over how many epochs the rate, after one epoch of warm-up, falls to its hundredth along a cosine, to
        stay there; 0 for a constant rate.
      batch: images for each gradient.
      patience: training ends, and the held-out loss counts as flat, when it has not fallen for so many epochs. None to
        train for all epochs and to keep the last parameters, as the paper does.
      seed: what initialisation, split, order and augmentation come from.
    """

    network: str
    epochs: int
    rate: float
    decay_epochs: int = 0
    batch: int = 128
    patience: int | None = 10
    seed: int = 0


class Base(NamedTuple):
    """An old model.

    Attributes:
      params: those with the lowest held-out loss, or the last (`Recipe.patience`), with a head of ten outputs.
      accuracy: on CIFAR-10's test images.
      epochs: how many it was trained for.
      flat: whether the held-out loss had become flat by then.
      history: for each epoch the training loss, the held-out loss and the held-out accuracy, [epochs, 3].
    """

    params: chex.ArrayTree
    accuracy: float
    epochs: int
    flat: bool
    history: np.ndarray

    @property
    def converged(self) -> bool:
        """Whether it is a model to start PROFIT from: at least 80 % of the test images are classified correctly."""
        return self.accuracy >= CONVERGED


class _State(NamedTuple):
    """All that training goes on from: where it is, and the parameters with the lowest held-out loss, and that loss."""

    params: chex.ArrayTree
    opt_state: optax.OptState
    best_params: chex.ArrayTree
    lowest: jax.Array


def train_base(
    recipe: Recipe,
    archive: Archive,
    folder: Path,
    on_epoch: Callable[[int, np.ndarray], None] = lambda *_: None,
    seconds_between_saves: float = 60,
) -> Base:
    """Train the old model, from where `folder`, which is for nothing else, has it if it was begun there.

    `on_epoch` is told how many epochs are over and the last line of the history.

    Raises:
      CompareError: the folder's model is of another recipe, or of other images, or it is damaged.
    """
    store = Store(folder)
    store.check({**recipe._asdict(), "train_images": len(archive.train.labels)})
    backbone = network(recipe.network)
    train, held_out = (jax.device_put(images) for images in _split(archive.train, recipe.seed))
    tx = _optimizer(recipe, len(train.labels) // recipe.batch)
    epoch_fn = jax.jit(_epoch_fn(recipe, backbone, tx))
    params = init_params(backbone, CLASSES, jax.random.key(recipe.seed))
    history: list[list[float]]
    state, history = store.load_state("base", _State(params, tx.init(params), params, jnp.float32(jnp.inf)), [])
    saved = time.monotonic()
    while not _is_over(recipe, history):
        state, scores = jax.block_until_ready(epoch_fn(state, len(history), train, held_out))
        history.append(scores.tolist())
        if _is_over(recipe, history) or time.monotonic() - saved >= seconds_between_saves:
            store.save_state("base", state, history)
            saved = time.monotonic()
        on_epoch(len(history), np.asarray(scores))
    test = jax.device_put(archive.test)
    score = jax.jit(functools.partial(accuracy, backbone))(state.best_params, test.pixels, test.labels)
    return Base(state.best_params, float(score), len(history), _is_flat(recipe, history), np.array(history))


def _split(images: Images, seed: int) -> tuple[Images, Images]:
    """Images to train on, and a tenth that is held out."""
    order = np.random.default_rng(seed).permutation(len(images.labels))
    held_out, train = np.split(order, [len(order) // 10])
    return Images(images.pixels[train], images.labels[train]), Images(images.pixels[held_out], images.labels[held_out])


def _optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    if not recipe.decay_epochs:
        return optax.adam(recipe.rate)
    decay_steps = recipe.decay_epochs * steps
    return optax.adam(optax.warmup_cosine_decay_schedule(0, recipe.rate, steps, decay_steps, recipe.rate / 100))


def _is_over(recipe: Recipe, history: Sequence[Sequence[float]]) -> bool:
    return len(history) >= recipe.epochs or _is_flat(recipe, history)


def _is_flat(recipe: Recipe, history: Sequence[Sequence[float]]) -> bool:
    """Whether the lowest held-out loss of the last `patience` epochs is no lower than that before."""
    losses = [loss for _, loss, _ in history]
    if recipe.patience is None or len(losses) <= recipe.patience:
        return False
    return min(losses[-recipe.patience :]) > (1 - _FALL) * min(losses[: -recipe.patience])


def _epoch_fn(
    recipe: Recipe, backbone: nn.Module, tx: optax.GradientTransformation
) -> Callable[..., tuple[_State, jax.Array]]:
    losses_of = optax.softmax_cross_entropy_with_integer_labels

    def loss_fn(params: chex.ArrayTree, pixels: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(losses_of(logits(backbone, params, pixels), labels))

    def epoch(state: _State, number: int, train: Images, held_out: Images) -> tuple[_State, jax.Array]:
        order_key, key = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), number))
        steps = len(train.labels) // recipe.batch
        order = jax.random.permutation(order_key, len(train.labels))[: steps * recipe.batch].reshape(steps, -1)

        def step(carry: tuple, x: tuple[jax.Array, jax.Array]) -> tuple[tuple, jax.Array]:
            params, opt_state = carry
            indices, key = x
            pixels = random_crop_and_flip(key, train.pixels[indices])
            loss, grads = jax.value_and_grad(loss_fn)(params, pixels, train.labels[indices])
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        carry = state.params, state.opt_state
        (params, opt_state), losses = jax.lax.scan(step, carry, (order, jax.random.split(key, steps)))
        outputs = logits_in_chunks(backbone, params, held_out.pixels)
        loss = jnp.mean(losses_of(outputs, held_out.labels))
        correct = jnp.mean(jnp.argmax(outputs, axis=-1) == held_out.labels)
        better = (recipe.patience is None) | (loss < state.lowest)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state.best_params)
        state = _State(params, opt_state, best, jnp.minimum(state.lowest, loss))
        return state, jnp.stack([jnp.mean(losses), loss, correct])

    return epoch
