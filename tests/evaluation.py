"""Ways to evaluate a layer, for the tests of its cache.

The parameter half of some methods draws a random start vector, so each evaluation starts from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.layers.base import LipschitzConv2d


def seeded(call: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(7)
    return call()


def evaluate(layer: nn.Module, x: Tensor) -> Tensor:
    """The output in evaluation mode without gradients, where the cache is used."""
    with torch.no_grad():
        return seeded(lambda: layer.eval()(x))


def afresh(layer: LipschitzConv2d, x: Tensor) -> Tensor:
    """The same, through both halves by hand."""
    with torch.no_grad():
        return seeded(lambda: layer.eval().transform_input(x, *layer.parameter_half(x.shape[-1])))


def input_gradient(layer: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(seeded(lambda: layer.eval()(x)).square().sum(), x)[0]


def in_place(layer: LipschitzConv2d, x: Tensor) -> None:
    with torch.no_grad():
        next(layer.parameters()).add_(0.5 * torch.randn_like(next(layer.parameters())))
