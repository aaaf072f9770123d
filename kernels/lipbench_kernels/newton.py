"""Coupled Newton iterations for inverse square roots of small complex matrices: all iterations of a matrix in one program.

`Y_0 = S, Z_0 = I, T_j = (3 I − Z_j Y_j)/2, Y_{j+1} = Y_j T_j, Z_{j+1} = T_j Z_j`, Z → S^(−1/2); Xu, Li & Li, NeurIPS 2022,
arXiv 2210.11620, Alg. 1. Its gradient, with GY, GZ of Y, Z (∂/∂Re + i ∂/∂Im), from the last step to the first:
`GT = Yᴴ GY + GZ Zᴴ; GY ← GY Tᴴ − Zᴴ GT/2; GZ ← Tᴴ GZ − GT Yᴴ/2`, T anew from the kept Y, Z.

A complex matrix is two real planes. One program holds one matrix and reads it in slices, as in `small_matrices.py`.

Planes are (2, f, n, n) float32, real parts first. With `M = 8 f n²` bytes and t steps: forward reads M, writes 2 t M for the
gradient or 4 M without, of that M for T, and does 12 (t − 1) f n³ real MACs; backward reads 2 t M, writes 4 M, does
(28 (t − 1) + 8) f n³.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula
from triton import language as tl

from lipbench_kernels import small_matrices_work as work
from lipbench_kernels.launching import Kernel, check, on_device_of, product, require_precision
from lipbench_kernels.small_matrices import (
    block_of,
    constants_of,
    padded,
    tuned_by_block,
    variants_of,
)

SERVING: dict[int, tuple[str, ...]] = {16: ("warps4",), 32: ("warps4",)}
SERVING_BACKWARD: dict[int, tuple[str, ...]] = {16: ("warps4",), 32: ("warps8",)}
LARGEST = 32
"""in every precision; blocks of 64 × 64 spill"""


def largest(precision: str) -> int:
    """The largest side of the matrices that `newton_inverse_root` takes. Raises `ValueError` for an unknown precision."""
    require_precision("newton_inverse_root", precision)
    return LARGEST


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def multiply_complex(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    x, y, plane, real, imaginary,
    ADJOINT_X: tl.constexpr, ADJOINT_Y: tl.constexpr,
    BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """`(real + i imaginary) + x y`, or with xᴴ, yᴴ, for planes of BLOCK × BLOCK in memory, `plane` elements apart."""
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    for start in range(0, BLOCK, INNER):
        across = start + tl.arange(0, INNER)[None, :]
        down = start + tl.arange(0, INNER)[:, None]
        at_x = across * BLOCK + row if ADJOINT_X else row * BLOCK + across
        at_y = column * BLOCK + down if ADJOINT_Y else down * BLOCK + column
        x_real = tl.load(x + at_x)
        y_real = tl.load(y + at_y)
        real = product(x_real, y_real, real, PRECISION, EMULATED)
        y_imaginary = tl.load(y + plane + at_y)
        if ADJOINT_Y:
            y_imaginary = -y_imaginary
        imaginary = product(x_real, y_imaginary, imaginary, PRECISION, EMULATED)
        x_imaginary = tl.load(x + plane + at_x)
        if ADJOINT_X:
            x_imaginary = -x_imaginary
        imaginary = product(x_imaginary, y_real, imaginary, PRECISION, EMULATED)
        real = product(-x_imaginary, y_imaginary, real, PRECISION, EMULATED)
    return real, imaginary


@triton.jit
def replace_complex(pointers, plane, real, imaginary):  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    """Store values that all threads of the program read next, after all have read the old ones."""
    tl.debug_barrier()
    tl.store(pointers, real)
    tl.store(pointers + plane, imaginary)
    tl.debug_barrier()


@triton.jit(do_not_specialize=["iterations", "count", "apart"])  # type: ignore[untyped-decorator]  # triton gives it no types
def newton_forward(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    planes, result, iterates, factors, iterations, count, apart,
    BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Z_t from S = Y_0; planes, result and factors (T) are (2, f, n, n), contiguous, count = f.

    (Y_j, Z_j), j = 1 … t − 1, go to `iterates` (·, 2, 2, f, n, n), `apart` matrices apart: f keeps all, 0 the last. n = BLOCK.
    T_0 = Z_1 takes no product and Y_t is not made. Reads 8 f n² bytes, writes 16 t f n²; 12 (t − 1) f n³ MACs.
    """
    plane = count.to(tl.int64) * BLOCK * BLOCK
    step_stride = apart.to(tl.int64) * 4 * BLOCK * BLOCK
    matrix = tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    at = row * BLOCK + column
    identity = tl.where(row == column, 1.0, 0.0)
    zeros = tl.zeros((BLOCK, BLOCK), tl.float32)
    y, t = planes + matrix, factors + matrix
    z = t  # Z_1 = T_0
    target = iterates + matrix
    real = 1.5 * identity - 0.5 * tl.load(y + at)
    imaginary = -0.5 * tl.load(y + plane + at)
    replace_complex(t + at, plane, real, imaginary)
    if iterations > 1:
        z = target + 2 * plane
        replace_complex(z + at, plane, real, imaginary)
    for step in range(1, iterations):
        real, imaginary = multiply_complex(y, t, plane, zeros, zeros, False, False, BLOCK, INNER, PRECISION, EMULATED)
        y = target
        replace_complex(y + at, plane, real, imaginary)
        real, imaginary = multiply_complex(z, y, plane, zeros, zeros, False, False, BLOCK, INNER, PRECISION, EMULATED)
        replace_complex(t + at, plane, 1.5 * identity - 0.5 * real, -0.5 * imaginary)
        real, imaginary = multiply_complex(t, z, plane, zeros, zeros, False, False, BLOCK, INNER, PRECISION, EMULATED)
        target += step_stride
        if step < iterations - 1:
            z = target + 2 * plane
            replace_complex(z + at, plane, real, imaginary)
    tl.store(result + matrix + at, real)
    tl.store(result + matrix + plane + at, imaginary)


@triton.jit(do_not_specialize=["iterations", "count", "apart"])  # type: ignore[untyped-decorator]  # triton gives it no types
def newton_backward(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    planes, iterates, gradient, result, scratch, iterations, count, apart,
    BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """Gradient of S from that of Z_t; layout as in the forward kernel, `scratch` (3, 2, f, n, n) for T, GT and GZ.

    GY lives in `result`. Seven products for j = t − 1 … 1 and two for j = 0, where Z is the identity. Reads 16 t f n² bytes,
    writes 32 f n²; (28 (t − 1) + 8) f n³ MACs.
    """
    plane = count.to(tl.int64) * BLOCK * BLOCK
    step_stride = apart.to(tl.int64) * 4 * BLOCK * BLOCK
    matrix = tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    at = row * BLOCK + column
    identity = tl.where(row == column, 1.0, 0.0)
    zeros = tl.zeros((BLOCK, BLOCK), tl.float32)
    gy, t = result + matrix, scratch + matrix
    gt, gz = t + 2 * plane, t + 4 * plane
    y = iterates + matrix + (iterations - 2) * step_stride
    real = tl.load(gradient + matrix + at)
    imaginary = tl.load(gradient + matrix + plane + at)
    replace_complex(gz + at, plane, real, imaginary)
    replace_complex(gy + at, plane, zeros, zeros)
    for _ in range(1, iterations):
        z = y + 2 * plane
        real, imaginary = multiply_complex(z, y, plane, zeros, zeros, False, False, BLOCK, INNER, PRECISION, EMULATED)
        replace_complex(t + at, plane, 1.5 * identity - 0.5 * real, -0.5 * imaginary)
        real, imaginary = multiply_complex(y, gy, plane, zeros, zeros, True, False, BLOCK, INNER, PRECISION, EMULATED)
        real, imaginary = multiply_complex(gz, z, plane, real, imaginary, False, True, BLOCK, INNER, PRECISION, EMULATED)
        replace_complex(gt + at, plane, -0.5 * real, -0.5 * imaginary)  # the factor in both of its uses
        real, imaginary = multiply_complex(gy, t, plane, zeros, zeros, False, True, BLOCK, INNER, PRECISION, EMULATED)
        real, imaginary = multiply_complex(z, gt, plane, real, imaginary, True, False, BLOCK, INNER, PRECISION, EMULATED)
        replace_complex(gy + at, plane, real, imaginary)
        real, imaginary = multiply_complex(t, gz, plane, zeros, zeros, True, False, BLOCK, INNER, PRECISION, EMULATED)
        real, imaginary = multiply_complex(gt, y, plane, real, imaginary, False, True, BLOCK, INNER, PRECISION, EMULATED)
        replace_complex(gz + at, plane, real, imaginary)
        y -= step_stride
    y = planes + matrix
    real = 1.5 * identity - 0.5 * tl.load(y + at)
    imaginary = -0.5 * tl.load(y + plane + at)
    replace_complex(t + at, plane, real, imaginary)
    real = tl.load(gz + at)
    imaginary = tl.load(gz + plane + at)
    real, imaginary = multiply_complex(y, gy, plane, real, imaginary, True, False, BLOCK, INNER, PRECISION, EMULATED)
    real, imaginary = multiply_complex(
        gy, t, plane, -0.5 * real, -0.5 * imaginary, False, True, BLOCK, INNER, PRECISION, EMULATED
    )
    replace_complex(gy + at, plane, real, imaginary)


_FORWARD = tuned_by_block(newton_forward, SERVING)
_BACKWARD = tuned_by_block(newton_backward, SERVING_BACKWARD)


@torch.library.custom_op("lipbench::newton_inverse_root", mutates_args=())
def newton_op(planes: Tensor, iterations: int, keep: bool, precision: str) -> tuple[Tensor, Tensor]:
    """Planes of Z_t, and with `keep` those of (Y_j, Z_j), j = 1 … t − 1, as (t − 1, 2, 2, f, n, n), else none."""
    check("newton_inverse_root", precision, planes)
    n = planes.shape[-1]
    planes = padded(planes, block_of(n))
    _, count, block, _ = planes.shape
    kept = iterations - 1 if keep else 0
    iterates = planes.new_empty((kept, 2, *planes.shape))
    result, factors = torch.empty_like(planes), torch.empty_like(planes)
    newest = iterates if kept else planes.new_empty((2, *planes.shape))
    if count:
        with on_device_of(planes):
            _FORWARD[block][(count,)](
                planes, result, newest, factors, iterations, count, count if kept else 0,
                **constants_of(block, precision),
            )  # fmt: skip
    return result[:, :, :n, :n].contiguous(), iterates


@newton_op.register_fake
def _(planes: Tensor, iterations: int, keep: bool, precision: str) -> tuple[Tensor, Tensor]:
    block = block_of(planes.shape[-1])
    iterates = planes.new_empty((iterations - 1 if keep else 0, 2, *planes.shape[:2], block, block))
    return planes.new_empty(planes.shape), iterates


@torch.library.custom_op("lipbench::newton_inverse_root_backward", mutates_args=())
def newton_backward_op(gradient: Tensor, planes: Tensor, iterates: Tensor, iterations: int, precision: str) -> Tensor:
    """Planes of the gradient of S from those of Z_t's and the iterates that the forward operator kept."""
    check("newton_inverse_root", precision, gradient, planes, iterates)
    n = planes.shape[-1]
    planes, gradient = padded(planes, block_of(n)), padded(gradient, block_of(n))
    _, count, block, _ = planes.shape
    result, scratch = torch.empty_like(planes), planes.new_empty((3, *planes.shape))
    if count:
        with on_device_of(planes):
            _BACKWARD[block][(count,)](
                planes, iterates, gradient, result, scratch, iterations, count, count,
                **constants_of(block, precision),
            )  # fmt: skip
    return result[:, :, :n, :n].contiguous()


@newton_backward_op.register_fake
def _(gradient: Tensor, planes: Tensor, iterates: Tensor, iterations: int, precision: str) -> Tensor:
    return planes.new_empty(planes.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    planes, ctx.iterations, ctx.keep, ctx.precision = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(planes, output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None]:
    if not ctx.keep:
        raise RuntimeError("lipbench::newton_inverse_root was called with keep=False, so it kept no iterates; pass keep=True")
    planes, iterates = ctx.saved_tensors
    return (
        torch.ops.lipbench.newton_inverse_root_backward(gradient, planes, iterates, ctx.iterations, ctx.precision),
        None, None, None,
    )  # fmt: skip


newton_op.register_autograd(_differentiate, setup_context=_setup)


def newton_inverse_root(covariance: Tensor, iterations: int, precision: str = "ieee") -> Tensor:
    """`Z ≈ S^(−1/2)` of complex S (f, n, n) with eigenvalues in (0, 3), say S/‖S‖_F, by coupled Newton steps.

    Complex64, any strides, n ≤ 32. Iterates Y, Z are kept, 2 (t − 1) times the size of S, only where a gradient may be
    needed. Differentiable once. Raises `ValueError` for unsupported arguments.
    """
    if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2] or not 1 <= covariance.shape[1] <= largest(precision):
        raise ValueError(
            f"newton_inverse_root takes square matrices (f, n, n) with 1 ≤ n ≤ {largest(precision)}: "
            f"got {tuple(covariance.shape)}; use PyTorch's batched products for others"
        )
    if covariance.dtype != torch.complex64:
        raise ValueError(f"newton_inverse_root takes complex64: got {covariance.dtype}; convert the matrices")
    if iterations < 1:
        raise ValueError(f"newton_inverse_root takes at least one iteration: got {iterations}; leave the call out instead")
    keep = torch.is_grad_enabled() and covariance.requires_grad
    planes = torch.stack((covariance.real, covariance.imag))
    result, _ = torch.ops.lipbench.newton_inverse_root(planes, iterations, keep, precision)
    return torch.complex(result[0], result[1])


def _flops(planes: Tensor, iterations: int, *args: Any, **kwargs: Any) -> int:
    return 2 * work.newton(planes.shape[1], planes.shape[2], iterations).macs


def _backward_flops(gradient: Tensor, planes: Tensor, iterates: Tensor, iterations: int, *args: Any, **kwargs: Any) -> int:
    return 2 * work.newton_backward(planes.shape[1], planes.shape[2], iterations).macs


register_flop_formula(torch.ops.lipbench.newton_inverse_root, get_raw=True)(_flops)
register_flop_formula(torch.ops.lipbench.newton_inverse_root_backward, get_raw=True)(_backward_flops)

_SCALARS = {"iterations": "i32", "count": "i32", "apart": "i32"}
_POINTERS = ("planes", "result", "iterates", "factors")
_BACKWARD_POINTERS = ("planes", "iterates", "gradient", "result", "scratch")
_EXAMPLE = {"f": 612, "n": 32, "iterations": 10}

KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "newton_inverse_root",
        "Coupled Newton iterations of a small complex matrix in one program",
        lambda: variants_of("newton_inverse_root", newton_forward, SERVING, _POINTERS, _SCALARS),
        work.newton,
        work.replaced_newton,
        _EXAMPLE,
    ),
    Kernel(
        "newton_inverse_root_backward",
        "Gradient of all coupled Newton iterations of a small complex matrix in one program",
        lambda: variants_of("newton_inverse_root_backward", newton_backward, SERVING_BACKWARD, _BACKWARD_POINTERS, _SCALARS),
        work.newton_backward,
        work.replaced_newton_backward,
        _EXAMPLE,
    ),
)
