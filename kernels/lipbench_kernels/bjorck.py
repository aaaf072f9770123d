"""Björck–Bowie orthogonalisation of batches of small matrices: all iterations of a matrix in one program.

`A ← (1 + β) A − β A (Aᵀ A)`, Björck & Bowie, SIAM J. Numer. Anal. 8 (1971). Its gradient, from the last step to the first:
`G ← (1 + β) G − β (G P + A (R + Rᵀ))` with `P = Aᵀ A` and `R = Gᵀ A`. How a program holds a matrix is in `small_matrices.py`.

Matrices are (n, r, c) float32, padded with zeros to blocks of m × m, m = 16, 32 or 64, which changes no value. With
`M = 4 n m²` bytes and t steps, forward reads M, writes (t + 1) M with iterates kept or 3 M without, and does 2 n t m³ MACs;
backward reads (t + 1) M, writes 2 M, and does 4 n t m³ MACs. `small_matrices_work.py` counts what matrices of r × c need.
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
    LARGEST,
    block_of,
    constants_of,
    padded,
    replace,
    tuned_by_block,
    variants_of,
)

SERVING: dict[int, tuple[str, ...]] = {16: ("warps2", "warps4"), 32: ("warps4", "warps8"), 64: ("warps16",)}
SERVING_BACKWARD: dict[int, tuple[str, ...]] = {**SERVING, 64: ("warps8",)}


def largest(precision: str) -> int:
    """The largest of rows and columns that `bjorck` takes. Raises `ValueError` for an unknown precision."""
    require_precision("bjorck", precision)
    return LARGEST


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def multiply(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    x, x_row, x_column, y, y_row, y_column, accumulator,
    BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """`accumulator + x y` for x and y, BLOCK × BLOCK, in memory with these strides."""
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    for start in range(0, BLOCK, INNER):
        across = start + tl.arange(0, INNER)[None, :]
        down = start + tl.arange(0, INNER)[:, None]
        left = tl.load(x + row * x_row + across * x_column)
        right = tl.load(y + down * y_row + column * y_column)
        accumulator = product(left, right, accumulator, PRECISION, EMULATED)
    return accumulator


@triton.jit(do_not_specialize=["iterations", "apart"])  # type: ignore[untyped-decorator]  # triton gives it no types
def bjorck_forward(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    matrices, result, iterates, squares, iterations, beta, apart,
    BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """`A ← (1 + β) A − β A (Aᵀ A)`, `iterations` times; matrices, result and squares (n, m, m) contiguous, m = BLOCK.

    A_1 … A_{t−1} go to `iterates`, `apart` matrices between one and the next: n keeps them all, 0 only the newest. Reads
    4 n m² bytes, writes 4 n (t + 1) m²; 2 n t m³ MACs.
    """
    step_stride = apart.to(tl.int64) * BLOCK * BLOCK
    matrix = tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    p = squares + matrix
    a = matrices + matrix
    target = iterates + matrix
    zeros = tl.zeros((BLOCK, BLOCK), tl.float32)
    for step in range(iterations):
        square = multiply(a, 1, BLOCK, a, BLOCK, 1, zeros, BLOCK, INNER, PRECISION, EMULATED)
        replace(p + at, square)
        change = multiply(a, BLOCK, 1, p, BLOCK, 1, zeros, BLOCK, INNER, PRECISION, EMULATED)
        new = (1 + beta) * tl.load(a + at) - beta * change
        if step == iterations - 1:
            tl.store(result + matrix + at, new)
        else:
            replace(target + at, new)
        a = target
        target += step_stride


@triton.jit(do_not_specialize=["iterations", "apart"])  # type: ignore[untyped-decorator]  # triton gives it no types
def bjorck_backward(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    matrices, iterates, gradient, result, squares, iterations, beta, apart,
    BLOCK: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """`G ← (1 + β) G − β (G P + A (R + Rᵀ))`, P = Aᵀ A, R = Gᵀ A, for A = A_{t−1} … A_0; layout as in the forward kernel.

    G lives in `result`, R + Rᵀ and then P in `squares`. Reads 4 n (t + 1) m² bytes, writes 8 n m²; 4 n t m³ MACs.
    """
    step_stride = apart.to(tl.int64) * BLOCK * BLOCK
    matrix = tl.program_id(0).to(tl.int64) * BLOCK * BLOCK
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    p = squares + matrix
    g = result + matrix
    kept = iterates + matrix + (iterations - 2) * step_stride
    a = kept
    if iterations == 1:
        a = matrices + matrix
    zeros = tl.zeros((BLOCK, BLOCK), tl.float32)
    replace(g + at, tl.load(gradient + matrix + at))
    for step in range(iterations):
        mixed = multiply(g, 1, BLOCK, a, BLOCK, 1, zeros, BLOCK, INNER, PRECISION, EMULATED)
        replace(p + at, mixed + tl.trans(mixed))
        change = multiply(a, BLOCK, 1, p, BLOCK, 1, zeros, BLOCK, INNER, PRECISION, EMULATED)
        own = multiply(a, 1, BLOCK, a, BLOCK, 1, zeros, BLOCK, INNER, PRECISION, EMULATED)
        replace(p + at, own)
        change = multiply(g, BLOCK, 1, p, BLOCK, 1, change, BLOCK, INNER, PRECISION, EMULATED)
        new = (1 + beta) * tl.load(g + at) - beta * change
        replace(g + at, new)
        kept -= step_stride
        a = kept
        if step == iterations - 2:
            a = matrices + matrix


_FORWARD = tuned_by_block(bjorck_forward, SERVING)
_BACKWARD = tuned_by_block(bjorck_backward, SERVING_BACKWARD)


def _tall(matrices: Tensor) -> Tensor:
    """The matrices in square blocks, transposed so that there are at least as many rows as columns."""
    tall = matrices if matrices.shape[1] >= matrices.shape[2] else matrices.mT
    return padded(tall, block_of(tall.shape[1]))


def _restored(blocks: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = shape[1:]
    if rows >= columns:
        return blocks[:, :rows, :columns].contiguous()
    return blocks[:, :columns, :rows].mT.contiguous()


@torch.library.custom_op("lipbench::bjorck", mutates_args=())
def bjorck_op(matrices: Tensor, iterations: int, beta: float, keep: bool, precision: str) -> tuple[Tensor, Tensor]:
    """The last iterate, and with `keep` the earlier ones except the first, (t − 1, n, block, block), tall; else none."""
    check("bjorck", precision, matrices)
    a = _tall(matrices)
    count, block, _ = a.shape
    kept = iterations - 1 if keep else 0
    iterates = a.new_empty((kept, count, block, block))
    result, squares = torch.empty_like(a), torch.empty_like(a)
    newest = iterates if kept else torch.empty_like(a)
    if count:
        with on_device_of(a):
            _FORWARD[block][(count,)](
                a, result, newest, squares, iterations, beta, count if kept else 0,
                **constants_of(block, precision),
            )  # fmt: skip
    return _restored(result, matrices.shape), iterates


@bjorck_op.register_fake
def _(matrices: Tensor, iterations: int, beta: float, keep: bool, precision: str) -> tuple[Tensor, Tensor]:
    count, r, c = matrices.shape
    block = block_of(max(r, c))
    iterates = matrices.new_empty((iterations - 1 if keep else 0, count, block, block))
    return matrices.new_empty((count, r, c)), iterates


@torch.library.custom_op("lipbench::bjorck_backward", mutates_args=())
def bjorck_backward_op(
    gradient: Tensor, matrices: Tensor, iterates: Tensor, iterations: int, beta: float, precision: str
) -> Tensor:
    """Gradient of the matrices, (n, r, c), from that of the result and the iterates that the forward operator kept."""
    check("bjorck", precision, gradient, matrices, iterates)
    a, g = _tall(matrices), _tall(gradient)
    count, block, _ = a.shape
    result, squares = torch.empty_like(a), torch.empty_like(a)
    if count:
        with on_device_of(a):
            _BACKWARD[block][(count,)](
                a, iterates, g, result, squares, iterations, beta, count,
                **constants_of(block, precision),
            )  # fmt: skip
    return _restored(result, matrices.shape)


@bjorck_backward_op.register_fake
def _(gradient: Tensor, matrices: Tensor, iterates: Tensor, iterations: int, beta: float, precision: str) -> Tensor:
    return matrices.new_empty(matrices.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    matrices, ctx.iterations, ctx.beta, ctx.keep, ctx.precision = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(matrices, output[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, None, None, None, None]:
    if not ctx.keep:
        raise RuntimeError("lipbench::bjorck was called with keep=False: it kept no iterates to differentiate; pass keep=True")
    matrices, iterates = ctx.saved_tensors
    return (
        torch.ops.lipbench.bjorck_backward(gradient, matrices, iterates, ctx.iterations, ctx.beta, ctx.precision),
        None, None, None, None,
    )  # fmt: skip


bjorck_op.register_autograd(_differentiate, setup_context=_setup)


def bjorck(matrices: Tensor, iterations: int, beta: float = 0.5, precision: str = "ieee") -> Tensor:
    """Nearly orthogonal matrices (n, r, c) from ones with singular values in (0, √(1 + 2/β)), by Björck–Bowie steps.

    Float32, any strides, max(r, c) ≤ 64. Iterates are kept, t − 1 times the size of the input, only where a gradient may be
    needed. Differentiable once. Raises `ValueError` for unsupported arguments.
    """
    if matrices.ndim != 3 or not 1 <= min(matrices.shape[1:]) <= max(matrices.shape[1:]) <= largest(precision):
        raise ValueError(
            f"bjorck takes matrices (n, r, c) with 1 ≤ r, c ≤ {largest(precision)}: got {tuple(matrices.shape)}; "
            "use PyTorch's batched products for others"
        )
    if iterations < 1:
        raise ValueError(f"bjorck takes at least one iteration: got {iterations}; leave the call out instead")
    keep = torch.is_grad_enabled() and matrices.requires_grad
    result, _ = torch.ops.lipbench.bjorck(matrices, iterations, beta, keep, precision)
    return result  # type: ignore[no-any-return]  # torch.ops has no types


def _flops(matrices: Tensor, iterations: int, *args: Any, **kwargs: Any) -> int:
    count, r, c = matrices.shape
    return 2 * work.bjorck(count, r, c, iterations).macs


def _backward_flops(gradient: Tensor, matrices: Tensor, iterates: Tensor, iterations: int, *args: Any, **kwargs: Any) -> int:
    count, r, c = matrices.shape
    return 2 * work.bjorck_backward(count, r, c, iterations).macs


register_flop_formula(torch.ops.lipbench.bjorck, get_raw=True)(_flops)
register_flop_formula(torch.ops.lipbench.bjorck_backward, get_raw=True)(_backward_flops)

_SCALARS = {"iterations": "i32", "beta": "fp32", "apart": "i32"}
_POINTERS = ("matrices", "result", "iterates", "squares")
_BACKWARD_POINTERS = ("matrices", "iterates", "gradient", "result", "squares")
_EXAMPLE = {"n": 5, "r": 64, "c": 64, "iterations": 20}

KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "bjorck",
        "Björck–Bowie iterations of a small matrix in one program",
        lambda: variants_of("bjorck", bjorck_forward, SERVING, _POINTERS, _SCALARS),
        work.bjorck,
        work.replaced_bjorck,
        _EXAMPLE,
    ),
    Kernel(
        "bjorck_backward",
        "Gradient of all Björck–Bowie iterations of a small matrix in one program",
        lambda: variants_of("bjorck_backward", bjorck_backward, SERVING_BACKWARD, _BACKWARD_POINTERS, _SCALARS),
        work.bjorck_backward,
        work.replaced_bjorck_backward,
        _EXAMPLE,
    ),
)
