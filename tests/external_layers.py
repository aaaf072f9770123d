"""External layers, which were never written for lipbench, given as `external_layers:Class`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 4


class Grouped(nn.Conv2d):
    """Zero padding, four groups, no bias: one activation and its kernel are kept."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=GROUPS, bias=False)


class Depthwise(nn.Conv2d):
    """One kernel a channel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding="same", groups=in_channels)


class Elementwise(nn.Module):
    """No MACs; keeps its result."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class Exponential(nn.Module):
    """Exponential of a matrix, for which nobody has a formula, before a 1 × 1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, torch.linalg.matrix_exp(self.weight)[:, :, None, None])


class Peeking(nn.Module):
    """Normalises by a number that only a tensor with values has."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().max().item()


class Pointwise(nn.Conv2d):
    """Knows 1 × 1 kernels and multiples of 16 channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        if kernel_size != 1:
            raise ValueError("only for 1 × 1 kernels")
        if in_channels % 16:
            raise ValueError("only for multiples of 16 channels")
        super().__init__(in_channels, out_channels, 1, bias=False)


class OneImage(nn.Module):
    """A map from all of an image of 8 × 8 to all of another."""

    def __init__(self, in_channels: int, *sizes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels * 64, in_channels * 64, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.linear(x.flatten(1)).view_as(x)


class Pairs(nn.Module):
    """Every image meets every other: the batch enters squared."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat @ flat.T


class Iterated(nn.Module):
    """A matrix multiplied with itself as often as it is told."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, iterations: int = 7) -> None:
        super().__init__()
        self.iterations = iterations
        self.weight = nn.Parameter(torch.eye(in_channels))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight
        for _ in range(self.iterations):
            matrix = matrix @ self.weight
        return x * matrix.sum()


class Fourier(nn.Module):
    """A filter on the frequencies of images."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.ones(in_channels, image_size, image_size // 2 + 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=x.shape[-2:])


class Odd(nn.Module):
    """Costs what no sum of monomials is: a row of 1, 2, 3 … products, as many as the square root of the channels."""

    def __init__(self, in_channels: int, *sizes: int) -> None:
        super().__init__()
        side = int(in_channels**0.5)
        self.matrix = nn.Parameter(torch.ones(side, side))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.matrix @ self.matrix).sum()
