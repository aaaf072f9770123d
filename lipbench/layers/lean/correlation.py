"""The absolute self-correlation of a kernel, summed over shifts, from half of the shifts and without a tensor of all of them.

The correlation v[i, j, δ] = Σ_o Σ_p K[o, i, p] K[o, j, p + δ] has v[j, i, −δ] = v[i, j, δ]. So the shifts δ = (δ_y, δ_x) with
δ_y > 0, or δ_y = 0 and δ_x ≥ 0, give all of them: 13 of 25 for k = 3. For each δ_y, k products of matrices add up the shifts
−k < δ_x < k side by side in one buffer, and no product falls on padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import Tensor

from lipbench.layers.lean.derivatives import Gradients, first_alone
from lipbench.theory import c, k

PRODUCTS = k**2 * (k**2 + 1) / 2
"""pairs of taps with a shift in that half"""
MACS = c**3 * PRODUCTS
BACKWARD_MACS = c**3 * k**4
"""two products for each pair of taps, and one for a tap with itself, where the correlation is symmetric"""
MEMORY = c**2 * ((2 * k - 1) ** 2 + 1) / 2
"""signs kept for the backward pass, one byte each"""
FEWEST_CHANNELS = 64
"""channels from which this is quicker than one convolution with all shifts, on a CPU"""


def by_size(lean: sympy.Expr, paper: sympy.Expr) -> sympy.Piecewise:
    """The cost of this form where there are enough channels, that of all shifts elsewhere."""
    return sympy.Piecewise((lean, c >= FEWEST_CHANNELS), (paper, True))


def pays(kernel: Tensor, training: bool) -> bool:
    """Whether to use this form for a kernel (o, i, k, k): in evaluation with gradients, these have all derivatives."""
    return kernel.shape[1] >= FEWEST_CHANNELS and (training or not torch.is_grad_enabled())


def absolute_correlation(kernel: Tensor) -> Tensor:
    """`Σ_δ |v[i, j, δ]|` of a kernel (o, i, k, k), a symmetric matrix (i, i). It has a first derivative, backward only."""
    if torch.is_grad_enabled() and kernel.requires_grad:
        total: Tensor = _AbsoluteCorrelation.apply(kernel)  # type: ignore[no-untyped-call]  # torch gives it no types
        return total
    return _correlate(kernel, with_signs=False)[0]


class _AbsoluteCorrelation(torch.autograd.Function):
    """Keeps the kernel and the signs of its correlation."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor) -> Tensor:
        total, signs = _correlate(kernel, with_signs=True)
        ctx.save_for_backward(kernel, *signs)
        return total

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        kernel, *signs = ctx.saved_tensors
        return (_correlate_backward(kernel, signs, gradient),)


def _correlate(kernel: Tensor, with_signs: bool) -> tuple[Tensor, list[Tensor]]:
    """The sum (i, i), and for each δ_y the signs (i, shifts, i) of the correlation."""
    inputs, size = kernel.shape[1], kernel.shape[-1]
    rows = _rows(kernel)
    signs: list[Tensor] = []
    half = torch.zeros(inputs, inputs, dtype=kernel.dtype, device=kernel.device)
    for down in range(size):
        shifts = _shifts(size, down)
        found = torch.zeros(inputs, shifts * inputs, dtype=kernel.dtype, device=kernel.device)
        upper, lower = _pairs(rows, down, size)
        for tap, others, places in _windows(size, inputs, down):
            found[:, places].addmm_(upper[:, tap].T, lower[:, others])
        correlation = found.view(inputs, shifts, inputs)
        if with_signs:
            signs.append(correlation.sign().to(torch.int8))
        correlation.abs_()
        if down == 0:
            middle = correlation[:, 0]
            correlation = correlation[:, 1:]
        half += correlation.sum(1)
    return half + half.T + middle, signs


def _correlate_backward(kernel: Tensor, signs: list[Tensor], gradient: Tensor) -> Tensor:
    """The gradient of the kernel (o, i, k, k) from that of the sum (i, i)."""
    outputs, inputs, size, _ = kernel.shape
    symmetric = (gradient + gradient.T)[:, None]  # an entry of the correlation is in the sum twice
    rows = _rows(kernel)
    found = torch.zeros_like(rows)
    for down, sign in enumerate(signs):
        slopes = (symmetric * sign).view(inputs, -1)
        upper, lower = _pairs(rows, down, size)
        upper_found, lower_found = _pairs(found, down, size)
        for tap, others, places in _windows(size, inputs, down):
            lower_found[:, others].addmm_(upper[:, tap], slopes[:, places])
            if down == 0:  # the tap with itself has its whole gradient from the line above
                others = slice(others.start + inputs, others.stop)
                places = slice(places.start + inputs, places.stop)
            upper_found[:, tap].addmm_(lower[:, others], slopes[:, places].T)
    return found.view(size, outputs, size, inputs).permute(1, 3, 0, 2)


def _rows(kernel: Tensor) -> Tensor:
    """The taps of a kernel (o, i, k, k) as a matrix (k o, k i): its rows one below the other, its columns side by side."""
    outputs, inputs, size, _ = kernel.shape
    return kernel.permute(2, 0, 3, 1).reshape(size * outputs, size * inputs)


def _shifts(size: int, down: int) -> int:
    """Number of shifts δ_x for one δ_y."""
    return 2 * size - 1 if down else size


def _pairs(rows: Tensor, down: int, size: int) -> tuple[Tensor, Tensor]:
    """The rows that have a partner `down` rows of the kernel below, and these partners: views."""
    beside = rows.shape[0] // size * down
    return rows[: rows.shape[0] - beside], rows[beside:]


def _windows(size: int, inputs: int, down: int) -> Iterator[tuple[slice, slice, slice]]:
    """For each column of taps: its channels, those of the columns that it is multiplied by, and the places of their shifts."""
    for tap in range(size):
        first, lowest = (0, 1 - size) if down else (tap, 0)
        start = first - tap - lowest
        yield (
            slice(tap * inputs, (tap + 1) * inputs),
            slice(first * inputs, size * inputs),
            slice(start * inputs, (start + size - first) * inputs),
        )
