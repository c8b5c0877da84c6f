import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from profit_optax import eval_params, profit, profit_transparent, reject_nonfinite
from tests import forms, regression
from tests.forms import one_line
from tests.integrations.pure import as_pure

FORMS = {
    "transparent": lambda main: profit_transparent(main, optax.sgd(0.05), n_ref=2),
    "transparent, warmed up": lambda main: profit_transparent(main, optax.sgd(0.05), n_ref=2, warmup_steps=1),
    "one-line": lambda main: one_line(main, optax.sgd(0.05)),
    "one-line, warmed up": lambda main: one_line(main, optax.sgd(0.05), warmup_steps=2),
}
TRAINED = {"w": True, "b": False, "v": True}
LABELS = {"w": "train", "b": "freeze", "v": "train"}


def partition(tx):
    return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, LABELS)


def inject(tx):
    return optax.inject_hyperparams(lambda max_delta: optax.chain(optax.clip(max_delta), tx))(lambda count: 10.0)


WRAPPERS = {
    "nothing": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(10.0), optax.chain(optax.identity(), tx)),
    "inject_hyperparams": inject,
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "reject_nonfinite": lambda tx: reject_nonfinite(tx, 3),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "partition": partition,
    "masked": lambda tx: optax.masked(tx, TRAINED),
    "all of them": lambda tx: optax.apply_if_finite(
        optax.MultiSteps(optax.chain(inject(partition(reject_nonfinite(tx, 3)))), 2).gradient_transformation(), 3
    ),
}


def history(tx, calls):
    """Before each call: the parameters and what `eval_params` says. After it: what the main optimizer last saw."""
    batches = jax.tree.map(lambda x: x[:, 0], regression.data(calls, 1))

    def call(carry, batch):
        params, state = carry
        before = params, eval_params(state, params)
        updates, state = tx.update(jax.grad(regression.loss_fn)(params, batch), state, params)
        after = optax.tree.get(state, "seen"), optax.tree.get(state, "steps")
        return (optax.apply_updates(params, updates), state), (before, after)

    params = regression.params()
    (params, theta), (seen, steps) = jax.jit(lambda c: jax.lax.scan(call, c, batches))((params, tx.init(params)))[1]
    return params, theta, seen, steps


@pytest.mark.parametrize(
    ("wrapper", "form"),
    [(wrapper, "transparent") for wrapper in WRAPPERS]
    + [(wrapper, "transparent, warmed up") for wrapper in ("nothing", "MultiSteps")],
)
def test_it_is_what_the_next_main_step_starts_from_bit_for_bit_at_every_call(wrapper, form):
    tx = WRAPPERS[wrapper](FORMS[form](forms.seeing(optax.sgd(0.1))))
    params, theta, seen, steps = history(tx, calls=16)
    calls = np.searchsorted(steps, np.r_[0, steps[:-1]], side="right")  # the next main call, at or after each call
    checked = calls < len(steps)
    assert np.count_nonzero(checked) > 10
    frozen = {name for name in seen if isinstance(seen[name], optax.MaskedNode)}
    assert frozen == ({"b"} if wrapper in ("partition", "masked", "all of them") else set())
    for name in theta:
        expected = params[name] if name in frozen else seen[name][np.where(checked, calls, 0)]
        np.testing.assert_array_equal(theta[name][checked], expected[checked])
    assert not np.array_equal(theta["w"], params["w"])


def test_before_the_first_call_it_is_the_callers_parameters():
    params = {"w": jnp.arange(3.0)}
    for make in FORMS.values():
        state = make(optax.sgd(0.1)).init({"w": jnp.ones(3)})
        forms.assert_same(eval_params(state, params), params)


def test_each_state_of_a_vmapped_one_is_at_its_own_moment():
    tx = optax.apply_if_finite(profit_transparent(optax.sgd(0.5), optax.sgd(0.25)), 3)
    call = jax.jit(jax.vmap(lambda g, s, p: tx.update(g, s, p)))
    theta = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    params, state = theta, jax.vmap(tx.init)(theta)
    # The first call of the second run is dropped, so that it is one call behind.
    for i in range(2):
        grads = jnp.array([[4.0, 0.0], [jnp.nan if i == 0 else 4.0, 0.0]])
        updates, state = call(grads, state, params)
        params = optax.apply_updates(params, updates)
        if i == 0:
            assert eval_params(state, params).tolist() == theta.tolist()
    # ω = −4 took all of the first run's gradient; the second run stands at θ + Δ.
    assert params.tolist() == [[1.0, 2.0], [2.0, 4.0]]
    assert eval_params(state, params).tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize("form", ["transparent", "one-line"])
def test_a_vmapped_state_gives_what_each_state_alone_gives(form):
    tx = FORMS[form](optax.sgd(0.1))
    starts = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), regression.params())
    state, params = jax.vmap(tx.init)(starts), starts

    @jax.jit
    def call(state, params):
        grads = jax.tree.map(jnp.cos, params)
        updates, state = jax.vmap(tx.update)(grads, state, params)
        return state, optax.apply_updates(params, updates)

    for _ in range(3):
        state, params = call(state, params)
        together = eval_params(state, params)
        for i in range(3):
            one = jax.tree.map(lambda x, i=i: x[i], (state, params))
            forms.assert_same(jax.tree.map(lambda x, i=i: x[i], together), eval_params(*one))


def test_forms_in_one_partition_are_undone_each_at_its_own_moment():
    tx = optax.partition(
        {
            "a": profit_transparent(optax.sgd(0.5), optax.sgd(0.25)),
            "b": profit_transparent(optax.sgd(0.5), optax.sgd(0.25), warmup_steps=1),
            "c": optax.sgd(0.5),
        },
        {"a": "a", "b": "b", "c": "c"},
    )
    params = dict.fromkeys("abc", jnp.array([1.0]))
    updates, state = jax.jit(tx.update)(dict.fromkeys("abc", jnp.array([4.0])), tx.init(params), params)
    params = optax.apply_updates(params, updates)
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, params)) == {"a": 0.0, "b": -1.0, "c": -1.0}
    theta = eval_params(state, params)
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, theta)) == {"a": 1.0, "b": -1.0, "c": -1.0}


class Model(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("form", ["transparent"])
def test_the_state_of_an_nnx_optimizer_gives_what_a_plain_one_gives(form):
    tx = FORMS[form](optax.sgd(0.1))
    model = Model()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = as_pure(nnx.state(model, nnx.Param))
    state = tx.init(params)

    @jax.jit
    def plain_step(state, params):
        updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        return state, optax.apply_updates(params, updates)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, jax.tree.map(jnp.cos, nnx.state(model, nnx.Param)))

    for i in range(4):
        step(model, optimizer)
        state, params = plain_step(state, params)
        held = nnx.state(model, nnx.Param)
        theta = eval_params(optimizer.opt_state, held)
        expected = eval_params(state, params)
        assert jax.tree.structure(theta) == jax.tree.structure(held)
        forms.assert_same(as_pure(theta), expected)
        forms.assert_same(eval_params(as_pure(optimizer.opt_state), as_pure(held)), expected)
        if i == 1:
            assert not np.array_equal(theta["linear"]["kernel"][...], held["linear"]["kernel"][...])
            evaluated = nnx.clone(model)
            nnx.update(evaluated, theta)
            np.testing.assert_array_equal(evaluated.linear.kernel[...], expected["linear"]["kernel"])


def test_it_works_inside_jit_and_keeps_the_tree_of_params():
    tx = profit_transparent(optax.sgd(0.1), optax.sgd(0.1))
    params = {"a": (jnp.ones(2), None), "b": [jnp.zeros((0, 3)), jnp.ones((), "bfloat16")]}
    state = jax.jit(tx.update)(params, tx.init(params), params)[1]
    theta = jax.jit(eval_params)(state, jax.tree.map(lambda x: x - 1, params))
    assert jax.tree.structure(theta) == jax.tree.structure(params)
    forms.assert_same(theta, params)


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.chain(reject_nonfinite(tx, 1))])
def test_the_closure_form_gives_the_parameters_as_they_are(wrap):
    tx, params = wrap(profit(optax.sgd(0.1), optax.sgd(0.1))), {"w": jnp.arange(3.0)}
    value_and_grad_fn = lambda p, _: (0.0, p)  # noqa: E731
    _, state = tx.update(params, tx.init(params), params, value_and_grad_fn=value_and_grad_fn, batches=())
    for opt_state in (tx.init(params), state):
        assert eval_params(opt_state, params)["w"] is params["w"]


@pytest.mark.parametrize("opt_state", [optax.adamw(0.1).init(jnp.ones(2)), optax.EmptyState(), (), None])
def test_a_state_without_profit_is_an_error(opt_state):
    with pytest.raises(ValueError, match="opt_state must hold the state of profit"):
        eval_params(opt_state, jnp.ones(2))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"v": jnp.ones(3)}, r"tree structure of params\.\n  expected: .*'v'.*\n  got: .*'w'"),
        ({"w": jnp.ones(3), "v": jnp.ones(3)}, r"tree structure of params\.\n  expected: .*'v'.*\n  got: .*'w'"),
        ({"w": {"deeper": jnp.ones(3)}}, r"tree structure of params\.\n  expected: .*'deeper'.*\n  got: .*'w'"),
        ({"w": jnp.ones(4)}, r"shapes of params: at \['w'\] expected \(4,\), got \(3,\)"),
        (None, r"tree structure of params"),
    ],
)
def test_parameters_of_another_tree_than_that_of_the_state_are_an_error(params, message):
    state = optax.chain(profit_transparent(optax.sgd(0.1), optax.sgd(0.1))).init({"w": jnp.ones(3)})
    with pytest.raises(ValueError, match=rf"(?s)θ in opt_state must have the {message}.*Pass the parameters that bel"):
        eval_params(state, params)


def test_a_leaf_of_another_shape_is_found_beside_masked_ones():
    tx = optax.partition(dict.fromkeys("ab", profit_transparent(optax.sgd(0.1), optax.sgd(0.1))), {"x": "a", "y": "b"})
    state = tx.init({"x": jnp.ones(2), "y": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"at \['y'\] expected \(3,\), got \(2,\)"):
        eval_params(state, {"x": jnp.ones(2), "y": jnp.ones(3)})


@pytest.mark.parametrize("params", [{"w": jnp.ones(3), "v": jnp.ones(2)}, jnp.ones((2, 3))], ids=["dict", "matrix"])
def test_flatten_goes_inside_and_around_it_is_an_error_that_says_so(params):
    around = optax.flatten(profit_transparent(optax.adam(0.1), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"optax\.flatten, go inside both optimizers"):
        eval_params(around.init(params), params)
    inside = profit_transparent(optax.flatten(optax.adam(0.1)), optax.flatten(optax.sgd(0.1)))
    updates, state = inside.update(params, inside.init(params), params)
    forms.assert_same(eval_params(state, optax.apply_updates(params, updates)), params)
