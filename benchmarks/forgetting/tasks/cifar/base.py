"""The old model: a network trained on CIFAR-10 until its held-out loss is flat.

Images stay on the device as bytes, and an epoch is one compiled program. A tenth of the training images is held out;
the parameters kept are those with the lowest loss on it. The test images are looked at once, at the end.
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from benchmarks.forgetting.tasks.cifar.archives import Archive, Images
from benchmarks.forgetting.tasks.cifar.augment import random_crop_and_flip
from benchmarks.forgetting.tasks.cifar.evaluation import accuracy, logits_in_chunks
from benchmarks.forgetting.tasks.cifar.networks import compute_dtype, init_params, logits, network
from profit_optax.compare.errors import CompareError
from profit_optax.compare.store import readable, write_text

CLASSES = 10
CONVERGED = 0.8

_RECIPE = "recipe.json"
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


class OtherRecipeError(CompareError):
    """The folder holds a model that was trained in another way than is asked for."""


class _State(NamedTuple):
    """All that training goes on from.

    Attributes:
      params: as they are now.
      opt_state: Adam's.
      best_params: those with the lowest held-out loss.
      epoch: how many are over.
      history: as in `Base`, with NaN for epochs to come.
    """

    params: chex.ArrayTree
    opt_state: optax.OptState
    best_params: chex.ArrayTree
    epoch: jax.Array
    history: jax.Array


_EpochFn = Callable[[_State, Images, Images], _State]


def train_base(
    recipe: Recipe,
    archive: Archive,
    folder: Path,
    on_epoch: Callable[[int, np.ndarray], None] = lambda *_: None,
    seconds_between_saves: float = 60,
) -> Base:
    """Train the old model, from the last checkpoint in `folder` if there is one.

    Args:
      recipe: how to train it.
      archive: CIFAR-10.
      folder: where checkpoints are kept. The model itself, which is all that is needed later, is in `finished`.
      on_epoch: is told how many epochs are over and the last line of the history.
      seconds_between_saves: checkpoints are at least so far apart, but for the last.

    Raises:
      OtherRecipeError: the folder's checkpoint is of another recipe, or of other images.
    """
    _check_recipe(recipe, archive, folder)
    finished = folder.absolute() / "finished"
    backbone = network(recipe.network, compute_dtype())
    with ocp.StandardCheckpointer() as checkpointer:
        if not finished.exists():
            state = _train(recipe, backbone, archive, folder, on_epoch, seconds_between_saves)
            kept = {"params": state.best_params, "history": state.history, "epochs": state.epoch}
            checkpointer.save(finished, jax.tree.map(np.array, kept))
            checkpointer.wait_until_finished()
        with readable(finished):
            model = checkpointer.restore(finished, jax.eval_shape(functools.partial(_model, recipe, backbone)))
    test = jax.device_put(archive.test)
    score = jax.jit(functools.partial(accuracy, backbone))(model["params"], test.pixels, test.labels)
    epochs = int(model["epochs"])
    history = np.asarray(model["history"][:epochs])
    return Base(model["params"], float(score), epochs, _is_flat(recipe, epochs, history), history)


def _model(recipe: Recipe, backbone: nn.Module) -> dict[str, Any]:
    """What a finished model is kept as, before any training."""
    params = init_params(backbone, CLASSES, jax.random.key(recipe.seed))
    return {"params": params, "history": jnp.full((recipe.epochs, 3), jnp.nan), "epochs": jnp.zeros((), jnp.int32)}


def _train(
    recipe: Recipe,
    backbone: nn.Module,
    archive: Archive,
    folder: Path,
    on_epoch: Callable[[int, np.ndarray], None],
    seconds_between_saves: float,
) -> _State:
    train, held_out = (jax.device_put(images) for images in _split(archive.train, recipe.seed))
    tx = _optimizer(recipe, len(train.labels) // recipe.batch)
    epoch_fn = jax.jit(_epoch_fn(recipe, backbone, tx))
    with ocp.CheckpointManager(folder.absolute() / "checkpoints", options=_keep_last()) as manager:
        state = _start(manager, recipe, backbone, tx)
        saved = time.monotonic()
        while not _is_over(recipe, state):
            state = jax.block_until_ready(epoch_fn(state, train, held_out))
            if _is_over(recipe, state) or time.monotonic() - saved >= seconds_between_saves:
                # Copies, so that what is written in the background is nobody else's memory.
                manager.save(int(state.epoch), args=ocp.args.StandardSave(jax.tree.map(np.array, state._asdict())))
                saved = time.monotonic()
            on_epoch(int(state.epoch), np.asarray(state.history[state.epoch - 1]))
    return state


def _check_recipe(recipe: Recipe, archive: Archive, folder: Path) -> None:
    path = folder / _RECIPE
    asked = {**recipe._asdict(), "train_images": len(archive.train.labels)}
    if path.exists():
        with readable(path):
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        if found != asked:
            different = ", ".join(
                f"{name} {found.get(name)} and not {value}" for name, value in asked.items() if found.get(name) != value
            )
            raise OtherRecipeError(f"{folder} holds a model with {different}: name another folder, or delete this one.")
    write_text(path, json.dumps(asked) + "\n")


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


def _keep_last() -> Any:
    return ocp.CheckpointManagerOptions(max_to_keep=1)


def _start(manager: Any, recipe: Recipe, backbone: nn.Module, tx: optax.GradientTransformation) -> _State:
    """The last checkpoint's state, or the first state of all."""
    params, history, epochs = _model(recipe, backbone).values()
    state = _State(params, tx.init(params), params, epochs, history)
    last = manager.latest_step()
    if last is None:
        return state
    with readable(manager.directory / str(last)):
        return _State(**manager.restore(last, args=ocp.args.StandardRestore(state._asdict())))


def _is_flat(recipe: Recipe, epochs: int, history: chex.Array) -> bool:
    """Whether the lowest held-out loss of the last `patience` epochs is no lower than that before."""
    if recipe.patience is None or epochs <= recipe.patience:
        return False
    before, last = np.split(np.asarray(history[:epochs, 1]), [epochs - recipe.patience])
    return bool(np.min(last) > (1 - _FALL) * np.min(before))


def _best_epoch(history: chex.Array) -> jax.Array:
    """The first of those with the lowest held-out loss, which is NaN for epochs to come."""
    losses = history[:, 1]
    return jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))


def _is_over(recipe: Recipe, state: _State) -> bool:
    return int(state.epoch) >= recipe.epochs or _is_flat(recipe, int(state.epoch), state.history)


def _epoch_fn(recipe: Recipe, backbone: nn.Module, tx: optax.GradientTransformation) -> _EpochFn:
    def loss_fn(params: chex.ArrayTree, pixels: jax.Array, labels: jax.Array) -> jax.Array:
        outputs = logits(backbone, params, pixels)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))

    def epoch(state: _State, train: Images, held_out: Images) -> _State:
        order_key, key = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), state.epoch))
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
        loss, correct = _held_out_scores(backbone, params, held_out)
        history = state.history.at[state.epoch].set(jnp.stack([jnp.mean(losses), loss, correct]))
        better = (recipe.patience is None) | (_best_epoch(history) == state.epoch)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state.best_params)
        return _State(params, opt_state, best, state.epoch + 1, history)

    return epoch


def _held_out_scores(backbone: nn.Module, params: chex.ArrayTree, held_out: Images) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy."""
    outputs = logits_in_chunks(backbone, params, held_out.pixels)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, held_out.labels)
    return jnp.mean(losses), jnp.mean(jnp.argmax(outputs, axis=-1) == held_out.labels)
