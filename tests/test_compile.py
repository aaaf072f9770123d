"""Every layer compiles as one graph, is not compiled again as training goes on, and computes what it does uncompiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import Variant
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from lipbench.layers.base import LipschitzConv2d

STEPS = 250


@pytest.fixture(autouse=True)
def _no_earlier_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(layer: LipschitzConv2d, call: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, steps: int) -> list[float]:
    """Losses of some steps of gradient descent towards a fixed target."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
    layer.train()
    torch.manual_seed(5)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (call(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def test_training_steps_equal_eager_without_recompiling(variant: Variant) -> None:
    layer = variant.build(2, 2, image_size=4)
    twin = copy.deepcopy(layer)
    x = variant.image(layer).requires_grad_()
    target = torch.randn_like(x).detach()
    counter = CompileCounter()

    eager = train(twin, twin, x, target, STEPS)
    compiled = train(layer, torch.compile(layer, backend=counter, fullgraph=True), x, target, STEPS)

    assert 1 <= counter.frame_count <= 2  # at most one recompilation
    assert compiled == pytest.approx(eager, rel=1e-9)
    assert eager[-1] < eager[0]
    for (name, found), expected in zip(layer.state_dict().items(), twin.state_dict().values()):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=name)


def test_evaluation_equals_eager(variant: Variant) -> None:
    layer = variant.build(2, 2, image_size=4).eval()
    x = variant.image(layer)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.manual_seed(5)
        found = compiled(x)
        torch.manual_seed(5)
        expected = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_traced_backward_equals_eager(variant: Variant) -> None:
    layer = variant.build(2, 2, image_size=4).train()
    start = {name: value.clone() for name, value in layer.state_dict().items()}
    x = variant.image(layer)

    def gradients(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
        layer.load_state_dict(start)
        image = x.clone().requires_grad_()
        torch.manual_seed(5)
        return list(torch.autograd.grad(call(image).square().sum(), [image, *layer.parameters()]))

    expected = gradients(layer)
    found = gradients(torch.compile(layer, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
