"""A task and a method in one small file of their own run in demo, frontier and compare."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.forgetting.compared import as_arm, as_task
from benchmarks.forgetting.runner import Trial, batch_order, evenly, run_all
from benchmarks.forgetting.tasks import Scores
from profit_optax.compare import METHODS, CompareError, Setting, compare, from_optimizer
from profit_optax.compare.files import load
from tests.benchmarks.commands import invoke

OWN = '''"""Mirrored digits, and Lion."""

import optax

from benchmarks.forgetting.compared import as_task
from benchmarks.forgetting.tasks.digits import transformed_digits
from profit_optax.compare import from_optimizer


def mirrored(seeds):
    return transformed_digits("mirrored digits", seeds, lambda images, labels: (images[:, :, ::-1], labels))


def one_model():
    return as_task(mirrored([0]), batch=16)


lion = from_optimizer("Lion", lambda rate: optax.lion(rate / 10))
'''

pytestmark = pytest.mark.usefixtures("linear_models")


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    assert len(OWN.splitlines()) <= 25
    return path


@pytest.mark.parametrize("experiment", ["demo", "frontier", "warmup"])
def test_an_experiment_runs_a_task_and_a_method_of_a_file(own, tmp_path, experiment):
    options = ["--quick", "--task", f"{own}:mirrored", "--methods", f"AdamW,{own}:lion", "--output", tmp_path]
    result = invoke(experiment, *options)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / f"{experiment}.json").read_text())
    assert {row["method"] for row in content["summary"]} == {"AdamW", "Lion"}
    assert "Lion" in result.output


def test_runs_of_a_file_that_has_changed_are_not_taken_for_its_own(own, tmp_path):
    options = ["--quick", "--methods", f"AdamW,{own}:lion", "--output", tmp_path]
    results = [invoke("frontier", *options) for _ in range(2)]
    assert [result.exit_code for result in results] == [0, 0], results
    own.write_text(OWN.replace("rate / 10", "rate / 20"))
    changed = invoke("frontier", *options)
    assert changed.exit_code == 1
    assert f"{own}: was" in changed.stderr
    assert invoke("frontier", *options[:-1], tmp_path / "empty").exit_code == 0
    # The demo keeps no runs.
    demo = [*options[:-1], tmp_path / "demo"]
    assert invoke("demo", *demo).exit_code == 0
    own.write_text(OWN)
    assert invoke("demo", *demo).exit_code == 0


def test_compare_runs_them(own):
    module, task = load(f"{own}:one_model")
    result = compare(task(), ["adamw", module.lion, "lwf", "ewc"], rates=[1e-3], gradients=12, seeds=2)
    assert [curve.method for curve in result.curves] == ["AdamW", "Lion", "LwF 0.3", "EWC 1000"]
    assert result.about["task"] == "mirrored digits"


def test_an_arm_takes_the_course_that_compare_takes(own):
    """The same method of compare's, in one program with all seeds, and with a batch order of its own for one."""
    module, _ = load(f"{own}:lion")
    kernel = lambda params: params["params"]["Dense_0"]["kernel"]  # noqa: E731
    scores = lambda params, *_: Scores(jnp.sum(kernel(params)), jnp.sum(kernel(params) ** 2))  # noqa: E731
    task = module.mirrored([0, 1])._replace(evaluate=scores)
    pulls = [METHODS["lwf"](1e4, optax.sgd), METHODS["ewc"](1e4, optax.sgd)]
    made = [METHODS["profit"](), METHODS["one_line"](), from_optimizer("plain", optax.sgd), *pulls]
    runs = run_all(task, [Trial(as_arm(method), {"rate": 0.01}, evenly(3, 3)) for method in made], 16)
    for method, run in zip(made, runs, strict=True):
        for i in range(2):
            theirs = as_task(task, 16, i)
            order = batch_order(jax.random.fold_in(jax.random.key(i), 2), 6, 16, task.train.shape[1])
            given = [task.batch(task.data, task.train[i][at], None) for at in order]
            params = jax.tree.map(lambda x, i=i: x[i], task.params)
            tx = optax.with_extra_args_support(method.optimizer(Setting(0.01, 3, theirs)))
            kept = method.keep(theirs) if method.keep else None
            vag = jax.jit(jax.value_and_grad(method.loss(theirs, kept) if method.loss else theirs.loss))
            state, course = tx.init(params), []
            for n in range(3):
                first, *others = given[n * method.gradients : (n + 1) * method.gradients]
                others = jax.tree.map(lambda *x: jnp.stack(x), *others) if others else None
                extra = {"value_and_grad_fn": vag, "batches": others} if method.closure else {}
                updates, state = tx.update(vag(params, first)[1], state, params, **extra)
                params = optax.apply_updates(params, updates)
                course.append(theirs.evaluate(method.eval_params(state, params))["new"])
            np.testing.assert_allclose(run.new[i, 1:], course, rtol=1e-5)
    plain, *pulled = runs[2:]
    felt = [np.abs(run.new / plain.new - 1)[:, -1].min() for run in pulled]
    assert min(felt) > 1e-3, felt


def test_what_cannot_be_an_arm_says_so():
    for name in ("wise_ft", "head_first"):
        with pytest.raises(CompareError, match=r"runs in profit_optax\.compare alone"):
            as_arm(METHODS[name]())


def test_a_task_without_what_a_method_needs_is_an_error(own):
    module, _ = load(f"{own}:lion")
    task = module.mirrored([0])._replace(outputs=None)
    with pytest.raises(CompareError, match=r"LwF 0\.3 needs outputs, which the task 'mirrored digits' has not"):
        run_all(task, [Trial(as_arm(METHODS["lwf"]()), {"rate": 1e-3}, evenly(1, 1))], 16)


def test_a_task_s_seeds_are_models_of_their_own(own):
    _, mirrored = load(f"{own}:mirrored")
    both = mirrored([0, 1])
    first, second = (as_task(both, 16, i).params["params"]["Dense_0"]["kernel"] for i in range(2))
    assert (first != second).any()
