"""A thousand examples for a pretrained network: which ones they are, what is scored, and the command."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.forgetting.__main__ import app
from benchmarks.forgetting.experiments import vision
from benchmarks.forgetting.tasks.cifar import few_examples as few_examples_module
from benchmarks.forgetting.tasks.cifar.few_examples import (
    CLASSES,
    KINDS,
    drawn,
    few_examples,
    first_classes,
    head_and_adapters,
    recoloured,
    rotated,
)
from benchmarks.forgetting.tasks.cifar.pretrained import Pretrained, load, logits
from tests.benchmarks import cifar_toy
from tests.benchmarks.cifar_toy import HUNDRED, SIZES, TEN
from tests.benchmarks.parts import assert_moves_nothing_outside
from tests.benchmarks.public_weights import random_weights

SLOWER = "AdamW, a third of the rate"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    np.savez(path, **random_weights(1))
    return load(path)


def first_batches(task, seed, count):
    return list(itertools.islice(task.batches(seed), count))


def accuracy(params, network, images, labels):
    return np.mean(np.argmax(jax.jit(logits)(params, network.statistics, images), axis=-1) == labels)


def test_new_images_are_turned_negated_or_of_other_classes():
    ten, hundred = TEN.train, HUNDRED.train
    turned = rotated(ten, hundred)
    np.testing.assert_array_equal(turned.pixels[3, 0, :], ten.pixels[3, :, -1])
    np.testing.assert_array_equal(turned.labels, ten.labels)
    np.testing.assert_array_equal(recoloured(ten, hundred).pixels.astype(int) + ten.pixels, 255)
    kept = first_classes(ten, hundred)
    assert sorted(set(kept.labels)) == list(range(CLASSES))
    assert len(kept.labels) == np.sum(hundred.labels < CLASSES)


def test_a_seed_draws_as_many_examples_of_each_class_and_others_than_the_next_seed():
    labels = np.arange(200) % 10
    first, again, other = (drawn(labels, 50, seed) for seed in (0, 0, 1))
    assert np.bincount(labels[first]).tolist() == [5] * 10
    assert len(set(first.tolist())) == 50
    np.testing.assert_array_equal(first, again)
    assert len(set(first.tolist()) & set(other.tolist())) < 40


def test_an_epoch_is_the_seeds_examples_and_none_of_them_is_held_out(network):
    task = few_examples("recoloured", network, TEN, HUNDRED, SIZES)
    epochs = first_batches(task, 0, 10)
    seen = [np.concatenate([images for images, _ in part]) for part in (epochs[:5], epochs[5:])]
    assert len(np.unique(seen[0], axis=0)) == 40
    np.testing.assert_array_equal(np.unique(seen[0], axis=0), np.unique(seen[1], axis=0))
    assert not np.array_equal(seen[0], seen[1])
    held_out = {image.tobytes() for image in 255 - TEN.train.pixels[-20:]}
    assert not held_out & {image.tobytes() for image in seen[0]}


def test_scores_are_of_the_old_head_and_of_the_new_one_on_the_tuned_backbone(network):
    task = few_examples("classes", network, TEN, HUNDRED, SIZES)
    moved = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(0), x.shape), task.params)
    old_params = {"backbone": moved["backbone"], "head": network.params["head"]}
    new = first_classes(TEN.test, HUNDRED.test)
    assert task.evaluate(moved) == {
        "old": pytest.approx(accuracy(old_params, network, TEN.test.pixels[:30], TEN.test.labels[:30])),
        "new": pytest.approx(accuracy(moved, network, new.pixels[:30], new.labels[:30])),
    }


def test_tuning_scores_held_out_training_images_with_one_head_for_both_tasks(network):
    task = few_examples("rotated", network, TEN, HUNDRED, SIZES, tuning=True)
    assert task.head is None
    held_out = rotated(TEN.train, HUNDRED.train)
    expected = accuracy(task.params, network, held_out.pixels[-20:], held_out.labels[-20:])
    assert task.evaluate(task.params)["new"] == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "classes"), [("classes", CLASSES), ("hundred", 100)])
def test_a_new_head_begins_at_zero_and_learns(network, kind, classes):
    task = few_examples(kind, network, TEN, HUNDRED, SIZES._replace(examples=2 * classes))
    (batch,) = first_batches(task, 0, 1)
    loss, grads = jax.value_and_grad(task.loss)(task.params, batch)
    assert float(loss) == pytest.approx(np.log(classes), rel=1e-5)
    assert float(jnp.max(jnp.abs(grads["head"]["kernel"]))) > 0


def test_adapters_meet_whatever_all_weights_meet():
    names = [[method.name for method in vision.methods_for(KINDS[kind])] for kind in ("adapters", "classes")]
    assert names[0] == names[1]


def test_through_adapters_no_method_moves_the_weights_beside_them(network):
    task = few_examples("adapters", network, TEN, HUNDRED, SIZES)
    methods = [method for method in vision.methods_for(KINDS["adapters"]) if not method.points]
    for method in [*methods, *(each.method for each in vision.ablations("adapters"))]:
        assert_moves_nothing_outside(method, head_and_adapters(task.params), task)


def test_adapters_change_nothing_at_first_and_are_all_that_learns_beside_the_head(network):
    task, plain = (few_examples(kind, network, TEN, HUNDRED, SIZES) for kind in ("adapters", "classes"))
    assert task.evaluate(task.params) == plain.evaluate(plain.params)
    (batch,) = first_batches(task, 0, 1)
    head = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(0), x.shape), task.params["head"])
    grads = jax.grad(task.loss)(task.params | {"head": head}, batch)
    learning = jax.tree.map(lambda x, inside: bool(np.any(np.asarray(x))) and inside, grads, head_and_adapters(grads))
    assert all(jax.tree.leaves(learning["head"]))
    assert sum(jax.tree.leaves(learning["backbone"])) == 7  # a convolution at the stem, and two of each stage


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("classes", ["head only", SLOWER]),
        ("rotated", [SLOWER]),
        ("hundred", ["head only", SLOWER, "PROFIT, ratio 10", "PROFIT, ratio 100", "PROFIT, no warm-up"]),
    ],
)
def test_the_command_reports_both_scores_and_goes_on_where_it_was(tmp_path, monkeypatch, kind, more):
    for module in (few_examples_module, vision):
        monkeypatch.setattr(module, "logits", lambda params, _, images: cifar_toy.linear(params, images))
    for name, found in (("load", Pretrained(cifar_toy.linear_params(10), {})), ("cifar10", TEN), ("cifar100", HUNDRED)):
        monkeypatch.setattr(vision, name, lambda path, found=found: found)
    arguments = ["vision", "--data", "there", "--weights", "there", "--quick", "--task", kind, "--gradients", "200"]
    arguments += ["--rates", "2e-3", "--output", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "vision.md").read_text(encoding="utf-8")
    assert "out of 2e-3 (" in text
    assert re.search(r"already; \d+\.\d GiB at the peak; python", text)
    # Whose head is of zeros says the first class of all.
    assert f"right on {np.mean(TEN.test.labels == 0):.2%} of CIFAR-10's {len(TEN.test.labels)} test images" in text
    methods = ["AdamW", "AdamW x2", "PROFIT", "one line", "SGD", "Lookahead", "L2-SP 0.1", "WiSE-FT 0.5 of AdamW"]
    # PROFIT stands beside what takes as many steps, too.
    assert re.findall(r"^\| ([^|]+) \|.* 200 \|", text, re.MULTILINE) == [*methods, *more, "PROFIT"]
    assert re.findall(r"^\| (PROFIT, n_ref .) \|.* 198 \| (\d+) \|", text, re.MULTILINE) == [
        ("PROFIT, n_ref 2", "66"),
        ("PROFIT, n_ref 5", "33"),
    ] * (kind == "hundred")
    runs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*")}
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("runs/*")} == runs
