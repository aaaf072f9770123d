"""SOC's convolution as an implicit matrix product, fused with the operations that follow it.

`step`:      term = scale · (L ∗ source),  total = base + scale · (L ∗ source)
`gradient`:  ∂L[o, i, p] = Σ_n 1/(first + n) Σ_{b, q} g_n[b, o, q] · h_n[b, i, q + p − r],  r = (k − 1)/2

`∗` is the cross-correlation with zero padding 'same' of `torch.nn.functional.conv2d`. Source: Singla & Feizi, "Skew Orthogonal
Convolutions", ICML 2021, arXiv 2105.11417 (the series); the implicit product is that of cuDNN, arXiv 1410.0759, section 3.

Layout: images are contiguous (b, c, s, r), float32; a "pixel" counts positions of all images, 0 … b·s·r − 1. Kernels come as
`taps` (k, k, o, i), so that a tile of one tap is read in rows, i padded with zeros to a multiple of `PITCH`: rows are then
aligned to 16 bytes for any size, and one machine program serves all sizes. Offsets within an image
and within `taps` fit 32 bits; those of images have 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from lipbench_kernels.launching import KERNEL_SIZES, PRECISIONS, Config, Variant, interpreted, on_device_of, product, tuned

STEP_CONFIGS = {
    "narrow": Config({"BLOCK_O": 32, "BLOCK_I": 16, "BLOCK_P": 64}, warps=4, stages=3),
    "square": Config({"BLOCK_O": 64, "BLOCK_I": 16, "BLOCK_P": 64}, warps=8, stages=3),
    "tall": Config({"BLOCK_O": 128, "BLOCK_I": 16, "BLOCK_P": 64}, warps=8, stages=2),
}
"""Tiles of output channels × pixels, and the number of input channels summed at a time."""

GRADIENT_CONFIGS = {
    "narrow": Config({"BLOCK_O": 32, "BLOCK_I": 32, "BLOCK_P": 32}, warps=4, stages=2),
    "square": Config({"BLOCK_O": 64, "BLOCK_I": 64, "BLOCK_P": 32}, warps=8, stages=2),
    "large": Config({"BLOCK_O": 128, "BLOCK_I": 64, "BLOCK_P": 32}, warps=8, stages=3),
}
"""Tiles of output × input channels of one tap, and the number of pixels summed at a time."""

SIZES = ["pixel_count", "channels", "height", "width"]
"""arguments whose value is not part of the machine code, so that its resources are known without a GPU"""
PITCH = 32
"""at least BLOCK_I of any configuration"""
PROGRAMS = 256
"""approximate number of programs for the gradient: two for each multiprocessor of an H100"""


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def located(begin, channels, area, BLOCK_P: tl.constexpr):  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    """Offset of the image that contains pixel `begin`; the pixels from there; their offsets in channel 0 from that image.

    Only the first needs 64 bits, because a tile's images are consecutive.
    """
    image = begin // area
    pixels = begin + tl.arange(0, BLOCK_P)
    return image.to(tl.int64) * channels * area, pixels, (pixels // area - image) * channels * area + pixels % area


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def convolved(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    source, taps, outputs, begin, end, channels, height, width,
    K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """`(L ∗ source)` at output channels `outputs` and the pixels from `begin`, (BLOCK_O, BLOCK_P), in registers.

    Pixels at or after `end` read zeros.
    """
    area = height * width
    pitch = tl.cdiv(channels, 32) * 32
    first, pixels, start = located(begin, channels, area, BLOCK_P)
    source += first
    row = pixels % area // width
    column = pixels % width
    accumulator = tl.zeros((outputs.shape[0], BLOCK_P), dtype=tl.float32)
    for turn in range(tl.cdiv(channels, BLOCK_I) * K * K):  # taps innermost: they read nearly the same lines of the images
        inputs = turn // (K * K) * BLOCK_I + tl.arange(0, BLOCK_I)
        tap = turn % (K * K)
        down = tap // K - K // 2
        right = tap % K - K // 2
        seen = (row + down >= 0) & (row + down < height) & (column + right >= 0) & (column + right < width) & (pixels < end)
        weights = tl.load(
            taps + (tap * channels + outputs[:, None]) * pitch + inputs[None, :], mask=outputs[:, None] < channels, other=0.0
        )
        image = tl.load(
            source + (start + down * width + right)[None, :] + inputs[:, None] * area,
            mask=seen[None, :] & (inputs[:, None] < channels),
            other=0.0,
        )
        accumulator = product(weights, image, accumulator, PRECISION, EMULATED)
    return accumulator


@triton.jit(do_not_specialize=SIZES)  # type: ignore[untyped-decorator]  # triton gives it no types
def _step(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    source, taps, base, term, total, scale, pixel_count, channels, height, width,
    TERM: tl.constexpr, TOTAL: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """`value = scale · (L ∗ source)`; `term = value` if TERM; `total = base + value` if TOTAL.

    source, base, term, total (b, c, s, r); taps (k, k, c, c), padded. Reads source, taps and, if TOTAL, base: 4·(M + C) or
    4·(2M + C) bytes with M = b·c·s·r and C = k²·c²; writes 4·M bytes for each of TERM and TOTAL. k²·c·M multiply-accumulates.
    One program for each tile of output channels × pixels; programs for the same pixels are neighbours, so that they find
    the images in the cache.
    """
    tiles = tl.cdiv(channels, BLOCK_O)
    outputs = tl.program_id(0) % tiles * BLOCK_O + tl.arange(0, BLOCK_O)
    begin = tl.program_id(0) // tiles * BLOCK_P
    value = scale * convolved(
        source, taps, outputs, begin, pixel_count, channels, height, width, K, BLOCK_P, BLOCK_I, PRECISION, EMULATED
    )  # fmt: skip
    first, pixels, start = located(begin, channels, height * width, BLOCK_P)
    places = start[None, :] + outputs[:, None] * height * width
    exist = (outputs[:, None] < channels) & (pixels[None, :] < pixel_count)
    if TERM:
        tl.store(term + first + places, value, mask=exist)
    if TOTAL:
        tl.store(total + first + places, tl.load(base + first + places, mask=exist, other=0.0) + value, mask=exist)


@triton.jit(do_not_specialize=["first", "splits", "chunk", *SIZES])  # type: ignore[untyped-decorator]  # triton gives it no types
def _gradient(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    source, upstream, partial, first, splits, chunk, pixel_count, channels, height, width,
    K: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """`partial[n·splits + m, p] = 1/(first + n) · Σ_q upstream[n, :, q] · source[n, :, q + p − r]ᵀ`, q in chunk m.

    source, upstream (terms, b, c, s, r); partial (terms · splits, k, k, c, c). Reads both, 8·terms·M bytes with M = b·c·s·r;
    writes 4·terms·splits·k²·c² bytes; terms·k²·c·M multiply-accumulates. A program sums one tile of channels of one tap, over
    the pixels of one chunk: sums in a fixed order, unlike atomic additions.
    """
    tiles = tl.cdiv(channels, BLOCK_I)
    tap = tl.program_id(0) % (K * K)
    inputs = tl.program_id(0) // (K * K) % tiles * BLOCK_I + tl.arange(0, BLOCK_I)
    outputs = tl.program_id(0) // (K * K) // tiles * BLOCK_O + tl.arange(0, BLOCK_O)
    down = tap // K - K // 2
    right = tap % K - K // 2
    area = height * width
    order = tl.program_id(1) // splits
    source += order.to(tl.int64) * pixel_count * channels
    upstream += order.to(tl.int64) * pixel_count * channels
    begin = tl.program_id(1) % splits * chunk
    end = tl.minimum(begin + chunk, pixel_count)
    accumulator = tl.zeros((BLOCK_O, BLOCK_I), dtype=tl.float32)
    for position in range(begin, end, BLOCK_P):
        first_image, pixels, start = located(position, channels, area, BLOCK_P)
        row = pixels % area // width + down
        column = pixels % width + right
        seen = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (pixels < end)
        out = tl.load(
            upstream + first_image + start[None, :] + outputs[:, None] * area,
            mask=(pixels[None, :] < end) & (outputs[:, None] < channels),
            other=0.0,
        )
        image = tl.load(
            source + first_image + (start + down * width + right)[None, :] + inputs[:, None] * area,
            mask=seen[None, :] & (inputs[:, None] < channels),
            other=0.0,
        )
        accumulator = product(out, tl.trans(image), accumulator, PRECISION, EMULATED)
    corner = partial + (tl.program_id(1).to(tl.int64) * K * K + tap) * channels * channels
    tl.store(
        corner + outputs[:, None] * channels + inputs[None, :],
        accumulator / (first + order).to(tl.float32),
        mask=(outputs[:, None] < channels) & (inputs[None, :] < channels),
    )


_tuned_step = tuned(_step, STEP_CONFIGS, ["pixel_count", "channels", "width", "TERM", "TOTAL", "K", "PRECISION"])
_tuned_gradient = tuned(_gradient, GRADIENT_CONFIGS, ["chunk", "channels", "width", "K", "PRECISION"])


def taps_of(kernel: Tensor) -> Tensor:
    """A convolution kernel (o, i, k, k) in the layout that the Triton kernels read: (k, k, o, i), i padded, contiguous."""
    taps = kernel.permute(2, 3, 0, 1)
    missing = -taps.shape[-1] % PITCH
    return functional.pad(taps, (0, missing)) if missing else taps.contiguous()


def adjoint(kernel: Tensor) -> Tensor:
    """The kernel (i, o, k, k) of the transposed map: channels swapped, turned by 180°."""
    return kernel.transpose(0, 1).flip(2, 3)


def step(
    source: Tensor,
    taps: Tensor,
    scale: float,
    precision: str,
    *,
    base: Tensor | None,
    term: Tensor | None,
    total: Tensor | None,
) -> None:
    """Launch `_step`: write `scale · (L ∗ source)` to `term` and `base` plus that to `total`, where given.

    All images are contiguous (b, c, s, r); no tensor is both read and written.
    """
    batch, channels, height, width = source.shape
    pixels = batch * height * width
    with on_device_of(source):
        _tuned_step[lambda meta: (triton.cdiv(channels, meta["BLOCK_O"]) * triton.cdiv(pixels, meta["BLOCK_P"]),)](
            source, taps, *(source if one is None else one for one in (base, term, total)),
            scale, pixels, channels, height, width,
            TERM=term is not None, TOTAL=total is not None, K=taps.shape[0], PRECISION=precision, EMULATED=interpreted(),
        )  # fmt: skip


def chunks(batch: int, channels: int, area: int, size: int) -> tuple[int, int]:
    """Number of chunks of pixels for one term's kernel gradient, and the number of pixels in each.

    The number gives about `PROGRAMS` programs of at least 256 pixels, so the partial sums stay small compared to the images.
    """
    tiles = size**2 * triton.cdiv(channels, 64) ** 2
    pixels = batch * area
    wanted = max(1, min(PROGRAMS // tiles, pixels // 256))
    chunk = 32 * triton.cdiv(triton.cdiv(pixels, wanted), 32)
    return triton.cdiv(pixels, chunk), chunk


def gradient(source: Tensor, upstream: Tensor, partial: Tensor, first: int, precision: str) -> None:
    """Launch `_gradient`: the kernel gradients of terms first, first + 1, …, in chunks, to `partial`.

    source, upstream (terms, b, c, s, r) and partial (terms · splits, k, k, c, c) are contiguous.
    """
    terms, batch, channels, height, width = source.shape
    size = partial.shape[1]
    splits, chunk = chunks(batch, channels, height * width, size)

    def grid(meta: Mapping[str, int]) -> tuple[int, int]:
        return size**2 * triton.cdiv(channels, meta["BLOCK_O"]) * triton.cdiv(channels, meta["BLOCK_I"]), terms * splits

    with on_device_of(source):
        _tuned_gradient[grid](
            source, upstream, partial, first, splits, chunk, batch * height * width, channels, height, width,
            K=size, PRECISION=precision, EMULATED=interpreted(),
        )  # fmt: skip


_IMAGES = ("source", "taps", "base", "term", "total")
_STEP_SIGNATURE = dict.fromkeys(_IMAGES, "*fp32") | {"scale": "fp32"}
_SIZES = dict.fromkeys(SIZES, "i32")


def variants_of(
    kernel: str,
    function: Any,
    configs: Mapping[str, Config],
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    shape: str,
) -> Iterator[Variant]:
    """A kernel in every configuration and precision."""
    for name, config in configs.items():
        for precision in PRECISIONS:
            values = {**constants, "PRECISION": precision, "EMULATED": False, **config.constants}
            types = {**signature, **dict.fromkeys(values, "constexpr")}
            yield Variant(kernel, name, precision, function, types, values, config.warps, config.stages, shape)


def step_variants(kernel: str, *, term: bool, total: bool) -> Iterator[Variant]:
    """The variants of `step`."""
    for size in KERNEL_SIZES:
        flags = {"TERM": term, "TOTAL": total, "K": size}
        yield from variants_of(kernel, _step, STEP_CONFIGS, _STEP_SIGNATURE | _SIZES, flags, f"k = {size}, image")


def gradient_variants(kernel: str) -> Iterator[Variant]:
    """The variants of `gradient`."""
    types = dict.fromkeys(("source", "upstream", "partial"), "*fp32")
    types |= dict.fromkeys(("first", "splits", "chunk"), "i32") | _SIZES
    for size in KERNEL_SIZES:
        yield from variants_of(kernel, _gradient, GRADIENT_CONFIGS, types, {"K": size}, f"k = {size}, kernel")


def new_partials(kernel: Tensor, images: Tensor, terms: int) -> Tensor:
    """An empty tensor for the partial sums of so many terms' kernel gradients: (terms · splits, k, k, c, c)."""
    batch, channels, height, width = images.shape
    splits, _ = chunks(batch, channels, height * width, kernel.shape[2])
    return torch.empty((terms * splits, *kernel.shape[2:], channels, channels), device=kernel.device)


def summed(partial: Tensor) -> Tensor:
    """The kernel gradient (o, i, k, k) of partial sums (n, k, k, o, i)."""
    return partial.sum(0).permute(2, 3, 0, 1).contiguous()
