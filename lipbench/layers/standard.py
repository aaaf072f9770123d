"""Standard: a plain convolution with circular padding, the reference for costs. It is not 1-Lipschitz."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.base import Implementation, LipschitzConv2d, Method
from lipbench.theory import C, Complexity, Cost, M, P, b, c, k, s


def circular_conv2d(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Cross-correlation with circular padding: x (b, i, s, s), kernel (o, i, k, k), bias (o,) → (b, o, s, s).

    Raises `UnsupportedError` where k // 2 > s.
    """
    radius = kernel.shape[-1] // 2
    if radius > x.shape[-1]:
        raise errors.padding_exceeds_image(kernel.shape[-1], x.shape[-1])
    if radius:
        x = functional.pad(x, (radius,) * 4, mode="circular")
    return functional.conv2d(x, kernel, bias)


def identity_kernel(out_channels: int, in_channels: int, kernel_size: int) -> Tensor:
    """The kernel (o, i, k, k) of the identity, cut or padded with zeros to the channels."""
    kernel = torch.zeros(out_channels, in_channels, kernel_size, kernel_size)
    # nn.init.dirac_ sets one element at a time, which takes half a minute for a large network of fake tensors.
    kernel[:, :, kernel_size // 2, kernel_size // 2] = torch.eye(out_channels, in_channels)
    return kernel


PADDED = b * c * (s + k - 1) ** 2
"""Elements kept of a circularly padded input: those of the padded copy, not of the input."""


class StandardConv2d(LipschitzConv2d):
    """`y = K ∗ x + bias`, initialised as `torch.nn.Conv2d`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size)
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return (self.weight,)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return circular_conv2d(x, effective[0], self.bias)


EXACT = Complexity(Cost(C, PADDED, 2 * C), Cost(C * 0, P, C * 0))

METHOD = Method(
    name="standard",
    title="Standard",
    source="a plain convolution, the yardstick",
    implementations={"paper": Implementation(StandardConv2d, EXACT, tail=C)},
    published=Complexity(Cost(C, M), Cost(C * 0, P)),
    published_operations=("CONV", "-"),
    lipschitz=False,
)
