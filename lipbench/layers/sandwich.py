"""Sandwich: a non-linearity between two Fourier multipliers that are parts of one matrix with orthonormal rows.

Source: Wang & Manchester, "Direct Parameterization of Lipschitz-Bounded Deep Networks", ICML 2023, arXiv 2301.11526.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.base import Head, Implementation, LipschitzConv2d, LipschitzLinear, Method
from lipbench.layers.cayley import (
    HEAD_INVERSE,
    INVERSE,
    apply_spectrum,
    cayley_transform,
    fft_macs,
    half_plane,
    kernel_spectrum,
)
from lipbench.theory import Complexity, Cost, M, P, b, c, s


def sandwich(weight: Tensor, psi: Tensor) -> tuple[Tensor, Tensor]:
    """`√2 e^{−ψ} B` (f, o, i) and `√2 Aᴴ e^ψ` (f, o, o), `[A B]` the Cayley transform of a weight (f, o, o + i); ψ (o,).

    ψ scales the matrices, whose number does not depend on the batch size, instead of the images.
    """
    outputs = weight.shape[1]
    rows = cayley_transform(weight)
    gain = math.sqrt(2) * psi.exp()
    inner = rows[:, :, outputs:] * (2 / gain)[:, None]  # column-major, as `rows` is; products of the input half want rows
    return inner.contiguous(), rows[:, :, :outputs].mH * gain


class SandwichConv2d(LipschitzConv2d):
    """`y = √2 Aᴴ e^ψ relu(√2 e^{−ψ} B x + bias)`, `[A B]` the Cayley transform of `α K / ‖K‖` in the Fourier domain.

    Circular padding. `weight` (o, o + i, k, k); α is learnable and starts at ‖K‖, ψ (o,) at zero. Since `A Aᴴ + B Bᴴ = I`, the
    Jacobian `2 Aᴴ D B` has at most norm 1 for any pattern D of active units (arXiv 2301.11526, Section 3). Raises
    `UnsupportedError` where the kernel is larger than the image.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        if kernel_size > image_size:
            raise errors.kernel_exceeds_image("Sandwich", kernel_size, image_size)
        convolution = nn.Conv2d(out_channels + in_channels, out_channels, kernel_size)
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias
        self.alpha = nn.Parameter(torch.linalg.vector_norm(convolution.weight.detach()))
        self.psi = nn.Parameter(torch.zeros(out_channels))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        if self.kernel_size > image_size:
            raise errors.kernel_exceeds_image("Sandwich", self.kernel_size, image_size)
        scaled = (self.alpha / torch.linalg.vector_norm(self.weight)) * self.weight
        return sandwich(kernel_spectrum(scaled, image_size), self.psi)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        inner, outer = effective
        return apply_spectrum(functional.relu(apply_spectrum(x, inner) + self.bias[:, None, None]), outer)


class SandwichLinear(LipschitzLinear):
    """`y = √2 Aᵀ e^ψ relu(√2 e^{−ψ} B x + bias)`, `[A B]` (out, out + in) the Cayley transform of `α W / ‖W‖`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        linear = nn.Linear(out_features + in_features, out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.alpha = nn.Parameter(torch.linalg.vector_norm(linear.weight.detach()))
        self.psi = nn.Parameter(torch.zeros(out_features))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        scaled = (self.alpha / torch.linalg.vector_norm(self.weight)) * self.weight
        inner, outer = sandwich(scaled[None], self.psi)
        return inner[0], outer[0]

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        inner, outer = effective
        return functional.linear(functional.relu(functional.linear(x, inner, self.bias)), outer)


_F = half_plane(s)
_FFT = fft_macs(s)

EXACT = Complexity(
    Cost(8 * b * _F * c**2 + 4 * b * c * _FFT, 2 * M + 4 * b * c * _F, 16 * b * _F * c**2 + 6 * b * c * _FFT),
    Cost(
        2 * c**2 * _FFT + 12 * _F * c**3,
        2 * P + 2 * s**2 * c**2 + 14 * _F * c**2 + 2 * _F + 4 * c + 3,
        4 * c**2 * _FFT + 24 * _F * c**3,
    ),
)

METHOD = Method(
    name="sandwich",
    title="Sandwich",
    source="Wang & Manchester, ICML 2023, arXiv 2301.11526",
    implementations={"paper": Implementation(SandwichConv2d, EXACT, tail=4 * b * _F * c**2 + b * c * _FFT)},
    published=None,
    published_operations=("", ""),
    advance=INVERSE,
    linear=False,
    head=Head(
        SandwichLinear,
        Complexity(Cost(2 * b * c**2, 2 * b * c, 4 * b * c**2), Cost(3 * c**3, 9 * c**2 + 4 * c + 3, 6 * c**3)),
        advance=HEAD_INVERSE,
        tail=b * c**2,
    ),
)
