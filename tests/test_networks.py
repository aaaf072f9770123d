"""The paper's ConvNet: shapes and parameter counts of Tables 5–7, for every method."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import Variant, disturb
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lipbench import registry
from lipbench.cases import NetworkSpec
from lipbench.layers.base import LipschitzConv2d, LipschitzLinear, TwoHalves
from lipbench.networks import FirstChannels, MaxMin, PadChannels

SMALL = 8
"""image size where the test asks for nothing that a larger image has"""
AOL_PARAMETERS = {"XS": 1_572_288, "S": 6_283_136, "M": 25_120_512, "L": 100_457_984}
AOL_MILLIONS_64 = {"XS": 1.575, "S": 6.294, "M": 25.16, "L": 100.63}
BCOP_MILLIONS = {"XS": 1.14, "S": 4.54, "M": 18.2}


def on_meta(spec: NetworkSpec) -> nn.Module:
    """The network on the meta device: shapes only, without memory or arithmetic."""
    with torch.device("meta"):
        return registry.build(spec)


def trainable(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("size", "expected"), AOL_PARAMETERS.items())
def test_parameters_of_aol(size: str, expected: int) -> None:
    assert trainable(on_meta(NetworkSpec("aol", size))) == expected


@pytest.mark.parametrize(("size", "millions"), AOL_MILLIONS_64.items())
def test_parameters_of_aol_for_64_pixels(size: str, millions: float) -> None:
    digits = len(str(millions).split(".")[1])
    assert round(trainable(on_meta(NetworkSpec("aol", size, image_size=64))) / 1e6, digits) == millions


@pytest.mark.parametrize(("size", "millions"), BCOP_MILLIONS.items())
def test_parameters_of_bcop(size: str, millions: float) -> None:
    digits = len(str(millions).split(".")[1])
    assert round(trainable(on_meta(NetworkSpec("bcop", size))) / 1e6, digits) == millions


def logits_with_all_gradients(spec: NetworkSpec) -> None:
    network = registry.build(spec).train()
    logits = network(torch.randn(2, 3, spec.image_size, spec.image_size))
    assert logits.shape == (2, 10)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    with torch.inference_mode():
        assert network.eval()(torch.randn(1, 3, spec.image_size, spec.image_size)).shape == (1, 10)


def test_ten_logits_and_all_gradients(variant: Variant) -> None:
    logits_with_all_gradients(NetworkSpec(variant.method.name, "XS", implementation=variant.implementation))


@pytest.mark.parametrize("method", ["standard", "aol", "bcop"])
def test_ten_logits_of_64_pixels(method: str) -> None:
    logits_with_all_gradients(NetworkSpec(method, "XS", image_size=64))


def test_every_layer_is_of_the_method(variant: Variant) -> None:
    spec = NetworkSpec(variant.method.name, "XS", implementation=variant.implementation)
    layers = [module for module in registry.build(spec).modules() if isinstance(module, TwoHalves)]
    layer_type = variant.method.implementations[variant.implementation].layer
    assert len(layers) == 1 + 5 * 5 + 1
    assert all(type(layer) is layer_type for layer in layers[:-1])
    assert isinstance(layers[-1], variant.method.head.layer if variant.method.head else layer_type)


Part = tuple[str, *tuple[int, ...]]
"""kind of a module, and its sizes"""


def parts(network: nn.Module) -> Iterator[Part]:
    """The modules that an image passes, in order."""
    for module in network.children():
        match module:
            case LipschitzConv2d():
                yield "convolve", module.in_channels, module.out_channels, module.kernel_size, module.image_size
            case LipschitzLinear():
                yield "convolve", module.in_features, module.out_features, 1, 1
            case PadChannels() | FirstChannels():
                yield type(module).__name__, module.channels
            case nn.PixelUnshuffle():
                yield "PixelUnshuffle", module.downscale_factor
            case nn.AdaptiveMaxPool2d():
                yield "AdaptiveMaxPool2d", module.output_size
            case MaxMin() | nn.Flatten():
                yield (type(module).__name__,)
            case _:
                yield from parts(module)


@pytest.mark.parametrize(("image_size", "width", "blocks"), [(32, 16, 5), (64, 8, 6), (16, 32, 4), (8, 64, 3)])
def test_is_the_sequence_of_the_paper(variant: Variant, image_size: int, width: int, blocks: int) -> None:
    """Tables 5–7: the last block has 1 × 1 kernels, the others 3 × 3, and an activation follows every convolution. Networks for
    smaller images continue the pair of 32 and 64."""
    expected: list[Part] = [("PadChannels", width), ("convolve", width, width, 1, image_size), ("MaxMin",)]
    c, s = width, image_size
    for kernel_size in [3] * (blocks - 1) + [1]:
        expected += 5 * [("convolve", c, c, kernel_size, s), ("MaxMin",)]
        expected += [("FirstChannels", c // 2), ("PixelUnshuffle", 2)]
        c, s = 2 * c, s // 2
    expected += [("AdaptiveMaxPool2d", 1), ("Flatten",), ("convolve", c, c, 1, 1), ("FirstChannels", 10)]

    with FakeTensorMode():
        network = registry.build(NetworkSpec(variant.method.name, "XS", image_size, implementation=variant.implementation))
    found = list(parts(network))
    assert found == expected
    assert found.count(("MaxMin",)) == 1 + 5 * blocks
    assert c == 512


def test_network_is_1_lipschitz_in_evaluation(variant: Variant) -> None:
    """A step against the gradient of a logit changes the logit by at most the length of the step."""
    if not variant.keeps_its_promise_at(SMALL):
        pytest.skip("does not claim to be, or is not on these images")
    network = registry.build(NetworkSpec(variant.method.name, "XS", SMALL, implementation=variant.implementation)).double()
    disturb(network)
    network.eval().requires_grad_(False)
    x = torch.randn(1, 3, SMALL, SMALL, dtype=torch.float64, requires_grad=True)
    for logit in network(x)[0, :3]:
        (gradient,) = torch.autograd.grad(logit, x, retain_graph=True)
        assert 0 < torch.linalg.vector_norm(gradient) <= 1 + 1e-4


def test_state_dict_loads_into_a_fresh_network(variant: Variant) -> None:
    spec = NetworkSpec(variant.method.name, "XS", SMALL, implementation=variant.implementation)
    network, fresh = registry.build(spec).eval(), registry.build(spec).eval()
    fresh.load_state_dict(network.state_dict(), strict=True)
    network.load_state_dict(network.state_dict())  # loading refreshes iterated state, in both
    x = torch.randn(1, 3, SMALL, SMALL)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = network(x)
        torch.manual_seed(1)
        assert torch.equal(fresh(x), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_maxmin_sorts_pairs_and_leaves_an_odd_last_channel(channels: int) -> None:
    x = torch.randn(2, channels, 3, 3)
    y = MaxMin()(x)
    expected = x.clone()
    for first in range(0, channels - 1, 2):
        expected[:, first] = torch.maximum(x[:, first], x[:, first + 1])
        expected[:, first + 1] = torch.minimum(x[:, first], x[:, first + 1])
    assert torch.equal(y, expected)
