"""Every layer runs under `FakeTensorMode`: no value of a tensor is ever asked for, so nothing waits for the device."""

from __future__ import annotations

import pytest
import torch
from conftest import Variant
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

pytestmark = pytest.mark.heads


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_forward_and_backward(variant: Variant, training: bool) -> None:
    with FakeTensorMode():
        layer = variant.build(dtype=torch.float32).train(training)
        x = variant.image(layer).requires_grad_()
        y = layer(x)
        assert isinstance(y, FakeTensor)
        assert y.shape == x.shape
        y.sum().backward()
        for name, tensor in {"x": x, **dict(layer.named_parameters())}.items():
            assert isinstance(tensor.grad, FakeTensor), name
            assert tensor.grad.shape == tensor.shape, name


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_cached_evaluation(variant: Variant, mode: type) -> None:
    with FakeTensorMode():
        layer = variant.build(dtype=torch.float32).eval()
        x = variant.image(layer)
        with mode():
            shapes = {layer(x).shape, layer(x).shape}
    assert shapes == {x.shape}


def test_other_image_size(variant: Variant) -> None:
    with FakeTensorMode():
        layer = variant.build(dtype=torch.float32)
        for training in (True, False):
            x = variant.image(layer.train(training), image_size=9).requires_grad_()
            layer(x).sum().backward()
            assert isinstance(x.grad, FakeTensor)


def test_counting_mode_would_see_a_synchronisation() -> None:
    """The mode these tests rely on does refuse to give a value away."""
    with FakeTensorMode(), pytest.raises(Exception, match=r"item|data-dependent|_local_scalar_dense"):
        torch.randn(3).sum().item()
