"""Rows of metrics, beside the float64 projections of Algorithm 1, and the picture of them."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matplotlib.colors import to_rgba

from profit_optax import eval_params, orthogonalize, profit, profit_transparent, reject_nonfinite
from profit_optax.integrations.nnx import update_arguments
from profit_optax.recording import Recorder, plot_metrics, read_metrics
from profit_optax.training import make_train_step
from tests import regression
from tests.algorithm1 import Adam, Profit, Sgd, float64, inner
from tests.forms import one_line
from tests.recurrence import OneLine

EPS = float(jnp.finfo(jnp.float32).eps)
N_REF = 2
MAIN, REFERENCE = optax.adamw(0.03, weight_decay=0.1), optax.sgd(0.02)
FORMS = {
    "closure": profit(MAIN, REFERENCE, N_REF),
    "guarded closure": reject_nonfinite(optax.chain(profit(MAIN, REFERENCE, N_REF)), 3),
    "transparent": profit_transparent(MAIN, REFERENCE, N_REF),
}
NAMES = [
    "cosine",
    "conflict",
    "removed",
    "displacement_norm",
    "gradient_norm",
    "params_norm",
    "relative_displacement",
]


def recorded(tx, data, **options):
    """The rows of a run in which everything is donated."""
    train_step = make_train_step(regression.loss_fn, tx)
    params = regression.params()
    state = tx.init(params)
    recorder = Recorder(**options)
    for step in range(data["x"].shape[0]):
        params, state, metrics = train_step(params, state, {name: x[step] for name, x in data.items()})
        recorder.record(step, state, params, loss=metrics["loss"])
    return recorder.rows


def assert_row(row, projection, theta):
    share = 1 - inner(projection.gradient, projection.gradient) / projection.gradient_norm**2
    norm = inner(theta, theta) ** 0.5
    expected = {
        "cosine": projection.cosine,
        "conflict": projection.conflict,
        "removed": share,
        "displacement_norm": projection.displacement_norm,
        "gradient_norm": projection.gradient_norm,
        "params_norm": norm,
        "relative_displacement": projection.displacement_norm / norm,
    }
    for name in row.keys() - {"step", "loss"}:
        np.testing.assert_allclose(row[name], expected[name], rtol=1000 * EPS, atol=1000 * EPS)


@pytest.mark.parametrize("name", FORMS)
def test_rows_are_what_algorithm_1_saw(name):
    data = regression.data(8, N_REF + 1)
    rows = recorded(FORMS[name], data)
    algorithm, theta = Profit(Adam(0.03, weight_decay=0.1), Sgd(0.02), N_REF), float64(regression.params())
    data = float64(data)
    for i, row in enumerate(rows):
        batches = [{name: x[i, j] for name, x in data.items()} for j in range(N_REF + 1)]
        theta = algorithm.step(theta, regression.gradient, batches)
        assert list(row) == ["step", *NAMES, "loss"]
        assert_row(row, algorithm.projections[-1], theta)
    assert {projection.conflict for projection in algorithm.projections} == {True, False}


def test_rows_of_the_one_line_have_no_displacement_of_weights():
    data = regression.data(8, 1)
    rows = recorded(one_line(MAIN), data)
    line = OneLine(float64(regression.params()), Adam(0.03, weight_decay=0.1))
    data = float64(data)
    for i, row in enumerate(rows):
        line.step(regression.gradient, {name: x[i, 0] for name, x in data.items()})
        assert list(row) == ["step", *NAMES[:-1], "loss"]
        assert_row(row, line.projections[-1], line.theta)
    assert {projection.conflict for projection in line.projections} == {True, False}


def test_inside_of_a_cycle_the_norm_is_that_of_the_undisplaced_parameters():
    tx = profit_transparent(optax.sgd(0.1), optax.sgd(10.0))
    params = {"w": jnp.array([3.0, 4.0])}
    updates, state = tx.update({"w": jnp.array([1.0, 0.0])}, tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert params["w"].tolist() == [-7.0, 4.0]
    assert float(read_metrics(state, params)["params_norm"]) == 5.0


def test_norms_are_added_up_wide_and_count_what_is_frozen_but_no_integers():
    params = {"w": jnp.full(3, 200.0, jnp.float16), "frozen": jnp.full(1, 400.0), "n": jnp.array(7)}
    tx = profit(optax.sgd(0.1), optax.sgd(0.1), mask={"w": True, "frozen": False, "n": False})
    metrics = read_metrics(tx.init(params), params)
    np.testing.assert_allclose(metrics["params_norm"], (3 * 200.0**2 + 400.0**2) ** 0.5, rtol=4 * EPS)
    assert {value.dtype for value in metrics.values()} == {jnp.dtype(jnp.float32)}


def test_the_removed_share_is_that_of_the_gradient_in_its_own_norm():
    g, delta = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([-1.0, 0.0])}
    projected, metrics = orthogonalize(g, delta)
    tx = one_line(optax.identity())
    params = {"w": jnp.zeros(2)}
    _, state = tx.update(jax.tree.map(jnp.negative, delta), tx.init(params), params)
    updates, state = tx.update(g, state, params)
    np.testing.assert_array_equal(updates["w"], projected["w"])
    assert bool(metrics.conflict)
    row = read_metrics(state, params)
    np.testing.assert_allclose(row["removed"], 9 / 25, rtol=8 * EPS)


def test_what_agrees_has_nothing_removed():
    tx = one_line(optax.identity())
    params = {"w": jnp.zeros(2)}
    state = tx.init(params)
    for sign in (1.0, -1.0):
        _, state = tx.update({"w": jnp.array([sign, 0.0])}, state, params)
    row = read_metrics(state, params)
    assert (float(row["cosine"]), float(row["conflict"]), float(row["removed"])) == (1.0, 0.0, 0.0)


def test_a_gradient_that_is_not_finite_shows():
    tx = one_line(optax.identity())
    params = {"w": jnp.zeros(2)}
    state = tx.init(params)
    for bad in (1.0, np.nan):
        _, state = tx.update({"w": jnp.array([bad, 0.0])}, state, params)
    row = read_metrics(state, params)
    assert np.isnan(row["cosine"])
    assert np.isnan(row["removed"])


def test_parameters_of_0_have_a_relative_displacement_of_0():
    tx = profit(optax.sgd(0.1), optax.sgd(0.1))
    params = {"w": jnp.zeros(2)}
    assert float(read_metrics(tx.init(params), params)["relative_displacement"]) == 0


def test_what_was_read_outlives_the_donated_state():
    tx = one_line(optax.sgd(0.1))
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    read = read_metrics(state, params)
    jax.jit(lambda *x: jax.tree.map(jnp.copy, x), donate_argnums=(0, 1))(state, params)
    assert {name: float(value) for name, value in read.items()}["cosine"] == 0


def test_reading_is_part_of_a_program_where_it_is_wanted():
    tx = one_line(optax.sgd(0.1))
    params = {"w": jnp.ones(2)}
    state = tx.init(params)
    outside, inside = read_metrics(state, params), jax.jit(read_metrics)(state, params)
    assert outside.keys() == inside.keys()
    for name, value in outside.items():
        np.testing.assert_allclose(value, inside[name], rtol=4 * EPS)


def test_nnx_optimizers_are_read_as_they_are():
    def loss_fn(model, x):
        return jnp.mean((model(x) - jnp.sum(x, axis=-1, keepdims=True)) ** 2)

    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, profit(optax.sgd(0.1), optax.sgd(0.01)), wrt=nnx.Param)
    x = jax.random.normal(jax.random.key(0), (2, 8, 4))
    grads = nnx.grad(loss_fn)(model, x[0])
    optimizer.update(model, grads, **update_arguments(loss_fn, model, x[1:], wrt=nnx.Param))
    row = Recorder().record(0, optimizer.opt_state, nnx.state(model, nnx.Param))
    assert row["cosine"] == float(optax.tree.get(optimizer.opt_state, "cosine")[...])
    assert row["cosine"] < 0
    weights = [np.asarray(w) for w in jax.tree.leaves(nnx.state(model, nnx.Param))]
    np.testing.assert_allclose(row["params_norm"], np.sqrt(sum(np.sum(w**2) for w in weights)), rtol=8 * EPS)


def test_several_forms_have_no_one_row():
    tx = optax.partition({"a": one_line(optax.sgd(0.1)), "b": one_line(optax.sgd(0.1))}, {"v": "a", "w": "b"})
    params = {"v": jnp.ones(2), "w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"one form of PROFIT, got 2.*inner_states"):
        read_metrics(tx.init(params), params)


def test_other_optimizers_have_no_rows():
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="got tuple without one"):
        Recorder().record(0, optax.sgd(0.1).init(params), params)


def test_vmapped_runs_are_recorded_one_by_one():
    tx = one_line(optax.sgd(0.1))
    params = {"w": jnp.ones((3, 2))}
    state = jax.vmap(tx.init)(params)
    with pytest.raises(ValueError, match=r"cosine must be a scalar, got shape \(3,\).*vmap"):
        Recorder().record(0, state, params)
    row = Recorder().record(0, *jax.tree.map(lambda x: x[0], (state, params)))
    np.testing.assert_allclose(row["params_norm"], 2**0.5, rtol=4 * EPS)


def test_rows_are_kept_at_every_so_many_steps_and_go_on_from_others():
    data = regression.data(7, N_REF + 1)
    every = recorded(FORMS["closure"], data)
    some = recorded(FORMS["closure"], data, every=3, rows=[{"step": -3, "cosine": 0.5}])
    assert some == [{"step": -3, "cosine": 0.5}, every[0], every[3], every[6]]


def test_rows_are_numbers_that_json_can_hold():
    rows = recorded(FORMS["closure"], regression.data(3, N_REF + 1))
    assert {type(value) for row in rows for value in row.values()} == {int, float}
    assert json.loads(json.dumps(rows)) == rows


def test_the_second_row_compiles_nothing(compilations):
    tx, params = one_line(optax.sgd(0.1)), {"w": jnp.ones(5)}
    state, recorder = tx.init(params), Recorder()
    recorder.record(0, state, params)
    before = len(compilations)
    assert before, "the counter must count for this to say anything"
    recorder.record(1, state, params)
    assert len(compilations) == before


@pytest.mark.parametrize(
    ("every", "error", "message"),
    [(0, ValueError, "every must be at least 1, got 0"), (2.0, TypeError, "every must be an int, got 2.0")],
)
def test_a_recorder_says_what_is_wrong_with_its_interval(every, error, message):
    with pytest.raises(error, match=message):
        Recorder(every)


def some_rows(removed, **more):
    return [
        {"step": 10 * i, "cosine": -(share**0.5), "conflict": 1.0, "removed": share, "relative_displacement": 1e-4}
        | {name: values[i] for name, values in more.items()}
        for i, share in enumerate(removed)
    ]


def shaded(figure):
    """From where to where the picture is shaded, on each panel."""
    orange = to_rgba("#D55E00", 0.13)
    return [
        [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches if p.get_facecolor() == orange]
        for axes in figure.axes
    ]


def test_the_picture_has_a_panel_for_what_the_rows_have(tmp_path):
    rows = some_rows([0.2] * 12, loss=np.linspace(1, 0.1, 12))
    figure = plot_metrics(rows, tmp_path / "metrics.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "cosine of Δ and g", "share", "‖Δ‖ / ‖θ‖"]
    points = figure.axes[0].lines[0]
    np.testing.assert_array_equal(points.get_xdata(), [row["step"] for row in rows])
    np.testing.assert_array_equal(points.get_ydata(), [row["loss"] for row in rows])
    assert (tmp_path / "metrics.png").read_bytes().startswith(b"\x89PNG")
    bare = [{name: row[name] for name in ("step", "cosine", "conflict", "removed")} for row in rows]
    assert [axes.get_ylabel() for axes in plot_metrics(bare).axes] == ["cosine of Δ and g", "share"]


def test_rows_may_lack_what_others_have():
    rows = some_rows([0.2] * 12)
    rows[3] |= {"loss": 0.5}
    rows[5] |= {"loss": None}
    assert plot_metrics(rows).axes[0].lines[0].get_xdata().tolist() == [30]


def test_stretches_in_which_nearly_all_is_removed_are_shaded_and_explained():
    figure = plot_metrics(some_rows([0.1] * 20 + [0.97] * 30 + [0.1] * 20))
    # Windows of a row and five on either side, all of them above: a single row of 0.1 brings a mean below 0.9.
    assert shaded(figure) == [[(250, 440)]] * 3
    assert "collapse" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("removed", [[0.89] * 50, [0.97] * 9, [0.1, 0.97] * 20], ids=["less", "too few", "by turns"])
def test_other_runs_are_not_shaded(removed):
    figure = plot_metrics(some_rows(removed))
    assert shaded(figure) == [[]] * 3
    assert not figure.axes[0].get_title(loc="left")


def test_a_picture_needs_rows():
    with pytest.raises(ValueError, match=r"got 1 rows without one.*Recorder\.rows"):
        plot_metrics([{"step": 0, "loss": 1.0}])


def test_without_matplotlib_the_error_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="compare"):
        plot_metrics(some_rows([0.1]))


def test_recording_alone_needs_no_matplotlib():
    code = "import sys, profit_optax.recording; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_the_parameters_of_a_row_are_those_to_evaluate():
    data = regression.data(1, N_REF)  # stops within a cycle
    tx = FORMS["transparent"]
    params = regression.params()
    state = tx.init(params)
    for i in range(N_REF):
        grads = jax.grad(regression.loss_fn)(params, {name: x[0, i] for name, x in data.items()})
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    theta = eval_params(state, params)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(theta)))
    np.testing.assert_allclose(read_metrics(state, params)["params_norm"], norm, rtol=8 * EPS)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"loss": "text"}, TypeError, "loss must be a real number, got 'text' of type str"),
        ({"loss": None}, TypeError, "loss must be a real number, got None"),
        ({"loss": 1j}, TypeError, "loss must be a real number"),
        ({"loss": np.ones(2)}, ValueError, "loss must be a scalar"),
        ({"cosine": 7.0}, ValueError, "cosine is what read_metrics measures"),
    ],
)
def test_a_row_takes_numbers_under_names_of_their_own(values, error, said):
    recorder, params = Recorder(), jnp.ones(2)
    with pytest.raises(error, match=said):
        recorder.record(0, profit(optax.sgd(0.1), optax.sgd(0.1)).init(params), params, **values)
    assert recorder.rows == []


@pytest.mark.parametrize("rows", [[{"cosine": 1.0}], [1, 2], "abc", {"step": 1}, [{"step": "one", "cosine": 1.0}]])
def test_rows_are_dictionaries_with_a_step(rows):
    for function in (plot_metrics, lambda rows: Recorder(rows=rows)):
        with pytest.raises(TypeError, match="rows must be"):
            function(rows)


def test_a_picture_needs_a_cosine():
    with pytest.raises(ValueError, match="rows must be dictionaries with step and cosine, got 1 rows without one"):
        plot_metrics([{"step": 1, "cosine": None}])
