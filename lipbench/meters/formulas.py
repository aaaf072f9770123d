"""MACs of PyTorch's operations: formulas in the shapes of their arguments.

Transforms and factorisations have no standard count. Here they count, in real multiply-accumulates: FFT of n points
5/2 · n log₂ n (complex), half of that for real data; inverse of n × n: n³; solve with m right sides: n³/3 + n² m; LU: n³/3;
matrix–vector product: n m. For complex matrices, all but the FFT count four times; the FFT's count is real already. The
factorisations count half of the flops in Golub and Van Loan, Matrix Computations (4th ed.): LU §3.2, Cholesky §4.2, Householder
QR and its Q §5.2, with the terms of all orders but the lowest. Iterative ones (SVD, eigenvalues, exponential) have no formula,
because their number of steps depends on the values.

The comparison paper counts a complex multiply-accumulate as one, also one of a complex and a real number; `per_published`
converts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Formula = Callable[..., float]


def _complex_factor(*tensors: Tensor) -> int:
    """Real MACs per MAC between these tensors."""
    if not any(tensor.is_complex() for tensor in tensors):
        return 1
    return 4 if all(tensor.is_complex() for tensor in tensors) else 2


def product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> float:
    """MACs of (…, n, k) · (…, k, m), (…, n, k) · (k,) or (k,) · (k,)."""
    columns = b.shape[-1] if b.dim() > 1 else 1
    return _complex_factor(a, b) * a.numel() * columns


def added_product(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> float:
    """MACs of a product that is added to a first argument."""
    return product(a, b)


def convolution(x: Tensor, weight: Tensor, *settings: Any, out_val: Tensor, **_: Any) -> float:
    """MACs of a convolution: one per weight and position of the output, or of the input if transposed. Padding counts.

    `settings` are bias, stride, padding, dilation, transposed, …
    """
    transposed = len(settings) > 4 and settings[4]
    positions = (x if transposed else out_val).shape[2:]
    return _complex_factor(x, weight) * x.shape[0] * weight.numel() * math.prod(positions)


def convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *settings: Any, **_: Any) -> float:
    """MACs of the backward pass: those of the forward pass for each wanted gradient of input and weight; none for the bias.

    `settings` are bias sizes, stride, padding, dilation, transposed, output padding, groups, output mask.
    """
    transposed, wanted = bool(settings[4]), settings[7]
    gradients = int(wanted[0]) + int(wanted[1])
    positions = (x if transposed else gradient).shape[2:]
    return _complex_factor(x, weight) * x.shape[0] * weight.numel() * math.prod(positions) * gradients


def fft(sizes: Sequence[int], dimensions: Sequence[int], real: bool) -> float:
    """MACs of all transforms of a tensor of these sizes over these dimensions."""
    points = math.prod(sizes[dimension] for dimension in dimensions)
    return (1.25 if real else 2.5) * math.prod(sizes) * math.log2(points)


def _fft_c2c(x: Tensor, dimensions: list[int], *_: Any, **__: Any) -> float:
    return fft(x.shape, dimensions, real=False)


def _fft_r2c(x: Tensor, dimensions: list[int], *_: Any, **__: Any) -> float:
    return fft(x.shape, dimensions, real=True)


def _fft_c2r(x: Tensor, dimensions: list[int], *_: Any, out_val: Tensor, **__: Any) -> float:
    return fft(out_val.shape, dimensions, real=True)


def inverse(a: Tensor, *_: Any, **__: Any) -> float:
    """MACs of the inverse of a (…, n, n)."""
    return _complex_factor(a) * a.numel() * a.shape[-1]


def _eliminated(a: Tensor, steps: int) -> float:
    """MACs of `steps` rank-one updates of a (…, m, n), of which each leaves out one row and one column more."""
    m, n = a.shape[-2:]
    return _complex_factor(a) * math.prod(a.shape[:-2]) * (6 * m * n * steps - 3 * (m + n) * steps**2 + 2 * steps**3) / 6


def lu(a: Tensor, *_: Any, **__: Any) -> float:
    """MACs of the LU factorisation of a (…, m, n): n³/3 if it is square."""
    return _eliminated(a, min(a.shape[-2:]))


def cholesky(a: Tensor, *_: Any, **__: Any) -> float:
    """MACs of a symmetric factorisation (Cholesky, LDLᵀ) of a (…, n, n): half of LU, n³/6."""
    return lu(a) / 2


def reflectors(a: Tensor, *_: Any, **__: Any) -> float:
    """MACs of the Householder factorisation of a (…, m, n), without its Q: n² m − n³/3 if m ≥ n. Twice LU."""
    return 2 * lu(a)


def householder_product(a: Tensor, tau: Tensor, *_: Any, **__: Any) -> float:
    """MACs of the first n columns of the product of k reflectors of length m, for a (…, m, n) and tau (…, k)."""
    return 2 * _eliminated(a, tau.shape[-1])


def qr(a: Tensor, *_: Any, out_val: Any, **__: Any) -> float:
    """MACs of a QR factorisation: that by reflectors, and the columns of Q that are formed; none in mode 'r'."""
    formed = out_val[0]
    return reflectors(a) + (2 * _eliminated(formed, min(a.shape[-2:])) if formed.numel() else 0)


def solve(a: Tensor, b: Tensor, *_: Any, out_val: Any, **__: Any) -> float:
    """MACs of a solve with a (…, n, n) and right sides b (…, n, m), or (…, n), or (…, m, n) from the right."""
    return lu(a) + _substitution(a, out_val[0])


def lu_solve(a: Tensor, *_: Any, out_val: Tensor, **__: Any) -> float:
    """MACs of a solve with a given factorisation a (…, n, n): the second half of `solve`."""
    return _substitution(a, out_val)


def triangular_solve(a: Tensor, *_: Any, out_val: Tensor, **__: Any) -> float:
    """MACs of a solve with a triangular matrix: half of `lu_solve`."""
    return _substitution(a, out_val) / 2


def cholesky_solve(b: Tensor, factor: Tensor, *_: Any, out_val: Tensor, **__: Any) -> float:
    """MACs of a solve with a given symmetric factorisation: as many as `lu_solve`."""
    return _substitution(factor, out_val)


def _substitution(a: Tensor, solution: Tensor) -> float:
    """MACs of forward and backward substitution: n² for each of the solution's vectors of length n."""
    return _complex_factor(a) * solution.numel() * a.shape[-1]


MACS: dict[Any, Formula] = {
    aten.mm: product,
    aten.bmm: product,
    aten.mv: product,
    aten.dot: product,
    aten.vdot: product,
    aten.addmm: added_product,
    aten.addmm_: added_product,
    aten.addmv: added_product,
    aten.addmv_: added_product,
    aten.baddbmm: added_product,
    aten.baddbmm_: added_product,
    aten.addbmm: added_product,
    aten.addbmm_: added_product,
    aten._int_mm: product,
    aten._addmm_activation: added_product,
    aten.convolution: convolution,
    aten.convolution_backward: convolution_backward,
    aten._fft_c2c: _fft_c2c,
    aten._fft_r2c: _fft_r2c,
    aten._fft_c2r: _fft_c2r,
    aten.linalg_inv_ex: inverse,
    aten._linalg_solve_ex: solve,
    aten.linalg_lu_factor_ex: lu,
    aten.linalg_lu: lu,
    aten._linalg_det: lu,
    aten._linalg_slogdet: lu,
    aten.linalg_lu_solve: lu_solve,
    aten.linalg_cholesky_ex: cholesky,
    aten.linalg_ldl_factor_ex: cholesky,
    aten.cholesky_solve: cholesky_solve,
    aten.linalg_ldl_solve: lu_solve,
    aten.geqrf: reflectors,
    aten.linalg_qr: qr,
    aten.linalg_householder_product: householder_product,
    aten.linalg_solve_triangular: triangular_solve,
}
"""operation → formula for its real MACs, in its arguments and its result `out_val`"""


def _as_flops(macs: Formula) -> Formula:
    """A formula in the form that `FlopCounterMode(custom_mapping=…)` needs: it gives FLOPs, and takes tensors, not shapes."""

    def flops(*arguments: Any, **named: Any) -> float:
        return 2 * macs(*arguments, **named)

    flops._get_raw = True  # type: ignore[attr-defined]  # otherwise it gets shapes, which do not show complex numbers
    return flops


_TRANSFORMS = (aten._fft_c2c, aten._fft_r2c, aten._fft_c2r)


def per_published(operation: Any, arguments: Sequence[Any]) -> int:
    """Real MACs per MAC in the paper's convention: 4 for transforms and complex numbers, 2 for complex times real, else 1."""
    if operation in _TRANSFORMS:
        return 4
    numbers = [one for one in arguments if isinstance(one, Tensor) and (one.is_complex() or one.is_floating_point())]
    return _complex_factor(*numbers)


FORMULAS = {operation: _as_flops(formula) for operation, formula in MACS.items()}
"""operation → formula for its FLOPs; these replace and extend PyTorch's formulas"""
