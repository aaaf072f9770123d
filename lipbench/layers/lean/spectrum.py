"""Fourier blocks in real arithmetic, for `lean` implementations: transforms as products with small matrices.

A complex array is a pair of real ones, and the transforms of images as small as those of layers are matrix products. These
write the frequencies in the order in which the next product reads them, and take zero padding and cropping for nothing. Complex
products would copy each conjugated or strided matrix on its own.
"""

from __future__ import annotations

import math
from typing import Any

import sympy
import torch
from torch import Tensor

from lipbench.layers.base import without_autocast
from lipbench.layers.lean.derivatives import Gradients, first_alone
from lipbench.recomputation import is_repeated
from lipbench.theory import Cost, b, c, k, s

# In the shapes below, m = ⌊n/2⌋ + 1 and f = n m is the number of frequencies in the half plane of a real n × n image.


def waves(size: int, frequencies: int, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of `exp(−2πi u p/size)`, each (frequencies, len(p)), for integers u < `frequencies` and p.

    Angles are reduced in integers, so that no rounding grows with the size.
    """
    turns = torch.arange(frequencies, device=positions.device)[:, None] * positions % size
    angle = turns.to(torch.float64) * (-2 * math.pi / size)
    return angle.cos().to(dtype), angle.sin().to(dtype)


class Torus:
    """Transforms between real s × s images, which lie `padding` from the edges of an n × n torus, and its spectrum."""

    def __init__(self, image_size: int, padding: int, like: Tensor) -> None:
        self.image_size = image_size
        self.size = n = image_size + 2 * padding
        self.columns = n // 2 + 1
        places = torch.arange(padding, padding + image_size, device=like.device)
        self.real, self.imaginary = waves(n, n, places, like.dtype)
        """(n, s) each"""
        # A frequency and its conjugate count for two; the first column and, for even n, the last have none.
        weights = torch.full((self.columns, 1), 2 / n**2, dtype=like.dtype, device=like.device)
        weights[0] = 1 / n**2
        if n % 2 == 0:
            weights[-1] = 1 / n**2
        self.half = torch.cat((self.real[: self.columns], self.imaginary[: self.columns]))
        """(2m, s): real parts above imaginary ones"""
        self.inverse_half = torch.cat((weights, weights)) * self.half

    def spectrum(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, c, s, s) → real and imaginary part (f, b, c)."""
        batch, channels = x.shape[:2]
        rows = torch.mm(self.half, x.reshape(-1, self.image_size).T).view(2, -1, self.image_size)
        real = torch.mm(self.real, rows[0].T).addmm_(self.imaginary, rows[1].T, alpha=-1)
        imaginary = torch.mm(self.real, rows[1].T).addmm_(self.imaginary, rows[0].T)
        return real.view(-1, batch, channels), imaginary.view(-1, batch, channels)

    def image(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """Real and imaginary part (f, b, c) → the s × s image at its place, (b, c, s, s)."""
        batch, channels = real.shape[1:]
        real, imaginary = real.view(self.size, -1), imaginary.view(self.size, -1)
        rows = torch.mm(self.real.T, real).addmm_(self.imaginary.T, imaginary)
        shape = (self.image_size, self.columns, -1)
        x = torch.bmm(rows.view(shape).mT, self.inverse_half[: self.columns].expand(self.image_size, -1, -1))
        rows = torch.mm(self.real.T, imaginary).addmm_(self.imaginary.T, real, alpha=-1)
        x.baddbmm_(rows.view(shape).mT, self.inverse_half[self.columns :].expand(self.image_size, -1, -1))
        return x.view(self.image_size, batch, channels, self.image_size).permute(1, 2, 0, 3).contiguous()


def kernel_blocks(kernel: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Fourier blocks (f, o, i) of the circular cross-correlation with a centred kernel (o, i, k, k), on a torus of n × n."""
    radius, columns = kernel.shape[-1] // 2, size // 2 + 1
    places = torch.arange(radius, -radius - 1, -1, device=kernel.device)  # mirrored: a correlation has conjugate blocks
    row_real, row_imaginary = (part[:, None, :, None] for part in waves(size, size, places, kernel.dtype))
    real, imaginary = (part[:columns, None, :] for part in waves(size, columns, places, kernel.dtype))
    both = torch.stack((row_real * real - row_imaginary * imaginary, row_real * imaginary + row_imaginary * real))
    blocks = torch.mm(both.view(-1, kernel.shape[-1] ** 2), kernel.flatten(0, 1).flatten(1).T)
    real, imaginary = blocks.view(2, -1, *kernel.shape[:2]).unbind()
    return real, imaginary


def apply_blocks(x: Tensor, real: Tensor, imaginary: Tensor, training: bool, padding: int = 0) -> Tensor:
    """Product of every frequency of x (b, i, s, s) with its block, given by parts (f, o, i): (b, o, s, s).

    It is computed in the precision of the blocks. In training it has a first derivative alone, backward alone, and must come
    last in an input half, but for what is added to it.
    """
    torus = Torus(x.shape[-1], padding, real)
    spectrum = torus.spectrum(x.to(real.dtype))
    if training:
        y: Tensor = _Applied.apply(*spectrum, real, imaginary, torus)  # type: ignore[no-untyped-call]  # torch gives it no types
        return y
    return torus.image(*_products(*spectrum, real, imaginary))


def _products(x_real: Tensor, x_imaginary: Tensor, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of `x Bᵀ` for a spectrum x (f, b, i) and blocks B (f, o, i): (f, b, o)."""
    y_real = torch.bmm(x_real, real.mT).baddbmm_(x_imaginary, imaginary.mT, alpha=-1)
    return y_real, torch.bmm(x_real, imaginary.mT).baddbmm_(x_imaginary, real.mT)


class _Applied(torch.autograd.Function):
    """The image of the product of a spectrum with blocks; keeps both."""

    @staticmethod
    def forward(ctx: Any, x_real: Tensor, x_imaginary: Tensor, real: Tensor, imaginary: Tensor, torus: Torus) -> Tensor:
        ctx.save_for_backward(x_real, x_imaginary, real, imaginary, torus.real, torus.imaginary, torus.inverse_half)
        if is_repeated():
            size = torus.image_size
            return real.new_empty(()).expand(x_real.shape[1], real.shape[1], size, size)
        return torus.image(*_products(x_real, x_imaginary, real, imaginary))

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x_real, x_imaginary, real, imaginary, *waves = ctx.saved_tensors
        with without_autocast(gradient.device.type):
            y_real, y_imaginary = _image_gradient(gradient, *waves)
            of_blocks: list[Tensor | None] = [None, None]
            if ctx.needs_input_grad[2]:
                of_blocks = [
                    torch.bmm(y_real.mT, x_real).baddbmm_(y_imaginary.mT, x_imaginary),
                    torch.bmm(y_imaginary.mT, x_real).baddbmm_(y_real.mT, x_imaginary, alpha=-1),
                ]
            of_spectrum: list[Tensor | None] = [None, None]
            if ctx.needs_input_grad[0]:
                of_spectrum = [
                    torch.bmm(y_real, real).baddbmm_(y_imaginary, imaginary),
                    torch.bmm(y_imaginary, real).baddbmm_(y_real, imaginary, alpha=-1),
                ]
        return *of_spectrum, *of_blocks, None


def _image_gradient(gradient: Tensor, real: Tensor, imaginary: Tensor, inverse_half: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of both parts (f, b, c) of a spectrum from that of `Torus.image`, (b, c, s, s), and its waves."""
    batch, channels, size = gradient.shape[:3]
    images = gradient.permute(2, 0, 1, 3).reshape(size, -1, size)
    rows = torch.bmm(inverse_half.expand(size, -1, -1), images.mT)
    first, second = rows.view(size, 2, -1).unbind(1)
    y_real = torch.mm(real, first).addmm_(imaginary, second, alpha=-1)
    y_imaginary = torch.mm(imaginary, first).addmm_(real, second)
    return y_real.view(-1, batch, channels), y_imaginary.view(-1, batch, channels)


def applied_cost(size: sympy.Expr) -> Cost:
    """Cost of `apply_blocks` on a torus of size × size, without the blocks and waves that it keeps."""
    columns = sympy.floor(size / 2) + 1
    products, transform = 4 * b * size * columns * c**2, transform_macs(size)
    return Cost(products + 2 * transform, 2 * b * c * size * columns, 2 * products + 2 * transform)


def transform_macs(size: sympy.Expr) -> sympy.Expr:
    """MACs of one transform between a batch of images and their spectrum on a torus of size × size."""
    columns = sympy.floor(size / 2) + 1
    return b * c * (2 * columns * s**2 + 4 * size * columns * s)


def blocks_cost(size: sympy.Expr) -> Cost:
    """Cost of `kernel_blocks` without the blocks, and with the waves that both functions keep, whatever the batch."""
    columns = sympy.floor(size / 2) + 1
    macs = 2 * size * columns * k**2 * c**2
    return Cost(macs, 2 * size * columns * k**2 + 2 * size * s + 4 * columns * s, macs)


def last_macs(size: sympy.Expr) -> sympy.Expr:
    """MACs of `apply_blocks` after the spectrum, which recomputation does not repeat."""
    return applied_cost(size).macs - transform_macs(size)
