"""The networks: how large they are, what they give, and what they compute in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.forgetting.tasks.cifar import networks
from tests.benchmarks import cifar_toy

try:
    from jax.extend.core import jaxprs_in_params
except ImportError:  # JAX before 0.10 has it elsewhere.
    from jax.core import jaxprs_in_params


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def shapes(name, classes, dtype=jnp.float32):
    return jax.eval_shape(
        lambda key: networks.init_params(networks.NETWORKS[name](dtype), classes, key), jax.random.key(0)
    )


def resnet(widths, blocks, stem):
    """Parameters of the backbone: each convolution has a scale and a bias for each of its features."""
    total, before = stem * stem * 3 * widths[0] + 2 * widths[0], widths[0]
    for width in widths:
        for _ in range(blocks):
            total += 9 * before * width + 9 * width * width + 4 * width
            total += before * width + 2 * width if before != width else 0
            before = width
    return total


@pytest.mark.parametrize("classes", [10, 100])
def test_the_papers_network_has_the_parameters_of_its_definition(classes):
    params = shapes("resnet18", classes)
    assert set(params) == {"backbone", "head"}
    assert count(params["backbone"]) == resnet((64, 128, 256, 512), 2, 3)
    assert count(params["head"]) == 512 * classes + classes


def test_resnet18_is_as_large_as_the_one_with_batch_norm():
    # 11,173,962 with ten classes and a stem of 3 x 3: GroupNorm has as many parameters as BatchNorm.
    assert count(shapes("resnet18", 10)) == 11_173_962


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_parameters_and_outputs_are_float32_and_what_lies_between_is_not(name):
    params = shapes(name, 10, jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    outputs = jax.eval_shape(functools.partial(networks.logits, networks.NETWORKS[name](jnp.bfloat16)), params, images)
    assert (outputs.shape, outputs.dtype) == ((2, 10), jnp.float32)
    heavy = [e for e in equations_of(name) if e.primitive.name in ("conv_general_dilated", "dot_general")]
    assert len(heavy) > 5
    *others, head = (e.outvars[0].aval.dtype for e in heavy)
    assert set(others) == {jnp.dtype("bfloat16")}
    assert head == jnp.float32


def equations_of(name):
    """All operations of the network in bfloat16."""
    backbone, params = networks.NETWORKS[name](jnp.bfloat16), shapes(name, 10, jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.uint8)
    return list(all_equations(jax.make_jaxpr(functools.partial(networks.logits, backbone))(params, images).jaxpr))


def all_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from all_equations(inner)


def test_the_head_is_linear_in_the_backbones_features():
    backbone = cifar_toy.Backbone(jnp.float32)
    params = networks.init_params(backbone, 10, jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    features = backbone.apply({"params": params["backbone"]}, networks.normalize(images))
    expected = features @ params["head"]["kernel"] + params["head"]["bias"][None]
    np.testing.assert_allclose(networks.logits(backbone, params, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (3, 2, 8), (1, 2, 8), (3, 2, 7), (3, 8, 32)])
def test_a_convolution_as_a_product_is_the_convolution(kernel, stride, size):
    x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, 3, 5))
    expected = networks.convolution(x, weights, stride)
    assert expected.shape == (2, -(-size // stride), -(-size // stride), 5)
    np.testing.assert_allclose(networks.convolution_as_product(x, weights, stride), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("backend", "convolutions"), [("cpu", 0), ("gpu", 20)])
def test_convolutions_are_products_on_a_cpu_alone(monkeypatch, backend, convolutions):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    names = [equation.primitive.name for equation in equations_of("resnet18")]
    assert names.count("conv_general_dilated") == convolutions
    assert names.count("dot_general") == 21 - convolutions


def test_bytes_are_spread_around_zero():
    np.testing.assert_allclose(networks.normalize(jnp.asarray([0, 255], jnp.uint8)), [-2, 2])
