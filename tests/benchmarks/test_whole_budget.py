"""Whole fine-tunings: the methods' schedules and parts, how rates are picked, and the tables."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.forgetting.experiments import vision
from benchmarks.forgetting.experiments.whole_budget import arms
from benchmarks.forgetting.experiments.whole_budget.arms import Ablation
from benchmarks.forgetting.experiments.whole_budget.measure import TUNING_SEED, Plan, Size, best, measure
from benchmarks.forgetting.experiments.whole_budget.report import Score, tables
from profit_optax import compare, orthogonalize
from profit_optax.compare import Setting, comparison

rng = np.random.default_rng(0)
X = rng.normal(size=(64, 3))
SCORES = (Score("new error", "new", scale=-1, places=3),)
PARAMS = {"backbone": jnp.ones(3), "head": jnp.array(0.5)}


def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["backbone"] + params["head"] - y) ** 2)


def make_task(slope=2.0, scored=None):
    old, new = ((X, X @ np.full(3, each)) for each in (1.0, slope))

    def evaluate(params):
        if scored is not None:
            scored.append(params)
        return {"old": -float(loss(params, old)), "new": -float(loss(params, new))}

    return compare.Task(PARAMS, loss, new, evaluate, head={"backbone": False, "head": True}, batch_size=8)


def ends(method, task, steps, rate=0.05):
    """The parameters after a whole run, taken step by step."""
    tx = optax.with_extra_args_support(method.optimizer(Setting(rate, steps, task)))
    params, state, every = task.params, tx.init(task.params), []
    batches = [(X[i : i + 8], X[i : i + 8] @ np.full(3, 2.0)) for i in range(0, 64, 8)]
    stream = itertools.cycle(batches)
    for _ in range(steps):
        first, *others = itertools.islice(stream, method.gradients)
        grads, extra = jax.grad(loss)(params, first), {}
        if method.closure:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *others)
            extra = {"value_and_grad_fn": jax.value_and_grad(loss), "batches": stacked}
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        every.append(updates)
    return params, every


def test_rates_fall_to_nothing_at_the_end_of_the_run():
    setting = Setting(0.1, 20, make_task())
    schedule = arms.cosine(setting)
    assert [float(schedule(step)) for step in (0, 10, 20)] == pytest.approx([0.1, 0.05, 0], abs=1e-8)


def test_profit_is_adamw_on_the_last_batch_in_its_warm_up_and_projects_afterwards():
    task, steps = make_task(), 20
    method = arms.profit(1, 10.0)
    tx = method.optimizer(Setting(0.05, steps, task))
    main = optax.adamw(arms.cosine(Setting(0.05, steps, task)))
    params, state, main_state = PARAMS, tx.init(PARAMS), main.init(PARAMS)
    batches = [(X[i : i + 8], X[i : i + 8] @ np.full(3, 2.0)) for i in (0, 8)]
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], batches[1])
    for step in range(5):
        grads = jax.grad(loss)(params, batches[0])
        updates, state = tx.update(grads, state, params, value_and_grad_fn=jax.value_and_grad(loss), batches=stacked)
        if step < 2:  # a tenth of 20
            grads = jax.grad(loss)(params, batches[1])
        else:
            rate = 0.05 / 10 * 0.5 * (1 + np.cos(np.pi * step / steps))
            delta = optax.tree.scale(-rate, grads)
            second = jax.grad(loss)(optax.apply_updates(params, delta), batches[1])
            grads, _ = orthogonalize(second, delta)
        expected, main_state = main.update(grads, main_state, params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-7), updates, expected)
        params = optax.apply_updates(params, updates)


def test_the_one_line_is_adamw_in_its_warm_up_and_something_else_afterwards():
    task = make_task()
    (_, line), (_, plain) = (ends(method, task, 20) for method in (arms.one_line(), arms.adamw()))
    jax.tree.map(np.testing.assert_array_equal, line[:2], plain[:2])
    assert not np.allclose(line[3]["backbone"], plain[3]["backbone"], rtol=1e-3)


def test_head_only_moves_nothing_but_the_head():
    params, _ = ends(arms.head_only(), make_task(), 10)
    np.testing.assert_array_equal(params["backbone"], PARAMS["backbone"])
    assert params["head"] != PARAMS["head"]


PART = {"backbone": False, "head": True}
ON_PART = [*arms.usual(True, 10.0, lambda params: PART), arms.adamw_slower(lambda params: PART).method]


@pytest.mark.parametrize("method", [each for each in ON_PART if not each.points], ids=lambda method: method.name)
def test_a_part_moves_alone(method):
    params, _ = ends(method, make_task(), 10)
    np.testing.assert_array_equal(params["backbone"], PARAMS["backbone"])
    assert params["head"] != PARAMS["head"]


def test_lookahead_is_evaluated_halfway_to_where_the_fast_weights_are_after_five_steps():
    method, setting = arms.lookahead(), Setting(0.05, 20, make_task())
    tx, inner = method.optimizer(setting), optax.adamw(arms.cosine(setting))
    params, state, fast, inner_state = PARAMS, tx.init(PARAMS), PARAMS, inner.init(PARAMS)
    for _ in range(5):
        jax.tree.map(np.testing.assert_array_equal, method.eval_params(state, params), PARAMS)
        grads = jax.grad(loss)(fast, (X, X @ np.full(3, 2.0)))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, inner_state = inner.update(grads, inner_state, fast)
        fast = optax.apply_updates(fast, updates)
    halfway = jax.tree.map(lambda start, end: (start + end) / 2, PARAMS, fast)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), method.eval_params(state, params), halfway)


@pytest.mark.parametrize("fresh", [True, False])
def test_the_pull_is_to_the_start_and_leaves_a_fresh_head_alone(fresh):
    tx = arms.l2_sp(fresh).optimizer(Setting(0.1, 10, make_task()))
    state, zeros = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS)
    moved = jax.tree.map(lambda p: p + 1, PARAMS)
    updates, _ = tx.update(zeros, state, moved)
    assert np.all(np.asarray(updates["backbone"]) < -0.05)
    assert (float(updates["head"]) < -0.05) is not fresh


def plan(**changes):
    profit, baseline = arms.profit(1, 10.0), arms.adamw()
    methods = [baseline, profit, arms.sgd(), arms.halfway()]
    size = Size(None, (1e-4, 1e-2, 1e-1), gradients=40, evaluations=4)
    made = Plan(methods, [baseline], profit, size, seeds=(0, 1))
    return made._replace(**changes)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return measure(make_task(1.5), make_task(), plan(), tmp_path_factory.mktemp("out"))


def test_each_method_is_reported_at_the_rate_that_was_best_in_tuning(outcome):
    for curve in outcome.whole.curves:
        if curve.along == "steps":
            finals = outcome.tried[curve.method]
            assert curve.rate == max(finals, key=lambda rate: finals[rate].new)
            assert len(finals) == 3
    rates = {curve.method: curve.rate for curve in outcome.whole.curves}
    assert rates["WiSE-FT 0.5 of AdamW"] == rates["AdamW"]
    assert TUNING_SEED not in outcome.whole.about["seeds"]


def test_the_smaller_budget_has_as_many_steps_as_profit(outcome):
    steps = {curve.method: curve.positions[-1] for curve in outcome.whole.curves}
    assert steps["PROFIT"] == 20
    (fewer,) = outcome.fewer.curves
    assert (fewer.method, fewer.positions[-1], fewer.gradients[-1]) == ("AdamW", 20, 20)


def test_an_ablation_takes_the_rate_of_profit_which_is_tuned_even_where_it_is_not_asked_for(tmp_path):
    ours = dataclasses.replace(arms.profit(1, 10.0), rate_factor=0.5)
    changed = Ablation(dataclasses.replace(arms.profit(3, 10.0), name="PROFIT, n_ref 3"), ours)
    few = plan(methods=[arms.adamw()], fewer=[], steps_of=ours, ablations=[changed])
    outcome = measure(make_task(1.5), make_task(), few, tmp_path)
    assert [*outcome.tried] == ["AdamW", "PROFIT"]
    adamw, ablation = outcome.whole.curves
    assert (ablation.method, ablation.positions[-1]) == ("PROFIT, n_ref 3", 10)
    assert ablation.rate == best(outcome.tried["PROFIT"]) != adamw.rate
    assert "At the rate of PROFIT: PROFIT, n_ref 3." in tables(outcome, few, SCORES, {})


def test_adamw_at_a_third_of_its_rate_is_tuned_by_nothing_else(tmp_path):
    slower = arms.adamw_slower()
    outcome = measure(make_task(1.5), make_task(), plan(fewer=[], ablations=[slower]), tmp_path)
    assert [*outcome.tried] == ["AdamW", "PROFIT", "SGD"]
    adamw, lower = (next(c for c in outcome.whole.curves if c.method == m.name) for m in (slower.of, slower.method))
    assert lower.rate == pytest.approx(adamw.rate / 3)
    own, plain = (ends(method, make_task(), 10)[0] for method in (slower.method, arms.adamw()))
    jax.tree.map(np.testing.assert_array_equal, own, plain)


def test_a_rate_that_is_too_high_is_below_all_others_and_lower_ones_are_tried_where_all_are(tmp_path, monkeypatch):
    size = Size(None, (1e-2, 1e30), gradients=20, evaluations=1)
    steep = dataclasses.replace(arms.sgd(), rate_factor=1e4)
    few = plan(methods=[arms.adamw(), steep], fewer=[], size=size)
    outcome = measure(make_task(1.5), make_task(), few, tmp_path)
    finite, failed = outcome.tried["AdamW"].items()
    assert (finite[0], *finite[1]) == (1e-2, pytest.approx(-3, abs=3), pytest.approx(-3, abs=3))
    assert failed == (1e30, (-np.inf, -np.inf))
    assert [*outcome.tried["SGD"]] == pytest.approx([1e1, 1e2, 1e34])
    assert [np.isfinite(final.new) for final in outcome.tried["SGD"].values()] == [True, False, False]
    assert outcome.whole.curves[1].rate == pytest.approx(10.0)
    text = tables(outcome, few, SCORES, {})
    assert re.search(r"^\| AdamW \| \*\*1e-2: [\d.]+\*\* \| 1e\+30: not finite \|  \|$", text, re.MULTILINE)
    assert "Not finite, and so below all others: AdamW at 1e+30, SGD at 1e+2, SGD at 1" in text
    assert "Where none was finite, 0.1 and then 0.01 of the lowest rate was tried." in text
    # Nor are they run again.
    trained, real = [], comparison.train
    monkeypatch.setattr(comparison, "train", lambda *args, **options: trained.append(args) or real(*args, **options))
    assert measure(make_task(1.5), make_task(), few, tmp_path).tried == outcome.tried
    assert not trained


def test_a_method_that_is_finite_at_no_rate_is_named(tmp_path):
    few = plan(methods=[arms.adamw()], fewer=[], size=Size(None, (1e30,), gradients=20, evaluations=1))
    with pytest.raises(compare.CompareError, match=r"AdamW is finite at no rate from 1e\+28 to 1e\+30: leave it out"):
        measure(make_task(1.5), make_task(), few, tmp_path)


def test_a_score_that_is_not_finite_is_one_of_a_rate_that_is_too_high(tmp_path):
    task = make_task(1.5)

    def evaluate(params):
        return {name: score if score > -50 else -np.inf for name, score in task.evaluate(params).items()}

    few = plan(methods=[arms.adamw()], fewer=[], size=Size(None, (1e-2, 1e3), gradients=20, evaluations=1))
    outcome = measure(dataclasses.replace(task, evaluate=evaluate), make_task(), few, tmp_path)
    assert [np.isfinite(final.new) for final in outcome.tried["AdamW"].values()] == [True, False]


def test_a_method_that_is_not_finite_where_it_is_reported_is_left_out_and_said_so(tmp_path, monkeypatch):
    task, size = make_task(), Size(None, (1e-2,), gradients=20, evaluations=2)
    # Finite where it is tuned, as a rate may be that one seed picked.
    wild = compare.Method("wild", lambda setting: optax.sgd(np.inf if setting.task is task else setting.rate))
    lost = dataclasses.replace(arms.halfway(), points=lambda start, end: [(0.5, optax.tree.full_like(end, np.nan))])
    few = plan(methods=[arms.adamw(), wild, arms.sgd(), lost], fewer=[arms.adamw(), wild], size=size)
    outcome = measure(make_task(1.5), task, few, tmp_path)
    assert [curve.method for curve in outcome.whole.curves] == ["AdamW", "SGD"]
    assert sorted(outcome.failed) == [("WiSE-FT 0.5 of AdamW", 1e-2), ("wild", 1e-2)]
    assert outcome.failed_fewer == [("wild", 1e-2)]
    whole, fewer = tables(outcome, few, SCORES, {"SGD": "as published"}).split("### As many steps")
    assert re.search(r"^\| wild \| 1e-2 \|  \|  \| not finite on a seed \|  \|  \|$", whole, re.MULTILINE)
    assert re.search(r"^\| wild \| 1e-2 \|  \|  \| not finite on a seed \|  \|$", fewer, re.MULTILINE)
    # Nor is it run again.
    trained, real = [], comparison.train
    monkeypatch.setattr(comparison, "train", lambda *args, **options: trained.append(args) or real(*args, **options))
    assert measure(make_task(1.5), task, few, tmp_path).failed == outcome.failed
    # Nor is it named where it is not asked for.
    fewer = plan(methods=[arms.adamw(), arms.sgd()], fewer=[], size=size)
    assert measure(make_task(1.5), task, fewer, tmp_path).failed == []
    assert not trained


def test_without_a_baseline_that_is_finite_there_is_no_report(tmp_path):
    task = make_task()
    wild = dataclasses.replace(
        arms.adamw(), optimizer=lambda setting: optax.sgd(np.inf if setting.task is task else setting.rate)
    )
    few = plan(methods=[wild, arms.sgd()], fewer=[], size=Size(None, (1e-2,), gradients=20, evaluations=1))
    with pytest.raises(compare.CompareError, match=r"not finite with AdamW at rate 0\.01, seed 0"):
        measure(make_task(1.5), task, few, tmp_path)


def test_nothing_is_advised_where_runs_are_scored_at_their_end_alone(tmp_path):
    few = plan(methods=[arms.adamw()], fewer=[], size=Size(None, (1e-2,), gradients=20, evaluations=1))
    measure(make_task(1.5), make_task(), few, tmp_path)
    assert not [*tmp_path.rglob("compare.*")]


@pytest.mark.parametrize(
    "changed",
    [each.method for each in arms.changed_profit(vision.RATIO, (2, 5), (10.0, 100.0))],
    ids=lambda method: method.name,
)
def test_an_ablation_is_not_what_it_changes(changed):
    usual = arms.profit(1, vision.RATIO)
    steps = [ends(method, make_task(), 20, rate=0.5)[1] for method in (changed, usual)]
    apart = [
        max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in zip(*steps, strict=True)
    ]
    assert max(apart) > 1e-4
    # Warmed up, the first of twenty steps is AdamW's, and a displacement makes no difference to it.
    assert (apart[0] > 1e-4) == (changed.name in ("PROFIT, no warm-up", "PROFIT, n_ref 2", "PROFIT, n_ref 5"))


def test_what_is_done_is_not_done_again_and_more_seeds_are_added(tmp_path):
    scored = []
    first = measure(make_task(1.5), make_task(scored=scored), plan(), tmp_path)
    count = len(scored)
    again = measure(make_task(1.5), make_task(scored=scored), plan(), tmp_path)
    assert len(scored) == count
    assert again.tried == first.tried
    more = measure(make_task(1.5), make_task(scored=scored), plan(seeds=(0, 1, 2)), tmp_path)
    assert len(scored) > count
    np.testing.assert_array_equal(more.whole.curves[0].new[:2], first.whole.curves[0].new)


def test_tables_have_ends_paired_differences_and_the_papers_figures(outcome):
    text = tables(outcome, plan(), SCORES, {"PROFIT": "as published"})
    adamw, profit = (next(c for c in outcome.whole.curves if c.method == name) for name in ("AdamW", "PROFIT"))
    ends, gaps = -profit.new[:, -1], adamw.new[:, -1] - profit.new[:, -1]
    spread = 12.706 / 2  # Student's t for two seeds, over the root of 2, times half of their distance times that root
    line = next(line for line in text.splitlines() if line.startswith("| PROFIT |"))
    assert f"| {ends.mean():.3f} ± {spread * abs(ends[0] - ends[1]):.3f} |" in line
    assert f"| {gaps.mean():+.3f} ± {spread * abs(gaps[0] - gaps[1]):.3f} |" in line
    assert line.endswith("| as published |")
    assert f"new error {-outcome.whole.about['start']['new']:.3f}" in text


def test_tuning_is_shown_with_what_it_kept_of_the_old_task_at_each_rate(outcome):
    text = tables(outcome, plan(), [*SCORES, Score("old error", "old", scale=-1, places=2)], {})
    head, _, *lines = text.split("### Tuning: one seed")[1].strip().split("\n\n")[0].splitlines()
    assert head.startswith("| method | rate: new error, old error |")
    assert [line.split(" | ")[0] for line in lines] == ["| AdamW", "| PROFIT", "| SGD"]
    finals = outcome.tried["AdamW"]
    cells = [f"{rate:.0e}: {-final.new:.3f}, {-final.old:.2f}".replace("e-0", "e-") for rate, final in finals.items()]
    picked = [*finals].index(best(finals))
    cells[picked] = f"**{cells[picked]}**"
    assert lines[0] == f"| AdamW | {' | '.join(cells)} |"


def test_profit_stands_beside_what_takes_as_many_steps_and_where_it_ends_all_are_compared(outcome):
    text = tables(outcome, plan(), SCORES, {})
    taken = ", ".join(f"{count:g}" for count in outcome.whole.curves[0].gradients[1:-1])
    levels, there = text.split("### Old at equal new")[1].split("And at the new score with which PROFIT ends")
    assert f"taken after {taken} and 40 gradients." in levels
    assert len(re.findall(r"^ -[\d.]+ +AdamW ", levels, re.MULTILINE)) == len(outcome.whole.levels)
    profit = next(curve for curve in outcome.whole.curves if curve.method == "PROFIT")
    alone = outcome.fewer.curves[0]
    gap = np.mean(alone.new[:, -1] - profit.new[:, -1])
    _, fewer = text.split("### As many steps as PROFIT: 20 gradients")
    line = next(line for line in fewer.splitlines() if line.startswith("| PROFIT |"))
    assert f"| {gap:+.3f} ±" in line
    there = there.split("```")[1]
    (row,) = (line for line in there.splitlines() if " PROFIT " in line)
    assert "not reached" not in row
    assert f"{profit.new[:, -1].min():.4g}" in there
    # Nothing is compared at a level below the start.
    sunk = [curve._replace(new=curve.new - 100) if curve is profit else curve for curve in outcome.whole.curves]
    whole = dataclasses.replace(outcome.whole, curves=sunk)
    assert "with which PROFIT ends" not in tables(outcome._replace(whole=whole), plan(), SCORES, {})
