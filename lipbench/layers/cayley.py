"""Cayley: orthogonal convolutions by the Cayley transform of every Fourier block.

Source: Trockman & Kolter, "Orthogonalizing Convolutional Layers with the Cayley Transform", ICLR 2021, arXiv 2104.07167.
"""

from __future__ import annotations

import math

import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.base import Head, Implementation, LipschitzConv2d, LipschitzLinear, Method
from lipbench.layers.lean.cayley import inverse, lean_cayley_transform
from lipbench.layers.lean.spectrum import applied_cost, apply_blocks, blocks_cost, kernel_blocks, last_macs
from lipbench.theory import Complexity, Cost, M, P, b, c, s

# In the shapes below, f = n (⌊n/2⌋ + 1) is the number of frequencies in the half plane of a real n × n image.


def kernel_spectrum(kernel: Tensor, image_size: int) -> Tensor:
    """Fourier blocks of the circular cross-correlation with a centred kernel: (o, i, k, k) → complex (f, o, i)."""
    spectrum = torch.fft.rfft2(kernel, s=(image_size, image_size)).permute(2, 3, 0, 1).conj()
    rows = torch.arange(image_size, dtype=kernel.dtype, device=kernel.device)
    columns = torch.arange(image_size // 2 + 1, dtype=kernel.dtype, device=kernel.device)
    # exp(−2πi f·r/s) with r = (k−1)/2 moves the kernel's centre to the origin.
    angle = (-2 * math.pi * (kernel.shape[-1] // 2) / image_size) * (rows[:, None] + columns)
    phase = torch.polar(torch.ones_like(angle), angle)
    blocks: Tensor = (spectrum * phase[:, :, None, None]).flatten(0, 1)
    return blocks


REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
"""complex dtype → dtype of its two numbers"""


def apply_spectrum(x: Tensor, blocks: Tensor) -> Tensor:
    """Product of every frequency of x (b, i, n, n) with its block of (f, o, i) → (b, o, n, n), in the precision of the blocks.

    Images of another precision, such as autocast's, are converted: no complex number has 16 bits in PyTorch's products.
    """
    image_size = x.shape[-1]
    x = x.to(REAL[blocks.dtype])
    # Images are the rows of the product: the order (frequency, image, channel) is nearer to that of x.
    spectrum = torch.fft.rfft2(x).permute(2, 3, 0, 1)
    result = torch.bmm(spectrum.flatten(0, 1), blocks.mT).view(image_size, -1, x.shape[0], blocks.shape[1])
    output: Tensor = torch.fft.irfft2(result.permute(2, 3, 0, 1), s=(image_size, image_size))
    return output


def cayley_transform(weight: Tensor) -> Tensor:
    """Matrices with orthonormal columns (tall, square) or rows (wide), from free matrices (f, o, i), real or complex.

    `A = U − Uᴴ + Vᴴ V`, `Q = [(I + A)⁻¹ (I − A); −2 V (I + A)⁻¹]` for `W = [U; V]`, U square (arXiv 2104.07167).
    """
    rows, columns = weight.shape[-2:]
    if columns > rows:
        return cayley_transform(weight.mH).mH
    upper, lower = weight[:, :columns], weight[:, columns:]
    skew = upper - upper.mH
    if rows > columns:
        skew = skew + torch.bmm(lower.mH, lower)
    identity = torch.eye(columns, dtype=weight.dtype, device=weight.device)
    inverted = inverse(identity + skew)
    square = 2 * inverted - identity
    return square if rows == columns else torch.cat((square, -2 * torch.bmm(lower, inverted)), dim=1)


class CayleyConv2d(LipschitzConv2d):
    """`y = Q ∗ x + bias`, circular padding, Q the Cayley transform of `α K / ‖K‖` in the Fourier domain; exactly orthogonal.

    α is learnable and starts at ‖K‖. Raises `UnsupportedError` where the kernel is larger than the image.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        if kernel_size > image_size:
            raise errors.kernel_exceeds_image("Cayley", kernel_size, image_size)
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size)
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias
        self.alpha = nn.Parameter(torch.linalg.vector_norm(convolution.weight.detach()))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        if self.kernel_size > image_size:
            raise errors.kernel_exceeds_image("Cayley", self.kernel_size, image_size)
        return self._transformed((self.alpha / torch.linalg.vector_norm(self.weight)) * self.weight, image_size)

    def _transformed(self, kernel: Tensor, image_size: int) -> tuple[Tensor, ...]:
        """The orthogonal blocks of a kernel, as the input half takes them."""
        return (cayley_transform(kernel_spectrum(kernel, image_size)),)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return apply_spectrum(x, effective[0]) + self.bias[:, None, None]


class LeanCayleyConv2d(CayleyConv2d):
    """The same function in real arithmetic, with Fourier transforms as products."""

    def _transformed(self, kernel: Tensor, image_size: int) -> tuple[Tensor, ...]:
        return lean_cayley_transform(*kernel_blocks(kernel, image_size), self.training)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        real, imaginary = effective
        with self._without_autocast():  # as complex products are
            return apply_blocks(x, real, imaginary, self.training) + self.bias[:, None, None]


class CayleyLinear(LipschitzLinear):
    """`y = Q x + bias`, Q the Cayley transform of `α W / ‖W‖`, W (out, in)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        linear = nn.Linear(in_features, out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.alpha = nn.Parameter(torch.linalg.vector_norm(linear.weight.detach()))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        scaled = (self.alpha / torch.linalg.vector_norm(self.weight)) * self.weight
        return (cayley_transform(scaled[None])[0],)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return functional.linear(x, effective[0], self.bias)


def half_plane(size: sympy.Expr) -> sympy.Expr:
    """Number of frequencies in the half plane of a real size × size image."""
    return size * (sympy.floor(size / 2) + 1)


def fft_macs(size: sympy.Expr) -> sympy.Expr:
    """Real MACs of one real Fourier transform of size × size points: half of 5/2 n log₂ n, n = size²."""
    return sympy.Rational(5, 2) * size**2 * sympy.log(size, 2)


# A real Fourier transform keeps its input for the backward pass; for a kernel, this is the copy padded to s × s. Its gradient
# needs a complex transform, twice the MACs; the gradient of the inverse transform needs a real one. The gradient of a matrix
# inverse needs two products.
EXACT = Complexity(
    Cost(
        4 * b * half_plane(s) * c**2 + 2 * b * c * fft_macs(s),
        M + 2 * b * c * half_plane(s),
        8 * b * half_plane(s) * c**2 + 3 * b * c * fft_macs(s),
    ),
    Cost(
        c**2 * fft_macs(s) + 4 * half_plane(s) * c**3,
        P + s**2 * c**2 + 4 * half_plane(s) * c**2 + 2 * half_plane(s) + 3,
        2 * c**2 * fft_macs(s) + 8 * half_plane(s) * c**3,
    ),
)

# The inverse is kept beside the result, and its gradient takes six real products.
EXACT_LEAN = Complexity(
    applied_cost(s),
    blocks_cost(s) + Cost(4 * half_plane(s) * c**3, P + 4 * half_plane(s) * c**2 + 3, 6 * half_plane(s) * c**3),
)

INVERSE, HEAD_INVERSE = Cost(4 * half_plane(s) * c**3, 2 * half_plane(s) * c**2), Cost(c**3, c**2)
"""what recomputation does not repeat, in a convolution and in a head"""

METHOD = Method(
    name="cayley",
    title="Cayley",
    source="Trockman & Kolter, ICLR 2021, arXiv 2104.07167",
    implementations={
        "paper": Implementation(CayleyConv2d, EXACT, tail=4 * b * half_plane(s) * c**2 + b * c * fft_macs(s)),
        "lean": Implementation(LeanCayleyConv2d, EXACT_LEAN, tail=last_macs(s)),
    },
    advance=INVERSE,
    published=Complexity(
        Cost(b * s**2 * c**2, sympy.Rational(5, 2) * M), Cost(s**2 * c**3, sympy.Rational(3, 2) * s**2 * c**2)
    ),
    published_operations=("FFTs & MVs", "FFTs & INVs"),
    orthogonal=True,
    head=Head(
        CayleyLinear,
        Complexity(Cost(b * c**2, b * c, 2 * b * c**2), Cost(c**3, 3 * c**2 + 3, 2 * c**3)),
        advance=HEAD_INVERSE,
        tail=b * c**2,
    ),
)
