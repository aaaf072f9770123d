"""Layers whose constructors and forward passes differ from (in, out, kernel_size) and from one tensor to one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def same(inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding=kernel_size // 2)


class Held(nn.Module):
    """Passes its input to a layer that a subclass makes."""

    layer: nn.Module

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


# ---------------------------------------------------------------------------------------------------------- constructors


class ByNameAlone(Held):
    def __init__(self, *, kernel_size: int, out_channels: int, in_channels: int) -> None:
        super().__init__()
        self.layer = same(in_channels, out_channels, kernel_size)


class ThirdIsStride(Held):
    def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_planes, planes, 3, stride, padding=1)


class SecondIsFactor(Held):
    def __init__(self, cin: int, inner_dim_factor: float, kernel_size: int = 3) -> None:
        super().__init__()
        self.inner = int(cin * inner_dim_factor)
        self.layer = nn.Sequential(same(cin, self.inner, kernel_size), same(self.inner, cin, kernel_size))


class ImageFirst(Held):
    def __init__(self, image_size: int, n_channels: int, ksize: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(image_size, image_size))
        self.layer = same(n_channels, n_channels, ksize)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x * self.mask)


class PairOfSizes(Held):
    def __init__(self, channels: int, kernel_size: tuple[int, int] = (3, 3), mode: str = "zeros") -> None:
        super().__init__()
        self.layer = nn.Conv2d(
            channels, channels, kernel_size, padding=(kernel_size[0] // 2, kernel_size[1] // 2), padding_mode=mode
        )


class OtherCounts(Held):
    """Its optional numbers are no sizes of the layer."""

    def __init__(self, dim: int = 1, width: float = 1.0, k: int = 5, kernel_size: int = 3, kernel: str = "sinc") -> None:
        super().__init__()
        assert (dim, width, k, kernel) == (1, 1.0, 5, "sinc")
        self.layer = nn.AvgPool2d(kernel_size, 1, padding=kernel_size // 2)


class PassesOn(nn.Conv2d):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class TakesNothing(nn.Module):
    def __init__(self, *args: Any, channels: int | None = None) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), 1)


class Outer:
    class Inner(nn.Conv2d):
        def __init__(self, a: int, b: int, k: int) -> None:
            super().__init__(a, b, k, padding=k // 2)

    @classmethod
    def make(cls, input_channels: int, output_channels: int, kernel: int) -> nn.Module:
        return same(input_channels, output_channels, kernel)


class Matrix(nn.Linear):
    """Fully connected, by the names of its parameters."""


def picks(in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
    return same(in_channels, out_channels, kernel_size)


def pooled(channels: int, image_size: int, kernel_size: int) -> nn.Module:
    """An adapter that chooses features for an input."""
    made = nn.Linear(3 * channels, channels)
    made.input_shape = (3 * channels,)  # type: ignore[assignment]
    return made


class Lazy(Held):
    def __init__(self, cin: int, cout: int, kernel_size: int) -> None:
        super().__init__()
        self.layer = nn.LazyConv2d(cout, kernel_size, padding=kernel_size // 2)


class LooksAtValues(nn.Module):
    """Its constructor needs the values of its weight in four ways."""

    def __init__(self, cin: int, cout: int, kernel_size: int) -> None:
        super().__init__()
        weight = torch.eye(cin)
        if weight.sum() != cin or not torch.allclose(weight, weight.mT) or weight.numpy().max() != 1:
            raise AssertionError
        self.scale = weight[0, 0].item()
        self.weight = nn.Parameter(weight)
        self.fixed = torch.ones(cin)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, (self.fixed * self.weight)[:, :, None, None])


# -------------------------------------------------------------------------------------------------------- forward passes


class PairOut(Held):
    def __init__(self, cin: int, cout: int, kernel_size: int) -> None:
        super().__init__()
        self.layer = same(cin, cout, kernel_size)

    def forward(self, x: Tensor) -> Any:
        return ["none"] * len(x), self.layer(x)


class TakesConstant(PairOut):
    def forward(self, x: Tensor, lc: float) -> Any:  # type: ignore[override]
        return lc * self.layer(x)


class NumberOut(PairOut):
    def forward(self, x: Tensor) -> Any:
        return 1.0


class Doubles(nn.Module):
    """Changes its input in place: the second call on the same tensor would see another input."""

    def __init__(self, cin: int, cout: int, kernel_size: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(cin, cout, 1)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.mul_(0.5))


class DoublesInTraining(Doubles):
    def forward(self, x: Tensor) -> Any:
        return self.layer(x.mul_(0.5) if self.training else x)


class MadeOnCuda(nn.Module):
    def __init__(self, cin: int, cout: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(cin).cuda())  # PyTorch 2.11 allows this for fake tensors

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None]


class AssertsCuda(PairOut):
    def forward(self, x: Tensor) -> Any:
        assert x.is_cuda
        return x


class Stumbles(PairOut):
    def forward(self, x: Tensor) -> Any:
        return torch.cat((x, x[:, :, :1]), 1)  # a failure inside PyTorch


def raises_here(cin: int, cout: int, kernel_size: int) -> nn.Module:
    raise ValueError("only for\nnobody")
