"""The evaluation cache under `torch.func`, `FakeTensorMode`, `torch.compile`, autocast and `inference_mode`."""

from __future__ import annotations

import pytest
import torch
from conftest import Variant
from evaluation import afresh, evaluate, in_place, input_gradient, seeded
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.func import functional_call

pytestmark = pytest.mark.heads


def test_functional_call_with_other_parameters(variant: Variant) -> None:
    layer, other = variant.build(), variant.build()
    x = variant.image(layer)
    own, expected = evaluate(layer, x), evaluate(other, x)
    state = {name: value.detach() for name, value in other.state_dict().items()}
    with torch.no_grad():
        borrowed = seeded(lambda: functional_call(layer, state, (x,)))
    assert torch.equal(borrowed, expected)
    assert torch.equal(evaluate(layer, x), own)
    assert not torch.allclose(own, expected, rtol=1e-5)


def test_functional_gradient_of_parameters(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    own = evaluate(layer, x)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().sum()

    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    torch.manual_seed(7)
    functional = torch.func.grad(loss)(parameters)
    seeded(lambda: layer(x)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(functional[name], parameter.grad, rtol=1e-12, atol=1e-12)
    assert torch.equal(evaluate(layer, x), own)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch itself, when it first loads torch.func.jvp
def test_functional_forward_derivative_of_parameters(variant: Variant) -> None:
    """Forward-mode derivatives need no gradient mode, so only the wrapped parameters show the cache that they are taken."""
    layer = variant.build()
    x = variant.image(layer)
    evaluate(layer, x)
    parameters = {name: value.detach() for name, value in layer.named_parameters()}
    directions = {name: torch.randn_like(value) for name, value in parameters.items()}
    seeded(lambda: layer(x)).square().sum().backward()
    expected = sum((parameter.grad * directions[name]).sum() for name, parameter in layer.named_parameters())

    def loss(values: dict[str, Tensor]) -> Tensor:
        return functional_call(layer, values, (x,)).square().sum()

    with torch.no_grad():
        torch.manual_seed(7)
        _, derivative = torch.func.jvp(loss, (parameters,), (directions,))
    torch.testing.assert_close(derivative, expected, rtol=1e-5, atol=0)  # the singular vectors move too, but change little


def test_born_inside_a_functional_gradient(variant: Variant) -> None:
    layer = variant.build().eval().requires_grad_(False)
    x = variant.image(layer)
    expected = input_gradient(layer, x)
    layer.clear_cache()
    torch.manual_seed(7)
    functional = torch.func.grad(lambda image: layer(image).square().sum())(x)
    torch.testing.assert_close(functional, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(evaluate(layer, x), afresh(layer, x))
    assert torch.equal(input_gradient(layer, x), expected)


def test_fake_cache_does_not_poison_a_real_forward(variant: Variant) -> None:
    layer = variant.build().eval()
    x = variant.image(layer)
    expected = afresh(layer, x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        assert isinstance(layer(mode.from_tensor(x)), FakeTensor)
    assert torch.equal(evaluate(layer, x), expected)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        assert isinstance(layer(mode.from_tensor(x)), FakeTensor)  # and a real cache is not used for fake tensors
    assert torch.equal(evaluate(layer, x), expected)


def test_compiled_evaluation_neither_reads_nor_writes_it(variant: Variant) -> None:
    torch._dynamo.reset()
    layer = variant.build().eval()
    x = variant.image(layer)
    expected = evaluate(layer, x)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(evaluate(compiled, x), expected, rtol=1e-12, atol=1e-12)
    in_place(layer, x)
    torch.testing.assert_close(evaluate(compiled, x), afresh(layer, x), rtol=1e-12, atol=1e-12)
    assert torch.equal(evaluate(layer, x), afresh(layer, x))


def test_layer_born_in_inference_mode(variant: Variant) -> None:
    with torch.inference_mode():
        layer = variant.build().eval()
        x = variant.image(layer)
        expected = afresh(layer, x)
        assert torch.equal(seeded(lambda: layer(x)), expected)
        next(layer.parameters()).add_(0.5)
        assert torch.equal(seeded(lambda: layer(x)), afresh(layer, x))


def test_autocast_leaves_nothing_behind(variant: Variant) -> None:
    layer = variant.build(dtype=torch.float32)
    x = variant.image(layer)
    expected = afresh(layer, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluate(layer, x)
    assert torch.equal(evaluate(layer, x), expected)
