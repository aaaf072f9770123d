"""Calls to measure: every form of `prediction.forms`, at any of its sizes, as PyTorch's operations that layers use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

aten = torch.ops.aten

Call = Callable[[], object]
MOST_WORK = 4e8
"""multiply-accumulates, or bytes, of a call that is measured; larger calls take as long as their work says"""


@dataclass(frozen=True)
class Measured:
    """A form in one dtype, and where it is measured."""

    form: str
    dtype: torch.dtype
    axes: tuple[tuple[int, ...], ...]
    make: Callable[..., Call]
    """sizes and dtype → the call"""
    work: Callable[..., float]
    """sizes → multiply-accumulates or bytes"""


# ------------------------------------------------------------------------------------------------------------- the makers


def _products(matrices: int, side: int, dtype: torch.dtype) -> Call:
    one, other = (torch.randn(matrices, side, side, dtype=dtype) for _ in range(2))
    if matrices == 1:
        return lambda: torch.mm(one[0], other[0])
    return lambda: torch.bmm(one, other)


def _rearranged_products(matrices: int, side: int, dtype: torch.dtype) -> Call:
    """The second factor has the number of the matrix as its last dimension, as spectra of images have."""
    one, other = torch.randn(matrices, side, side, dtype=dtype), torch.randn(side, side, matrices, dtype=dtype)
    return lambda: torch.bmm(one, other.permute(2, 0, 1))


def _vectors(matrices: int, elements: int, dtype: torch.dtype) -> Call:
    side = math.isqrt(elements)
    one, other = torch.randn(matrices, side, side, dtype=dtype), torch.randn(matrices, side, 1, dtype=dtype)
    return lambda: torch.bmm(one, other)


def _convolved(transposed: bool, wanted: tuple[bool, bool] | None = None) -> Callable[..., Call]:
    """The maker of a convolution, or of its gradients: of the input, of the weight, or of both."""

    def make(images: int, channels: int, side: int, kernel: int, dtype: torch.dtype) -> Call:
        x, gradient = (torch.randn(images, channels, side, side, dtype=dtype) for _ in range(2))
        weight = torch.randn(channels, channels, kernel, kernel, dtype=dtype)
        padding = [kernel // 2] * 2
        settings = ([1, 1], padding, [1, 1], transposed, [0, 0], 1)
        if wanted is None:
            return lambda: aten.convolution(x, weight, None, *settings)
        return lambda: aten.convolution_backward(gradient, x, weight, None, *settings, [*wanted, False])

    return make


def _transformed(name: str, rearranged: bool) -> Callable[..., Call]:
    """The maker of Fourier transforms of images; rearranged ones have the number of the image as their last dimension."""

    def make(images: int, side: int, dtype: torch.dtype) -> Call:
        columns = side if name != "_fft_c2r" else side // 2 + 1
        dtype = dtype if name == "_fft_r2c" else dtype.to_complex()
        x = torch.randn(side, columns, images, dtype=dtype).permute(2, 0, 1)
        x = x if rearranged else x.contiguous()
        if name == "_fft_r2c":
            return lambda: aten._fft_r2c(x, [1, 2], 0, True)
        if name == "_fft_c2r":
            return lambda: aten._fft_c2r(x, [1, 2], 2, side)
        return lambda: aten._fft_c2c(x, [1, 2], 0, True)

    return make


def _decomposed(operation: Callable[[Tensor], object]) -> Callable[..., Call]:
    """The maker of an operation on symmetric, well-conditioned matrices."""

    def make(matrices: int, side: int, dtype: torch.dtype) -> Call:
        a = torch.randn(matrices, side, side, dtype=dtype)
        a = a @ a.mH / side + torch.eye(side, dtype=dtype)
        return lambda: operation(a)

    return make


def _sum(x: Tensor) -> object:
    return x.sum()


def _elementwise(operands: int, result: int, run: Callable[..., object]) -> Callable[..., Call]:
    """The maker of an operation of vectors that moves so many bytes: those of its operands and its result."""

    def make(size: int, dtype: torch.dtype) -> Call:
        count = max(1, size // ((operands + result) * dtype.itemsize))
        given = [torch.randn(count, dtype=dtype) for _ in range(max(operands, 1))]
        return lambda: run(*given)

    return make


def _norms(size: int, dtype: torch.dtype) -> Call:
    """The norms of matrices."""
    x = torch.randn(max(1, size // (dtype.itemsize * 32 * 32)), 32, 32, dtype=dtype)
    return lambda: torch.linalg.vector_norm(x, dim=(1, 2))


def _sliced(size: int, dtype: torch.dtype) -> Call:
    """The gradient of images without their outer columns; it is read as rows, and written with the columns."""
    count = max(1, size // (dtype.itemsize * 16 * 16 * 34))
    x = torch.randn(count, 16, 16, 16, dtype=dtype)
    return lambda: aten.slice_backward(x, (count, 16, 16, 18), 3, 1, 17, 1)


def _some_dimensions(size: int, dtype: torch.dtype) -> Call:
    """A sum over images and positions, as that of the gradient of a bias."""
    count = max(1, size // (dtype.itemsize * 16 * 64))
    x = torch.randn(count, 16, 8, 8, dtype=dtype)
    return lambda: x.sum((0, 2, 3))


def _rearranged(size: int, run: int, dtype: torch.dtype) -> Call:
    """A copy that takes rows of `run` bytes out of wider ones, or single elements from one column after another."""
    width = run // dtype.itemsize
    rows = max(1, size // (2 * run))
    if width > 1:
        x, y = torch.randn(rows, width + 2, dtype=dtype)[:, :width], torch.empty(rows, width, dtype=dtype)
    else:
        side = max(1, math.isqrt(rows))
        x, y = torch.randn(side, side, dtype=dtype).T, torch.empty(side, side, dtype=dtype)
    return lambda: y.copy_(x)


# ----------------------------------------------------------------------------------------------------------- what is measured


def _convolution_work(images: int, channels: int, side: int, kernel: int) -> float:
    return images * (channels * side * kernel) ** 2


def _cubic(matrices: int, side: int) -> float:
    return matrices * side**3


def _bytes(size: int, *_: int) -> float:
    return size


_SIDES = (4, 8, 16, 32, 64, 128, 256)
_BYTES = tuple(2**power for power in (8, 12, 15, 17, 18, 19, 20, 21, 22, 23, 24, 26))
_IMAGES = ((1, 32), (8, 16, 32, 64, 128), (4, 8, 16, 32), (1, 3))
_FEW_IMAGES = ((1, 32), (16, 64), (4, 16), (1, 3))
_SPECTRA = ((16, 512, 8192), (4, 8, 16, 18, 32, 34, 64))
F32, F64, C64 = torch.float32, torch.float64, torch.complex64
_BOTH, _INPUT, _WEIGHT = (True, True), (True, False), (False, True)


def _of_convolutions() -> tuple[Measured, ...]:
    found = []
    for transposed, name in ((False, "convolution"), (True, "transposed convolution")):
        found += [
            Measured(name, F32, _IMAGES, _convolved(transposed), _convolution_work),
            Measured(f"gradients of a {name}", F32, _IMAGES, _convolved(transposed, _BOTH), _convolution_work),
            Measured(f"input gradient of a {name}", F32, _FEW_IMAGES, _convolved(transposed, _INPUT), _convolution_work),
            Measured(f"weight gradient of a {name}", F32, _FEW_IMAGES, _convolved(transposed, _WEIGHT), _convolution_work),
        ]
    return tuple(found)


def _of_transforms() -> tuple[Measured, ...]:
    names = {"_fft_r2c": "real transform", "_fft_c2r": "inverse real transform", "_fft_c2c": "complex transform"}
    return tuple(
        Measured(f"{form}{' of rearranged images' if rearranged else ''}", F32, _SPECTRA, _transformed(name, rearranged),
                 lambda images, side: 40 * images * side**2)
        for name, form in names.items() for rearranged in (False, True)
    )  # fmt: skip


MEASURED: tuple[Measured, ...] = (
    *(Measured("product", dtype, ((1, 8, 64, 512), _SIDES), _products, _cubic) for dtype in (F32, F64, C64)),
    *(Measured("product of rearranged matrices", dtype, ((8, 64, 512), _SIDES[:6]), _rearranged_products, _cubic)
      for dtype in (F32, C64)),
    *(Measured("matrix-vector product", dtype, ((1, 8, 64), (16, 256, 4096, 2**16, 2**20)), _vectors, lambda m, n: 8 * m * n)
      for dtype in (F32, C64)),
    *_of_convolutions(),
    *_of_transforms(),
    *(Measured("inverse", dtype, ((1, 16, 160), (4, 16, 32, 64, 128)), _decomposed(torch.linalg.inv_ex),
               lambda matrices, side: 8 * _cubic(matrices, side)) for dtype in (F32, C64)),
    Measured("solve", F32, ((1, 16), (16, 64, 128)), _decomposed(lambda a: torch.linalg.solve(a, a)), _cubic),
    Measured("cholesky", F32, ((1, 16), (16, 64, 128)), _decomposed(torch.linalg.cholesky_ex), _cubic),
    Measured("qr", F32, ((1, 16), (16, 64, 128)), _decomposed(torch.linalg.qr), _cubic),
    Measured("elementwise", F32, (_BYTES,), _elementwise(2, 1, torch.add), _bytes),
    Measured("complex elementwise", C64, (_BYTES,), _elementwise(2, 1, torch.mul), _bytes),
    Measured("fill", F32, (_BYTES,), _elementwise(0, 1, torch.zeros_like), _bytes),
    Measured("reduction", F32, (_BYTES,), _elementwise(1, 0, _sum), _bytes),
    Measured("reduction of some dimensions", F32, (_BYTES[1:],), _some_dimensions, _bytes),
    Measured("norm", F32, (_BYTES,), _elementwise(1, 0, torch.linalg.vector_norm), _bytes),
    *(Measured("norm of some dimensions", dtype, (_BYTES[2:],), _norms, _bytes) for dtype in (F32, C64)),
    Measured("gradient of a slice", F32, (_BYTES[3:],), _sliced, _bytes),
    Measured("rearrangement", F32, (_BYTES[::2], (4, 16, 64, 256, 1024)), _rearranged, _bytes),
)  # fmt: skip
"""all that `calibrate` measures"""
