"""Public weights of residual networks: what they compute, against the same written down in NumPy."""

import jax
import numpy as np
import pytest

from benchmarks.forgetting.tasks.arrays import ArraysError
from benchmarks.forgetting.tasks.cifar.pretrained import load, logits
from tests.benchmarks.public_weights import random_weights


def convolved(x, kernel, stride):
    """Images [n, in, h, w] and a kernel [out, in, 3, 3], by the definition."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nihwab,oiab->nohw", windows, kernel)


def normalised(x, weights, name):
    scale, bias, mean, variance = (
        weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def reference(weights, images):
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = x.transpose(0, 3, 1, 2)
    x = np.maximum(normalised(convolved(x, weights["conv1.weight"], 1), weights, "bn1"), 0)
    for stage in (1, 2, 3):
        for i in sorted({name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")}):
            block = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == "0" else 1
            y = convolved(x, weights[f"{block}.conv1.weight"], stride)
            y = np.maximum(normalised(y, weights, f"{block}.bn1"), 0)
            y = normalised(convolved(y, weights[f"{block}.conv2.weight"], 1), weights, f"{block}.bn2")
            if stride == 2:
                zeros = np.zeros_like(x[:, : x.shape[1] // 2, ::2, ::2])
                x = np.concatenate([zeros, x[:, :, ::2, ::2], zeros], axis=1)
            x = np.maximum(x + y, 0)
    return x.mean(axis=(2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.parametrize("blocks", [1, 2])
def test_outputs_are_those_of_the_published_network(tmp_path, blocks):
    weights = random_weights(blocks)
    np.savez(tmp_path / "weights.npz", **weights)
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    params, statistics = load(tmp_path / "weights.npz")
    found = jax.jit(logits)(params, statistics, images)
    expected = reference(weights, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_every_number_of_the_file_is_trained_but_for_the_statistics(tmp_path):
    weights = random_weights(3)
    np.savez(tmp_path / "weights.npz", **{f"module.{name}": array for name, array in weights.items()})
    params, statistics = load(tmp_path / "weights.npz")
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, statistics)]
    running = sum(x.size for name, x in weights.items() if "running" in name)
    assert sizes == [sum(x.size for x in weights.values()) - running, running]


def test_a_file_that_is_missing_or_lacks_an_array_is_named(tmp_path):
    with pytest.raises(ArraysError, match=r"weights\.npz cannot be read"):
        load(tmp_path / "weights.npz")
    weights = random_weights(1)
    del weights["layer2.0.bn2.running_var"]
    np.savez(tmp_path / "weights.npz", **weights)
    with pytest.raises(ArraysError, match=r"has no 'layer2\.0\.bn2\.running_var'"):
        load(tmp_path / "weights.npz")
