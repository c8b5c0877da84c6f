"""A forecaster of one kind of agent that is to learn another kind."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.forgetting.tasks.motion.network import Forecaster, Futures
from benchmarks.forgetting.tasks.motion.windows import PAST, Split
from profit_optax import compare
from profit_optax.compare.batches import stream

# The paper's rate for the old model.
_RATE = 1e-3
# How far an error counts as its square, in metres.
_HUBER = 1.0


class Recipe(NamedTuple):
    """How the old model is trained.

    Attributes:
      steps: AdamW's, at a rate of 1e-3 that falls along a cosine.
      batch: windows for one gradient, here and in fine-tuning.
      width: of the network.
    """

    steps: int = 4000
    batch: int = 64
    width: int = 64


class Errors(NamedTuple):
    """Of the best of the futures, in metres, each a mean over windows.

    Attributes:
      ade: of the average distance over all times.
      fde: of the distance at the last time.
    """

    ade: jax.Array
    fde: jax.Array


def train_old(old: Split, recipe: Recipe, on_steps: Callable[[int], None] = lambda steps: None) -> chex.ArrayTree:
    """A forecaster of the old kind, after `recipe.steps` steps.

    Args:
      old: its windows.
      recipe: how it is trained.
      on_steps: is told how many steps were taken since last time.
    """
    network, params = Forecaster(recipe.width), init_params(recipe)
    tx = optax.adamw(optax.cosine_decay_schedule(_RATE, recipe.steps))

    @jax.jit
    def step(params: chex.ArrayTree, state: optax.OptState, batch: np.ndarray) -> tuple[Any, Any]:
        updates, state = tx.update(jax.grad(make_loss(network))(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state, stream = tx.init(params), batches(old.train, recipe.batch, 0, share=1.0)
    for number, batch in enumerate(itertools.islice(stream, recipe.steps), start=1):
        params, state = step(params, state, batch)
        if number % 100 == 0:
            on_steps(100)
    return params


def init_params(recipe: Recipe) -> chex.ArrayTree:
    """Where the old model begins."""
    params: chex.ArrayTree = Forecaster(recipe.width).init(jax.random.key(0), jnp.zeros((1, PAST, 2)))["params"]
    return params


def motion(name: str, params: chex.ArrayTree, old: Split, new: Split, recipe: Recipe, tuning: bool) -> compare.Task:
    """The task as a user would bring it to `compare`; scores are errors with a minus sign.

    A seed trains on a half of the new kind's training windows of its own, in its own order.

    Args:
      name: who is new.
      params: the old model.
      old: the old kind's windows.
      new: the new kind's.
      recipe: with the network's width and the batch.
      tuning: whether scores are on held-out windows in place of those for the report.
    """
    network = Forecaster(recipe.width)
    scored = {who: part.held_out if tuning else part.test for who, part in (("old", old), ("new", new))}

    @jax.jit
    def errors(params: chex.ArrayTree, windows: jax.Array) -> Errors:
        return best_of(network.apply({"params": params}, windows[:, :PAST]), windows[:, PAST:])

    def evaluate(params: chex.ArrayTree) -> dict[str, float]:
        found = {who: errors(params, windows) for who, windows in scored.items()}
        return {who: -float(each.ade) for who, each in found.items()} | {
            f"{who} fde": -float(each.fde) for who, each in found.items()
        }

    return compare.Task(
        params,
        make_loss(network),
        lambda seed: batches(new.train, recipe.batch, seed, share=0.5),
        evaluate,
        head=lambda params: {part: part == "head" for part in params},
        name=name,
    )


def make_loss(network: Forecaster) -> Callable[[chex.ArrayTree, jax.Array], jax.Array]:
    """The error of the future that comes nearest, and the cross-entropy of telling which one that is."""

    def loss(params: chex.ArrayTree, windows: jax.Array) -> jax.Array:
        futures: Any = network.apply({"params": params}, windows[:, :PAST])
        truth = windows[:, None, PAST:]
        distance = jnp.mean(optax.huber_loss(futures.positions, truth, delta=_HUBER), axis=(2, 3))
        nearest = jnp.argmin(distance, axis=1)
        told = optax.softmax_cross_entropy_with_integer_labels(futures.logits, nearest)
        return jnp.mean(jnp.min(distance, axis=1)) + 0.1 * jnp.mean(told)

    return loss


def best_of(futures: Any, truth: jax.Array) -> Errors:
    """The errors of each window's best future, for ADE and for FDE apart, against positions [n, 12, 2]."""
    assert isinstance(futures, Futures)
    distance = jnp.linalg.norm(futures.positions - truth[:, None], axis=-1)
    ade, fde = jnp.mean(distance, axis=-1), distance[..., -1]
    return Errors(jnp.mean(jnp.min(ade, axis=1)), jnp.mean(jnp.min(fde, axis=1)))


def constant_velocity(windows: np.ndarray) -> Errors:
    """What going on as in the last 0.4 s gets, to know how good a forecaster is."""
    step = windows[:, PAST - 1] - windows[:, PAST - 2]
    ahead = windows[:, PAST - 1, None] + step[:, None] * np.arange(1, windows.shape[1] - PAST + 1)[:, None]
    return best_of(Futures(jnp.asarray(ahead[:, None]), jnp.zeros((len(windows), 1))), jnp.asarray(windows[:, PAST:]))


def batches(windows: np.ndarray, size: int, seed: int, share: float) -> Iterator[np.ndarray]:
    """Windows [size, 20, 2], endlessly, out of a share of all that the seed draws."""
    drawn = np.random.default_rng(seed).permutation(len(windows))[: round(share * len(windows))]
    return stream("batches", windows[drawn], size, seed)
