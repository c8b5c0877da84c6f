"""The whole command at toy size, and what its tables say."""

import functools
import json

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from benchmarks.forgetting.experiments.cifar import report, setups
from benchmarks.forgetting.experiments.cifar.arms import Arm, Outcome, arms, measure
from benchmarks.forgetting.methods.optimizers import adamw
from benchmarks.forgetting.runner import Run
from benchmarks.forgetting.tasks import Scores, Task
from benchmarks.forgetting.tasks.cifar.base import Base, Recipe
from tests.benchmarks import cifar_toy
from tests.benchmarks.cifar_archives import write_cifar10, write_cifar100
from tests.benchmarks.commands import OWN, invoke

TOY = setups.Setup(
    base=Recipe("toy", epochs=1, rate=1e-2, batch=8),
    rates=(1e-3, 3e-3),
    steps=4,
    tune_gradients=4,
    batch=4,
    train_images=24,
    test_images=5,
    evaluations=2,
    level=0.5,
)
BASE = Base({}, 0.85, 3, True, np.zeros((3, 3)))
MADE = {"command": "c", "machine": "m", "versions": {"jax": "0"}, "quick": False, "wall_seconds": 1.0}
ABOUT = {**MADE, "dtype": "float32", "parameters": 7, "seeds": 2}


@pytest.fixture
def compilation_cache():
    """What the command says about compiled programs is not for the tests after it."""
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    reset_cache()


@pytest.fixture
def toy(monkeypatch, tmp_path, compilation_cache):
    """Arguments of a run on small archives."""
    cifar_toy.add_toy_network(monkeypatch)
    monkeypatch.setitem(setups.SETUPS, "toy", TOY)
    for write in (write_cifar10, write_cifar100):
        write(tmp_path / "data", count=24, test=6)
    return "--data", tmp_path / "data", "--task", "toy", "--output", tmp_path / "out"


def test_the_command_trains_tunes_and_writes_tables_and_goes_on_where_it_was(toy, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    options = "--seeds", 2, "--methods", f"n_ref2,adamw,{tmp_path / 'own.py'}:lion", "--rates", "1e-3"
    first = invoke("cifar", *toy, *options)
    assert first.exit_code == 0, first.output
    page = (tmp_path / "out" / "cifar.md").read_text(encoding="utf-8")
    assert page.startswith("# CIFAR-10 → CIFAR-100, toy: not converged\n")
    assert "## Optimizers (the paper's Tables 2, 6 and 10): not converged\n" in page
    assert "| PROFIT, n_ref 2 | 32.55 / 73.57 | " in page
    assert (tmp_path / "out" / "cifar.png").stat().st_size > 1000
    content = json.loads((tmp_path / "out" / "cifar.json").read_text())
    runs = [outcome["run"] for outcome in content["outcomes"]]
    assert [run["method"] for run in runs] == ["AdamW", "PROFIT, n_ref 2", "Lion"]
    assert [run["steps"] for run in runs] == [[0, 2, 4]] * 3
    assert page.index("## Your own") < page.index("| Lion |")
    assert np.shape(runs[0]["old"]) == (2, 3)
    again = invoke("cifar", *toy, *options)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "out" / "cifar.json").read_text())["outcomes"] == content["outcomes"]


def test_a_quick_run_says_that_it_measures_nothing(toy, tmp_path):
    result = invoke("cifar", *toy, "--quick", "--methods", "adamw,profit")
    assert result.exit_code == 0, result.output
    assert "of CIFAR-10's test images after 1 epochs; held-out loss not flat; not converged." in result.output
    assert "Its numbers mean nothing" in result.stdout
    content = json.loads((tmp_path / "out" / "cifar.json").read_text())
    assert (content["quick"], content["seeds"], content["setup"]["rates"]) == (True, 2, [1e-3])


def test_lengths_and_sizes_are_those_that_are_asked_for(toy, tmp_path):
    asked = "--seeds", 2, "--methods", "adamw", "--rates", "2e-3", "--steps", 3, "--batch", 6, "--base-epochs", 2
    result = invoke("cifar", *toy, *asked)
    assert result.exit_code == 0, result.output
    assert "after 2 epochs" in result.output
    content = json.loads((tmp_path / "out" / "cifar.json").read_text())
    assert content["outcomes"][0]["run"]["steps"][-1] == 3
    assert content["outcomes"][0]["run"]["setting"]["rate"] == 2e-3
    assert (content["setup"]["batch"], content["setup"]["base"]["epochs"]) == (6, 2)


def test_wrong_arguments_end_the_command_with_a_reason(toy, tmp_path):
    assert "'vgg' is none of small" in invoke("cifar", "--data", tmp_path, "--task", "vgg", "--output", tmp_path).output
    result = invoke("cifar", "--data", tmp_path, "--output", tmp_path / "out")
    assert (result.exit_code, "is missing: get the archive" in result.output) == (1, True)
    assert invoke("cifar", *toy, "--batch", 25).exit_code == 2


def test_the_papers_network_has_its_rates_and_epochs_as_defaults():
    setup = setups.SETUPS[report.PAPERS_NETWORK]
    assert (setup.base.network, setup.base.epochs, setup.base.rate) == ("resnet18", 200, 1e-4)
    assert (setup.rates, setup.steps // (50_000 // 128)) == ((1e-4,), 100)
    assert setup.level < min(new for _, new in report.PAPER.values()) / 100


def quadratic_task(seeds):
    """Two numbers are learnt; the new score is minus the distance from one, the old score the second number."""
    params = {"backbone": np.ones((len(seeds), 2), np.float32), "head": np.zeros((len(seeds), 2), np.float32)}
    return Task(
        name="quadratic",
        seeds=np.asarray(seeds),
        data=np.zeros(8, np.float32),
        train=np.tile(np.arange(8), (len(seeds), 1)),
        held_out=np.zeros(len(seeds)),
        params=jax.tree.map(jax.numpy.asarray, params),
        batch=lambda data, indices, key: data[indices],
        loss=lambda params, batch: ((params["head"] - 1) ** 2).sum() + (params["backbone"] ** 2).sum(),
        evaluate=lambda params, data, held_out: Scores(params["backbone"][0], params["head"][0]),
        head={"backbone": False, "head": True},
        fresh_head=True,
    )


def test_every_arm_can_be_set_to_what_it_is_tuned_over_as_often_as_any_other():
    task = quadratic_task([0])
    by_key = arms((1e-3, 1e-2, 1e-1), steps=10)
    assert len(by_key) == len({arm.method.name for arm in by_key.values()}) == 16
    params = jax.tree.map(lambda x: x[0], task.params)
    for arm in by_key.values():
        settings = arm.method.settings()
        assert len(settings) == (1 if arm.like else 3)
        setting = {**(arm.like or arm).method.settings()[0], **settings[0]}
        arm.method.optimizer({**setting, "task": task}).init(params)
    optimizers = ["adamw", "profit", "adamw2", "one_line", "sgd", "lookahead", "adan"]
    keys = [*optimizers, "n_ref2", "n_ref5", "ratio100", "ratio1000", "ratio10000"]
    assert list(by_key)[:12] == keys
    assert [by_key[key].method.gradients for key in keys] == [1, 2, 2, 1, 1, 1, 1, 3, 6, 2, 2, 2]
    assert by_key["ratio1000"].method.settings() == [{"ratio": 1000.0}]


def test_an_arm_is_run_at_the_best_of_its_rates_and_an_ablation_at_its_models():
    setup = TOY._replace(steps=10, tune_gradients=10, level=0.5)
    tuning, task = quadratic_task([100]), quadratic_task([0, 1])
    first = Arm("first", "n_ref", adamw(2)._replace(grid=(("rate", (1e-3, 0.2)), ("ratio", (10.0,)))))
    second = Arm("second", "n_ref", adamw()._replace(grid=(("ratio", (100.0,)),)), like=first)
    told = []
    run = functools.partial(measure, tuning, task, setup=setup)
    outcomes = list(run(arms=[first, second], on_run=told.append))
    # Only the higher rate gets the head half of the way to one in so few steps.
    assert [outcome.run.setting for outcome in outcomes] == [
        {"rate": 0.2, "ratio": 10.0},
        {"rate": 0.2, "ratio": 100.0},
    ]
    assert [tried.rate for tried in outcomes[0].tried] == [1e-3, 0.2]
    assert outcomes[1].tried == []
    # As many gradients for every arm in tuning, as many steps in what is reported.
    assert {tried.steps[-1] for tried in outcomes[0].tried} == {5}
    assert {outcome.run.steps[-1] for outcome in outcomes} == {10}
    assert {outcome.run.old.shape for outcome in outcomes} == {(2, 3)}
    assert told == [first.method.name, second.method.name]
    (alone,) = run(arms=[second])
    assert alone.run.setting == outcomes[1].run.setting


def run_of(method, rate, old, new):
    """A run of two seeds over ten steps, whose second seed keeps a hundredth more."""
    old, new = np.array([old, old], float), np.array([new, new], float)
    old[1] += 0.01
    return Run(method, {"rate": rate}, 1, np.array([0, 10]), old, new, {}, 1.0)


def outcomes():
    by_key = arms((1e-3,), steps=10)
    runs = {
        "adamw": run_of("AdamW", 1e-3, [0.9, 0.5], [0.0, 0.8]),
        "profit": run_of("PROFIT", 1e-3, [0.9, 0.7], [0.0, 0.5]),
        "one_line": run_of("PROFIT one line", 1e-3, [0.9, 0.8], [0.0, 0.4]),
        "ratio100": run_of("PROFIT, ratio 100", 1e-3, [0.9, 0.6], [0.0, 0.6]),
    }
    return [Outcome(by_key[key], [], run) for key, run in runs.items()]


def cells(page, table, method):
    section = page.split(f"## {table}")[1].split("##")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_line_has_the_papers_figure_the_ends_and_the_old_accuracy_at_the_level():
    page = report.markdown(BASE, outcomes(), TOY, ABOUT)
    # A t interval of two seeds that are one point apart is 6.4 wide on either side; paired, they are not apart.
    _, published, old, new, at, minus, steps = cells(page, "Optimizers", "PROFIT")
    assert (published, old, new, at) == ("35.26 / 74.70", "70.5 ± 6.4", "50.0 ± 0.0", "70.5 ± 6.4")
    # AdamW is at 50 % after 10 · 5/8 steps, at 90 - 40 · 5/8 = 65 %.
    assert (minus, steps) == ("+5.0 ± 0.0", "10")
    expected = ["34.64 / 73.11", "50.5 ± 6.4", "80.0 ± 0.0", "65.5 ± 6.4", "", "6"]
    assert cells(page, "Optimizers", "AdamW")[1:] == expected


def test_what_does_not_reach_the_level_is_shown_as_not_reached():
    page = report.markdown(BASE, outcomes(), TOY, ABOUT)
    assert cells(page, "Optimizers", "PROFIT one line")[4:] == ["not reached by 2 of 2 seeds", "", ""]


def test_ablations_stand_below_what_they_change():
    page = report.markdown(BASE, outcomes(), TOY, ABOUT)
    ratio = page.split("## Main rate divided by reference rate (Table 9)")[1]
    assert ratio.index("| PROFIT |") < ratio.index("| PROFIT, ratio 100 | 35.16 / 74.45 |")
    assert "Reference steps" not in page


def test_the_page_says_which_parameters_of_the_old_model_were_kept():
    for patience, kept in (
        (10, "those with the lowest held-out loss, which was flat for 10 epochs"),
        (None, "the last"),
    ):
        setup = TOY._replace(base=TOY.base._replace(patience=patience))
        assert f"kept are {kept}" in report.markdown(BASE, outcomes(), setup, ABOUT)


def test_titles_say_so_where_the_old_model_is_not_converged():
    page = report.markdown(BASE, outcomes(), TOY, ABOUT)
    assert "not converged" not in page
    page = report.markdown(BASE._replace(accuracy=0.79), outcomes(), TOY, ABOUT)
    titles = [line for line in page.splitlines() if line.startswith("#")]
    assert len(titles) == 3
    assert all(line.endswith(": not converged") for line in titles)


def test_the_page_says_how_many_of_the_tried_settings_reached_the_level():
    first, *others = outcomes()
    tried = [run_of("AdamW", rate, [0.9, 0.5], [0.0, new]) for rate, new in ((1e-3, 0.5), (3e-3, 0.49), (1e-2, 0.6))]
    page = report.markdown(BASE, [first._replace(tried=tried), *others], TOY, ABOUT)
    assert "AdamW rate 1e-3 (out of 1e-3, 3e-3, 1e-2; 2 reached the level)" in page
    assert "PROFIT, ratio 100 rate 1e-3 (as profit)" in page
