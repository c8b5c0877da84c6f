"""The arguments of `nnx.Optimizer.update`: what the passes inside see, and what they leave alone."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from profit_optax import eval_params, profit, profit_transparent
from profit_optax.integrations import nnx as integration
from profit_optax.integrations.nnx import update_arguments
from profit_optax.training import make_train_step
from tests.forms import one_line
from tests.integrations.pure import as_pure

EPS = float(jnp.finfo(jnp.float32).eps)
N_REF = 2


class Model(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.tanh(self.norm(self.hidden(x)))))


def loss_fn(model, x):
    return jnp.mean((model(x) - jnp.sum(x, axis=-1, keepdims=True)) ** 2)


def data(steps=1):
    return jax.random.normal(jax.random.key(0), (steps, N_REF + 1, 8, 4))


def pure(model, *filters):
    return as_pure(nnx.state(model, *filters))


def assert_equal(tree, other):
    arrays = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree
    )
    jax.tree.map(np.testing.assert_array_equal, arrays(tree), arrays(other))


def assert_close(tree, other):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=64 * EPS, atol=64 * EPS), tree, other)


@nnx.jit
def train_step(model, optimizer, x):
    loss, grads = nnx.value_and_grad(loss_fn)(model, x[0])
    optimizer.update(model, grads, **update_arguments(loss_fn, model, x[1:], wrt=nnx.Param))
    return loss


def trained(tx, x):
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for batches in x:
        train_step(model, optimizer, batches)
    return model, optimizer


TX = profit(optax.adamw(0.01), optax.sgd(0.01), N_REF)


def test_statistics_and_random_streams_are_those_after_the_pass_at_theta():
    model, _ = trained(TX, data())
    alone = Model(nnx.Rngs(0))
    nnx.jit(nnx.value_and_grad(loss_fn))(alone, data()[0, 0])
    assert_close(pure(model, nnx.BatchStat), pure(alone, nnx.BatchStat))
    assert_equal(pure(model, nnx.RngState), pure(alone, nnx.RngState))
    assert model.dropout.rngs.count[...] == 1


def test_a_rerun_is_the_same_run_bit_for_bit():
    assert_equal(pure(trained(TX, data(3))[0]), pure(trained(TX, data(3))[0]))


def test_every_pass_has_a_mask_of_its_own():
    def masks(model, batch):
        # The gradient with respect to the weights is the mask, whatever the weights are.
        return jnp.sum(model.dropout(model.head.kernel[...] * batch))

    def seen(model):
        first = nnx.grad(masks)(model, 1.0)["head"]["kernel"][...]
        arguments = update_arguments(masks, model, jnp.ones(3), wrt=nnx.Param)
        gradient = lambda batch: arguments["value_and_grad_fn"](pure(model, nnx.Param), batch)[1]  # noqa: E731
        inside = jax.lax.map(gradient, arguments["batches"])["head"]["kernel"]
        return [first, *inside]

    model = Model(nnx.Rngs(0))
    model.head = nnx.Linear(8, 8, rngs=nnx.Rngs(1))
    two_steps = [tuple(np.ravel(mask).tolist()) for mask in [*seen(model), *seen(model)]]
    assert len(set(two_steps)) == 8


def test_streams_of_layers_that_were_made_together_are_forked_together():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.linear, self.dropout = nnx.Linear(4, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(self.linear(x))

    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def blocks(rngs):
        return Block(rngs)

    def loss_fn(model, x):
        return jnp.mean(nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(model, x) ** 2)

    model = blocks(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    arguments = update_arguments(loss_fn, model, data()[0, 1:], wrt=nnx.Param)
    keys = jax.tree.leaves(arguments["batches"]["rng_keys"])
    assert [key.shape for key in keys] == [(N_REF, 3)]
    assert len(np.unique(jax.random.key_data(keys[0]).reshape(-1, 2), axis=0)) == 3 * N_REF
    _, grads = nnx.value_and_grad(loss_fn)(model, data()[0, 0])
    optimizer.update(model, grads, **arguments)
    assert model.dropout.rngs.count[...].tolist() == [1, 1, 1]


def test_the_loss_is_traced_twice_in_a_step_and_the_step_once(count_traces):
    counted = count_traces(loss_fn)

    @nnx.jit
    def step(model, optimizer, x):
        _, grads = nnx.value_and_grad(counted)(model, x[0])
        optimizer.update(model, grads, **update_arguments(counted, model, x[1:], wrt=nnx.Param))

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    for x in data(3):
        step(model, optimizer, x)
    assert counted.traces == 2


def test_the_aux_of_the_passes_inside_is_dropped():
    def with_aux(model, x):
        return loss_fn(model, x), {"mean": jnp.mean(x)}

    @nnx.jit
    def step(model, optimizer, x):
        (_, aux), grads = nnx.value_and_grad(with_aux, has_aux=True)(model, x[0])
        optimizer.update(model, grads, **update_arguments(with_aux, model, x[1:], wrt=nnx.Param, has_aux=True))
        return aux

    model = Model(nnx.Rngs(0))
    aux = step(model, nnx.Optimizer(model, TX, wrt=nnx.Param), data()[0])
    np.testing.assert_allclose(aux["mean"], jnp.mean(data()[0, 0]), atol=8 * EPS)
    assert_close(pure(model, nnx.Param), pure(trained(TX, data())[0], nnx.Param))


def test_an_optimizer_without_a_closure_ignores_the_arguments():
    model, _ = trained(optax.adamw(0.01), data())
    alone = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(alone, optax.adamw(0.01), wrt=nnx.Param)
    nnx.jit(lambda model, optimizer, x: optimizer.update(model, nnx.grad(loss_fn)(model, x)))(
        alone, optimizer, data()[0, 0]
    )
    assert_close(pure(model, nnx.Param), pure(alone, nnx.Param))


def test_another_filter_than_that_of_the_optimizer_is_an_error_that_shows_both():
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    grads = nnx.grad(loss_fn)(model, data()[0, 0])
    arguments = update_arguments(loss_fn, model, data()[0, 1:], wrt=nnx.BatchStat)
    with pytest.raises(ValueError, match="wrt selects other variables than the optimizer trains"):
        optimizer.update(model, grads, **arguments)


def test_streams_need_batches_to_take_their_number_from():
    with pytest.raises(ValueError, match=r"batches must be a pytree .* jnp.arange\(n_ref\)"):
        update_arguments(loss_fn, Model(nnx.Rngs(0)), (), wrt=nnx.Param)


def test_a_model_without_streams_needs_no_data():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, profit(optax.sgd(0.1), optax.sgd(0.1)), wrt=nnx.Param)

    def loss_fn(model, batch):
        return jnp.sum(jnp.cos(model.kernel[...]))

    before = pure(model)
    grads = nnx.grad(loss_fn)(model, ())
    optimizer.update(model, grads, **update_arguments(loss_fn, model, (), wrt=nnx.Param))
    assert not jnp.array_equal(before["kernel"], model.kernel[...])


@pytest.mark.parametrize(("form", "moved"), [(one_line, 0.1), (profit_transparent, 0.0)])
def test_call_by_call_forms_need_no_arguments_and_theta_is_found_in_the_optimizer(form, moved):
    model = Model(nnx.Rngs(0))
    start = pure(model, nnx.Param)
    optimizer = nnx.Optimizer(model, form(optax.sgd(0.1), optax.sgd(0.05)), wrt=nnx.Param)
    grads = nnx.grad(loss_fn)(model, data()[0, 0])
    optimizer.update(model, grads)
    theta = eval_params(optimizer.opt_state, nnx.state(model, nnx.Param))
    expected = jax.tree.map(lambda p, g: p - moved * g, start, as_pure(grads))
    assert_close(as_pure(theta), expected)
    nnx.update(model, theta)
    assert_equal(pure(model, nnx.Param), as_pure(theta))


class Adapted(nnx.Module):
    """Frozen weights of 8 MiB beside adapters of 16 KiB."""

    def __init__(self, rngs):
        # Flax before 0.12 takes lists as they are, and has no other.
        self.layers = getattr(nnx, "List", list)(
            [
                nnx.LoRA(1024, 1, 1024, base_module=nnx.Linear(1024, 1024, use_bias=False, rngs=rngs), rngs=rngs)
                for _ in range(2)
            ]
        )

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.tanh(layer(x))
        return x


def size(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("tx", "copies"),
    [
        (profit(optax.adamw(0.01), optax.sgd(0.01)), 2),
        (profit_transparent(optax.adamw(0.01), optax.sgd(0.01)), 4),
        (one_line(optax.adamw(0.01)), 3),
    ],
)
def test_frozen_weights_beside_adapters_cost_no_memory(tx, copies):
    graphdef, params, frozen = nnx.split(Adapted(nnx.Rngs(0)), nnx.LoRAParam, ...)
    params, frozen = as_pure((params, frozen))
    assert size(frozen) == 512 * size(params)
    state = tx.init(params)
    scalars = 64
    # Two moments of AdamW, and for the call-by-call forms θ and Δ: of the adapters.
    assert copies * size(params) <= size(state) <= copies * size(params) + scalars

    @nnx.jit
    def step(model, optimizer, x):
        loss_fn = lambda model, x: jnp.mean((model(x) - 1) ** 2)  # noqa: E731
        _, grads = nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, nnx.LoRAParam))(model, x[0])
        optimizer.update(model, grads, **update_arguments(loss_fn, model, x[1:], wrt=nnx.LoRAParam))

    model = nnx.merge(graphdef, params, frozen)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.LoRAParam)
    memory = step.lower(model, optimizer, jnp.ones((2, 2, 1024))).compile().memory_analysis()
    # Neither a gradient nor a displacement of the frozen weights, not even for a while.
    assert memory.temp_size_in_bytes < size(frozen) / 16


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(integration)
    assert results.attempted
    assert not results.failed


class Masked(nnx.Module):
    """A model that is handed its random streams in each call."""

    def __init__(self, rngs):
        self.hidden, self.dropout, self.head = (
            nnx.Linear(4, 8, rngs=rngs),
            nnx.Dropout(0.5),
            nnx.Linear(8, 1, rngs=rngs),
        )

    def __call__(self, x, rngs):
        return self.head(self.dropout(self.hidden(x), rngs=rngs))


def test_streams_that_are_arguments_of_the_model_are_made_in_the_loss_from_keys_in_the_batches():
    def loss_fn(model, batch):
        y = model(batch["x"], rngs=nnx.Rngs(batch["key"]))
        return jnp.mean((y - jnp.sum(batch["x"], axis=-1, keepdims=True)) ** 2)

    @nnx.jit
    def step(model, optimizer, batches):
        first, others = jax.tree.map(lambda x: x[0], batches), jax.tree.map(lambda x: x[1:], batches)
        optimizer.update(
            model, nnx.grad(loss_fn)(model, first), **update_arguments(loss_fn, model, others, wrt=nnx.Param)
        )

    graphdef, params = nnx.split(Masked(nnx.Rngs(0)))
    plain_step = make_train_step(lambda params, batch: loss_fn(nnx.merge(graphdef, params), batch), TX)
    model, params = nnx.merge(graphdef, params), as_pure(params)
    optimizer, opt_state = nnx.Optimizer(model, TX, wrt=nnx.Param), TX.init(params)
    # Other keys are other masks, and another run.
    keys = jax.random.split(jax.random.key(2), (2, N_REF + 1))
    for x, key in zip(data(2), keys, strict=True):
        step(model, optimizer, {"x": x, "key": key})
        params, opt_state, _ = plain_step(params, opt_state, {"x": x, "key": key})
    assert_close(pure(model, nnx.Param), params)


def test_streams_that_the_loss_closes_over_are_an_error_that_shows_the_way():
    rngs = nnx.Rngs(1)

    def loss_fn(model, x, rngs=rngs):
        return jnp.mean((model(x, rngs=rngs) - 1) ** 2)

    @nnx.jit
    def step(model, optimizer, rngs, x):
        grads = nnx.grad(loss_fn)(model, x[0], rngs)
        optimizer.update(model, grads, **update_arguments(loss_fn, model, x[1:], wrt=nnx.Param))

    model = Masked(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)
    with pytest.raises(ValueError, match=r"(?s)loss_fn must not .* nnx.Rngs .* model\(x, rngs=nnx.Rngs\(batch"):
        step(model, optimizer, nnx.Rngs(1), data()[0])
