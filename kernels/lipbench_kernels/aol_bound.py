"""The bound of AOL and SLL: row sums of the absolute correlation of a convolution kernel with itself.

    v[i, j, δ] = Σ_o Σ_p K[o, i, p] K[o, j, p + δ]          bound[i] = Σ_j w_j Σ_δ |v[i, j, δ]|

with K (o, i, k, k), p over its k² taps and δ over the (2k − 1)² shifts at which it meets itself. AOL takes w = 1 (Prach &
Lampert, arXiv 2208.03160, Theorem 2); SLL takes the transposed kernel and w = q (Araujo et al., arXiv 2303.03169).

The correlation, `i² (2k − 1)²` numbers, is never written:

* `v[j, i, −δ] = v[i, j, δ]`, so half of the shifts are computed, and of each only the products of two taps inside the kernel:
  `(k⁴ + k²)/2 · o i²` MACs, where a convolution padded by k − 1 carries out `k² (2k − 1)² · o i²`.
* One program keeps a block (i, j) of v on chip, shift after shift, and adds it to a block of
  `B[i, j] = |v[i, j, 0]| / 2 + Σ_{δ > 0} |v[i, j, δ]|`, so that `bound = B w + Bᵀ w`.
* The backward pass needs signs alone: 2 bits per entry of half the correlation, 0 where v is 0, as PyTorch's `abs` has it (the
  identity kernel, from which AOL starts, has v = 0 nearly everywhere).

Shifts are numbered in the order of the flattened window, starting at δ = 0; −δ then has the negative number.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as product_of
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from lipbench_kernels import aol_work
from lipbench_kernels.aol_work import FIELDS, PITCH, shifts, splits
from lipbench_kernels.launching import (
    KERNEL_SIZES,
    PRECISIONS,
    Config,
    Kernel,
    Variant,
    check,
    interpreted,
    on_device_of,
    product,
    tuned,
)

CONFIGS = {
    "narrow": Config({"ROWS": 16, "COLUMNS": 16, "DEPTH": 32}, warps=2, stages=3),
    "small": Config({"ROWS": 32, "COLUMNS": 32, "DEPTH": 16}, warps=4, stages=2),
    "medium": Config({"ROWS": 64, "COLUMNS": 64, "DEPTH": 16}, warps=4, stages=2),
    "large": Config({"ROWS": 128, "COLUMNS": 64, "DEPTH": 16}, warps=8, stages=4),
}
"""ROWS × COLUMNS is the block of a program's result, DEPTH the piece of the summed axis that it takes at a time."""

SIZES = ["outputs", "inputs"]
"""arguments whose value is not part of the machine code, so that its resources are known without a GPU"""


@triton.jit(do_not_specialize=SIZES)  # type: ignore[untyped-decorator]  # triton gives it no types
def _correlate(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    taps,
    sums,
    signs,
    outputs,
    inputs,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """`sums[n, i, j] = Σ_δ |v[i, j, δ]| (½ at δ = 0)` over the shifts numbered n, n + splits, …, and the signs of v.

    taps (k², i, o), o filled up with zeros to a multiple of 32; sums (splits, i, i); signs (⌈(2k − 1)²/2⌉, i, ⌈i/16⌉) int32, 16
    along j to a word, 2 bits each: 0 for zero, 1 for positive, 2 for negative. All contiguous; grid (blocks of j, blocks of i,
    splits). Reads 4 k² o i bytes, writes 4 splits i² + ¼ ⌈(2k − 1)²/2⌉ i² bytes; (k⁴ + k²)/2 · o i² MACs.
    """
    SPAN: tl.constexpr = 2 * K - 1
    SHIFTS: tl.constexpr = (SPAN * SPAN + 1) // 2
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    depth = tl.arange(0, DEPTH)
    words = tl.cdiv(inputs, 16)
    pitch = tl.cdiv(outputs, 32) * 32
    tap_size = tl.cast(inputs, tl.int64) * pitch
    left = rows[:, None] * pitch + depth[None, :]
    right = columns[None, :] * pitch + depth[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for shift in range(tl.program_id(2), SHIFTS, tl.num_programs(2)):
        dy = (SHIFTS - 1 + shift) // SPAN - (K - 1)
        dx = (SHIFTS - 1 + shift) % SPAN - (K - 1)
        width = K - tl.abs(dx)
        pairs = (K - dy) * width
        value = tl.zeros((ROWS, COLUMNS), tl.float32)
        # All pairs of taps for one piece of o before the next piece, so that programs that run together share their reads.
        for step in range(pairs * tl.cdiv(outputs, DEPTH)):
            start = step // pairs * DEPTH
            pair = step % pairs
            tap = pair // width * K + pair % width + tl.maximum(-dx, 0)
            a = tl.load(taps + (tap * tap_size + start) + left, (rows < inputs)[:, None], 0.0)
            b = tl.load(taps + ((tap + dy * K + dx) * tap_size + start) + right, (columns < inputs)[None, :], 0.0)
            value = product(a, b, value, PRECISION, EMULATED)
        total += tl.where(shift == 0, 0.5, 1.0) * tl.abs(value)

        code = (value > 0).to(tl.int32) + 2 * (value < 0).to(tl.int32)
        code = code << (columns % 16 * 2)[None, :]
        packed = tl.sum(tl.reshape(code, (ROWS, COLUMNS // 16, 16)), 2)
        word = tl.program_id(0) * (COLUMNS // 16) + tl.arange(0, COLUMNS // 16)
        line = shift * tl.cast(inputs, tl.int64) + rows
        tl.store(signs + line[:, None] * words + word[None, :], packed, (rows < inputs)[:, None] & (word < words)[None, :])

    line = tl.program_id(2) * tl.cast(inputs, tl.int64) + rows
    tl.store(sums + line[:, None] * inputs + columns[None, :], total, (rows < inputs)[:, None] & (columns < inputs)[None, :])


@triton.jit(do_not_specialize=SIZES)  # type: ignore[untyped-decorator]  # triton gives it no types
def _spread(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    taps,
    signs,
    gradient,
    weights,
    result,
    outputs,
    inputs,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
    EMULATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """`result[p, a, o] = Σ_{j, p'} (g_a w_j + w_a g_j) sign(v[a, j, p' − p]) K[o, j, p']`, the bound's gradient.

    taps (k², o, i), i filled up with zeros to a multiple of 32; signs as `_correlate` writes them; gradient g and weights w
    (i,); result (k², i, o). All contiguous; grid (blocks of o, blocks of a, k²). Reads 4 k² o i + ¼ ⌈(2k − 1)²/2⌉ i² + 8 i
    bytes, writes 4 k² o i; k⁴ o i² MACs.
    """
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    tap = tl.program_id(2)
    depth = tl.arange(0, DEPTH)
    words = tl.cdiv(inputs, 16)
    pitch = tl.cdiv(inputs, 32) * 32
    tap_size = tl.cast(outputs, tl.int64) * pitch
    g_row = tl.load(gradient + rows, rows < inputs, 0.0)[:, None]
    w_row = tl.load(weights + rows, rows < inputs, 0.0)[:, None]
    right = columns[None, :] * pitch + depth[:, None]
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(K * K * tl.cdiv(inputs, DEPTH)):
        start = step // (K * K) * DEPTH
        other = step % (K * K)
        shift = (other // K - tap // K) * (2 * K - 1) + other % K - tap % K
        j = start + depth
        inside = j < inputs
        # Half of the shifts are stored: v[a, j, δ] = v[j, a, −δ].
        first = tl.where(shift >= 0, rows[:, None], j[None, :])
        second = tl.where(shift >= 0, j[None, :], rows[:, None])
        line = tl.abs(shift) * tl.cast(inputs, tl.int64) * words
        word = tl.load(signs + line + (first * words + second // 16), (rows < inputs)[:, None] & inside[None, :], 0)
        code = word >> (second % 16 * 2)
        sign = ((code & 1) - ((code >> 1) & 1)).to(tl.float32)
        g_j = tl.load(gradient + j, inside, 0.0)[None, :]
        w_j = tl.load(weights + j, inside, 0.0)[None, :]
        a = (g_row * w_j + w_row * g_j) * sign
        b = tl.load(taps + (other * tap_size + start) + right, (columns < outputs)[None, :], 0.0)
        value = product(a, b, value, PRECISION, EMULATED)
    line = tap * tl.cast(inputs, tl.int64) + rows
    tl.store(
        result + line[:, None] * outputs + columns[None, :], value, (rows < inputs)[:, None] & (columns < outputs)[None, :]
    )


_correlate_tuned = tuned(_correlate, CONFIGS, ("outputs", "inputs", "K", "PRECISION"))
_spread_tuned = tuned(_spread, CONFIGS, ("outputs", "inputs", "K", "PRECISION"))


def _padded(taps: Tensor) -> Tensor:
    """A contiguous copy whose last axis is filled up with zeros to a multiple of 32, for loads of 16 bytes without masks."""
    missing = -taps.shape[-1] % PITCH
    return functional.pad(taps, (0, missing)) if missing else taps.contiguous()


@torch.library.custom_op("lipbench::aol_bound", mutates_args=())
def _bound(kernel: Tensor, weights: Tensor | None, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """The bound (i,); B (i, i) of the module's docstring; the signs (⌈(2k − 1)²/2⌉, i, ⌈i/16⌉), int32."""
    check("aol_bound", precision, kernel, *(() if weights is None else (weights,)))
    outputs, inputs, size, _ = kernel.shape
    taps = _padded(kernel.permute(2, 3, 1, 0))
    parts = kernel.new_empty((splits(inputs, size), inputs, inputs))
    signs = kernel.new_empty((shifts(size), inputs, triton.cdiv(inputs, FIELDS)), dtype=torch.int32)

    def grid(constants: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(inputs, constants["COLUMNS"]), triton.cdiv(inputs, constants["ROWS"]), len(parts)

    with on_device_of(kernel):
        _correlate_tuned[grid](taps, parts, signs, outputs, inputs, K=size, PRECISION=precision, EMULATED=interpreted())
    sums = parts.sum(0) if len(parts) > 1 else parts[0]
    if weights is None:
        return sums.sum(0) + sums.sum(1), sums, signs
    return sums @ weights + sums.T @ weights, sums, signs


@_bound.register_fake
def _(kernel: Tensor, weights: Tensor | None, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    inputs, size = kernel.shape[1], kernel.shape[2]
    signs = kernel.new_empty((shifts(size), inputs, (inputs + FIELDS - 1) // FIELDS), dtype=torch.int32)
    return kernel.new_empty(inputs), kernel.new_empty(inputs, inputs), signs


@torch.library.custom_op("lipbench::aol_bound_kernel_gradient", mutates_args=())
def _kernel_gradient(kernel: Tensor, weights: Tensor | None, signs: Tensor, gradient: Tensor, precision: str) -> Tensor:
    """Gradient of `gradient · bound` by the kernel, (o, i, k, k)."""
    check("aol_bound's backward pass", precision, kernel, gradient, *(() if weights is None else (weights,)))
    outputs, inputs, size, _ = kernel.shape
    taps = _padded(kernel.permute(2, 3, 0, 1))
    scale = kernel.new_ones(inputs) if weights is None else weights.contiguous()
    result = kernel.new_empty((size, size, inputs, outputs))

    def grid(constants: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(outputs, constants["COLUMNS"]), triton.cdiv(inputs, constants["ROWS"]), size**2

    with on_device_of(kernel):
        _spread_tuned[grid](
            taps,
            signs.contiguous(),
            gradient.contiguous(),
            scale,
            result,
            outputs,
            inputs,
            K=size,
            PRECISION=precision,
            EMULATED=interpreted(),
        )
    return result.permute(3, 2, 0, 1).contiguous()


@_kernel_gradient.register_fake
def _(kernel: Tensor, weights: Tensor | None, signs: Tensor, gradient: Tensor, precision: str) -> Tensor:
    return kernel.new_empty(kernel.shape)


@torch.library.custom_op("lipbench::aol_bound_weights_gradient", mutates_args=())
def _weights_gradient(kernel: Tensor, sums: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of `gradient · bound` by the weights, (i,). `kernel` is not read: through it a second derivative raises."""
    return sums @ gradient + sums.T @ gradient


@_weights_gradient.register_fake
def _(kernel: Tensor, sums: Tensor, gradient: Tensor) -> Tensor:
    return kernel.new_empty(kernel.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    kernel, weights, ctx.precision = inputs
    _, sums, signs = output
    ctx.mark_non_differentiable(sums, signs)
    ctx.save_for_backward(kernel, weights, sums if ctx.needs_input_grad[1] else None, signs)


def _backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, None]:
    kernel, weights, sums, signs = ctx.saved_tensors
    by_kernel = by_weights = None
    if ctx.needs_input_grad[0]:
        by_kernel = torch.ops.lipbench.aol_bound_kernel_gradient(kernel, weights, signs, gradient, ctx.precision)
    if ctx.needs_input_grad[1]:
        by_weights = torch.ops.lipbench.aol_bound_weights_gradient(kernel, sums, gradient)
    return by_kernel, by_weights, None


_bound.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.lipbench.aol_bound, get_raw=True)
def _flops(kernel: Tensor, weights: Tensor | None, *_: Any, **__: Any) -> int:
    outputs, inputs, size, _size = kernel.shape
    return 2 * aol_work.forward_macs(outputs, inputs, size, int(weights is not None))


@register_flop_formula(torch.ops.lipbench.aol_bound_kernel_gradient, get_raw=True)
def _gradient_flops(kernel: Tensor, *_: Any, **__: Any) -> int:
    outputs, inputs, size, _size = kernel.shape
    return 2 * aol_work.backward_macs(outputs, inputs, size)


@register_flop_formula(torch.ops.lipbench.aol_bound_weights_gradient, get_raw=True)
def _weights_gradient_flops(kernel: Tensor, *_: Any, **__: Any) -> int:
    return 2 * 2 * kernel.shape[1] ** 2


def aol_bound(kernel: Tensor, weights: Tensor | None = None, precision: str = "ieee") -> Tensor:
    """Row sums (i,) of the absolute correlation of `kernel` (o, i, k, k) with itself over o: `Σ_j w_j Σ_δ |v[i, j, δ]|`.

    `weights` w (i,) is 1 where None. float32 with any strides, on a CUDA device; once differentiable by kernel and weights.
    Kept for the backward pass: kernel, weights, ¼ ⌈(2k − 1)²/2⌉ i² bytes of signs and, for the gradient of the weights, 4 i²
    bytes. Raises `ValueError` for other shapes, dtypes, devices and precisions.
    """
    if kernel.dim() != 4 or kernel.shape[2] != kernel.shape[3] or 0 in kernel.shape:
        raise ValueError(f"aol_bound takes a kernel (o, i, k, k): got {tuple(kernel.shape)}; pass one without empty dimensions")
    if weights is not None and weights.shape != kernel.shape[1:2]:
        raise ValueError(
            f"aol_bound takes a weight per input channel: got {tuple(weights.shape)}; pass a vector ({kernel.shape[1]},)"
        )
    bound: Tensor = torch.ops.lipbench.aol_bound(kernel, weights, precision)[0]
    return bound


def _variants(kernel: str, function: Any, pointers: tuple[str, ...]) -> Iterator[Variant]:
    """All configurations in all precisions, for the kernel sizes in the catalogue."""
    signature = dict.fromkeys(pointers, "*fp32") | {"signs": "*i32", "outputs": "i32", "inputs": "i32"}
    kinds = {argument: signature.get(argument, "constexpr") for argument in function.arg_names}
    for k, (name, config), precision in product_of(KERNEL_SIZES, CONFIGS.items(), PRECISIONS):
        constants = {"K": k, "PRECISION": precision, "EMULATED": False, **config.constants}
        yield Variant(kernel, name, precision, function, kinds, constants, config.warps, config.stages, f"k = {k}")


KERNELS = (
    Kernel(
        "aol_bound",
        "row sums of a kernel's absolute correlation with itself",
        lambda: _variants("aol_bound", _correlate, ("taps", "sums")),
        aol_work.forward,
        aol_work.replaced_forward,
        {"o": 256, "i": 256, "k": 3},
    ),
    Kernel(
        "aol_bound_backward",
        "gradient of the row sums by the kernel, from signs",
        lambda: _variants("aol_bound_backward", _spread, ("taps", "gradient", "weights", "result")),
        aol_work.backward,
        aol_work.replaced_backward,
        {"o": 256, "i": 256, "k": 3},
    ),
)
