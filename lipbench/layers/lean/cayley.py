"""The Cayley transform of complex matrices by parts, for Cayley's `lean` implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipbench.layers.base import without_autocast
from lipbench.layers.lean.derivatives import Gradients, first_alone
from lipbench.recomputation import computed_once


def inverse(matrices: Tensor) -> Tensor:
    """The inverses of matrices (f, n, n), by rows, which recomputation does not repeat.

    By `inv_ex()`, since `inv()` would wait for the device to check for errors. LAPACK's result is column-major, and products of
    the input half want rows: the inverse of the transpose is the transpose of the inverse.
    """
    return computed_once(lambda matrix: torch.linalg.inv_ex(matrix).inverse, matrices.mT).mT


def _inverse(real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """Parts of `(I + S)⁻¹` for S of these parts (f, n, n)."""
    identity = torch.eye(real.shape[-1], dtype=real.dtype, device=real.device)
    found = inverse(torch.complex(identity + real, imaginary))
    return found.real.contiguous(), found.imag.contiguous()


class _Inverse(torch.autograd.Function):
    """`B = (I + S)⁻¹`; the gradient is `−Bᴴ G Bᴴ`, of two complex products with three real ones each."""

    @staticmethod
    def forward(ctx: Any, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        parts = _inverse(real, imaginary)
        ctx.save_for_backward(*parts)
        return parts

    @staticmethod
    @first_alone
    def backward(ctx: Any, real_gradient: Tensor, imaginary_gradient: Tensor) -> Gradients:
        real, imaginary = ctx.saved_tensors
        with without_autocast(real.device.type):
            total, difference = (real + imaginary).mT, (real - imaginary).mT
            both = torch.bmm(real_gradient + imaginary_gradient, real.mT)
            right_real = torch.baddbmm(both, imaginary_gradient, difference, alpha=-1)
            right_imaginary = both.baddbmm_(real_gradient, total, alpha=-1)
            both = torch.bmm(real.mT, right_real + right_imaginary)
            found_real = torch.bmm(difference, right_imaginary).sub_(both)
            return found_real, torch.bmm(total, right_real).sub_(both)


def lean_cayley_transform(real: Tensor, imaginary: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """Parts of `cayley.cayley_transform` for matrices of these parts (f, o, i).

    In training, the gradient of the inverse has no gradient or tangent of its own.
    """
    rows, columns = real.shape[-2:]
    if columns > rows:
        real, imaginary = lean_cayley_transform(real.mT, -imaginary.mT, training)
        return real.mT, -imaginary.mT
    lower_real, lower_imaginary = real[:, columns:], imaginary[:, columns:]
    skew_real = real[:, :columns] - real[:, :columns].mT
    skew_imaginary = imaginary[:, :columns] + imaginary[:, :columns].mT
    if rows > columns:
        skew_real = skew_real + torch.bmm(lower_real.mT, lower_real) + torch.bmm(lower_imaginary.mT, lower_imaginary)
        mixed = torch.bmm(lower_real.mT, lower_imaginary)
        skew_imaginary = skew_imaginary + mixed - mixed.mT
    inverted: tuple[Tensor, Tensor] = (_Inverse.apply if training else _inverse)(skew_real, skew_imaginary)
    identity = torch.eye(columns, dtype=real.dtype, device=real.device)
    square_real, square_imaginary = 2 * inverted[0] - identity, 2 * inverted[1]
    if rows == columns:
        return square_real, square_imaginary
    rest_real = torch.bmm(lower_real, inverted[0]) - torch.bmm(lower_imaginary, inverted[1])
    rest_imaginary = torch.bmm(lower_real, inverted[1]) + torch.bmm(lower_imaginary, inverted[0])
    return torch.cat((square_real, -2 * rest_real), dim=1), torch.cat((square_imaginary, -2 * rest_imaginary), dim=1)
