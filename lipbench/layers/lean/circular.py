"""Circular padding whose gradient passes over the image twice, for `lean` implementations in training.

Autograd's gradient of PyTorch's circular padding fills and adds a whole image for each of the copies that it was made of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lipbench.layers.lean.derivatives import Gradients, first_alone


def _folded(gradient: Tensor, radius: int, dimension: int) -> Tensor:
    """Gradient of padding by `radius` along one dimension: what was copied from the other side is added there."""
    size = gradient.shape[dimension] - 2 * radius
    folded = gradient.narrow(dimension, radius, size).clone(memory_format=torch.contiguous_format)
    folded.narrow(dimension, 0, radius).add_(gradient.narrow(dimension, radius + size, radius))
    folded.narrow(dimension, size - radius, radius).add_(gradient.narrow(dimension, 0, radius))
    return folded


class _CircularPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, radius: int) -> Tensor:
        ctx.radius = radius
        return functional.pad(x, (radius,) * 4, mode="circular")

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        return _folded(_folded(gradient, ctx.radius, 2), ctx.radius, 3), None


def circular_pad(x: Tensor, radius: int) -> Tensor:
    """Images (b, c, s, s) padded circularly by 0 < `radius` ≤ s on each side. Its gradient has no gradient or tangent."""
    padded: Tensor = _CircularPad.apply(x, radius)  # type: ignore[no-untyped-call]  # torch gives it no types
    return padded
