"""A network of ImageNet that is to learn something new from a thousand examples, as in VTAB-1K.

What is left of ImageNet is seen on images that no training here sees: those of CIFAR-10, which the old head tells apart
by groups of its classes.
"""

from collections.abc import Mapping
from types import MappingProxyType

import chex
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting.tasks.cifar.archives import Archive, Images
from benchmarks.forgetting.tasks.cifar.few_examples import (
    CLASSES,
    Kind,
    Sizes,
    both,
    first_classes,
    fresh,
    from_few,
    rotated,
)
from benchmarks.forgetting.tasks.imagenet.grey import digits, fashion
from benchmarks.forgetting.tasks.imagenet.network import Pretrained, logits
from profit_optax import compare

# From a class of CIFAR-10 to those of ImageNet's thousand that are its kinds in WordNet 3.0: all that is below the noun
# that follows. No deer is among them, so that images of deer are left out, and only one horse, a sorrel.
GROUPS: Mapping[int, tuple[int, ...]] = MappingProxyType(
    {
        0: (404, 895),  # heavier-than-air craft
        1: (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),  # car; the minivan, which is below truck, too, is here
        2: (*range(7, 25), *range(80, 101), *range(127, 147)),  # bird
        3: tuple(range(281, 288)),  # true cat
        5: tuple(range(151, 269)),  # dog
        6: (30, 31, 32),  # frog, toad
        7: (339,),  # horse
        8: (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 833, 871, 913, 914),  # vessel, watercraft
        9: (555, 569, 675, 717, 734, 864, 867),  # truck
    }
)

# Images of a forward pass when scoring: more of them are slower.
_CHUNK = 50

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "fashion": Kind("Fashion-MNIST", True, lambda ten, hundred: fashion()),
        "classes": Kind(f"{CLASSES} classes of CIFAR-100", True, both(first_classes)),
        "digits": Kind("scikit-learn's digits", True, lambda ten, hundred: digits()),
        "rotated": Kind("CIFAR-10 turned by 90 degrees", True, both(rotated)),
    }
)


def few_examples(
    kind: str, network: Pretrained, ten: Archive, hundred: Archive, sizes: Sizes, tuning: bool = False
) -> compare.Task:
    """The task as a user would bring it to `compare`.

    Old scores are of the old head, on the tuned backbone, with the classes of CIFAR-10; the new head begins at zero.
    Everything else is as in `benchmarks.forgetting.tasks.cifar.few_examples`.

    Args:
      kind: one of `KINDS`.
      network: what is fine-tuned.
      ten: CIFAR-10.
      hundred: CIFAR-100.
      sizes: how much of the images is used.
      tuning: whether new scores are on held-out training images in place of test images.
    """
    title, fresh_head, made, _ = KINDS[kind]
    new, old_head = made(ten, hundred), network.params["head"]
    head = fresh(old_head, len(np.unique(new.train.labels)))
    params = {"backbone": network.params["backbone"], "head": head}

    def outputs(params: chex.ArrayTree, images: jax.Array) -> jax.Array:
        return logits(network, params, images)

    def old_outputs(params: chex.ArrayTree, images: jax.Array) -> jax.Array:
        return grouped(outputs({"backbone": params["backbone"], "head": old_head}, images))

    old = with_groups(ten.test)
    return from_few(title, params, outputs, new, old_outputs, old, sizes, tuning, fresh_head, _CHUNK)


def grouped(logits: jax.Array) -> jax.Array:
    """Unnormalised logarithms of the probabilities of groups, [n, groups], from those of classes."""
    sums = [jax.nn.logsumexp(logits[:, np.array(members)], axis=-1) for members in GROUPS.values()]
    return jnp.stack(sums, axis=-1)


def with_groups(images: Images) -> Images:
    """Those of CIFAR-10 whose classes have a group, with the group's place as their label."""
    classes = np.array(list(GROUPS))
    among = np.flatnonzero(np.isin(images.labels, classes))
    return Images(images.pixels[among], np.searchsorted(classes, images.labels[among]).astype(np.int32))
