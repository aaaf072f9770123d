"""SOC's series on small images: all terms in one launch; each program computes all terms of its images.

A program takes a few whole images. Because padding is zero, a term of the series at these images needs only the previous term
at the same images: the program writes it, waits for its own threads, and reads it back from its multiprocessor's cache.

    forward   h ← x + (L ∗ h)/n,  n = t … 1,  from h = x   (Horner)
    backward  G ← (L ∗ G)/n,  n = 1 … t,  from G = x;  result = Σ G   (L is then the transposed map's kernel)

Source of the series: Singla & Feizi, ICML 2021, arXiv 2105.11417. Layout as in `soc_convolution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from lipbench_kernels.launching import KERNEL_SIZES, Config, Variant, interpreted, on_device_of, tuned
from lipbench_kernels.soc_convolution import convolved, located, variants_of

CONFIGS = {
    "wide": Config({"BLOCK_O": 32, "BLOCK_I": 16, "BLOCK_P": 64}, warps=8, stages=2),
    "square": Config({"BLOCK_O": 64, "BLOCK_I": 16, "BLOCK_P": 32}, warps=4, stages=3),
    "tall": Config({"BLOCK_O": 64, "BLOCK_I": 16, "BLOCK_P": 16}, warps=4, stages=2),
}
"""Tiles of output channels × pixels, which a program computes one after another, and the step over input channels."""

SIZES = ["terms", "slots", "image_count", "channels", "height", "width"]
LARGEST_CHANNELS = 128
LARGEST_IMAGE = 4096
"""elements"""


def fits(channels: int, height: int, width: int) -> bool:
    """Whether a series is computed in one launch, by programs that compute all terms of their images.

    Separate steps move 12 bytes per element and term through the device's memory (h and x in, h out). Here these bytes stay in
    the cache of a multiprocessor if they fit: up to 4096 elements an image, 48 KiB of the 192 KiB of an A100 and the 256 KiB of
    an H100 and a B200, which leaves room for a second program and the tiles in flight. The limit is 128 channels, two tiles of
    outputs: a program computes tiles one after another, while separate steps compute them in parallel.
    """
    return channels <= LARGEST_CHANNELS and channels * height * width <= LARGEST_IMAGE


@triton.jit(do_not_specialize=SIZES)  # type: ignore[untyped-decorator]  # triton gives it no types
def _series(  # type: ignore[no-untyped-def]  # compiled by triton, not Python
    x, taps, iterates, result, terms, slots, image_count, channels, height, width,
    BACKWARD: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, EMULATED: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """`result = Σ_{n=0..terms} Lⁿ x / n!`, forward by Horner's h_n, BACKWARD by the terms G_n of the sum.

    x, result (b, c, s, r); taps (k, k, c, c), padded; iterates (slots, b, c, s, r) keeps h_n or G_n, n = 1 … terms − 1, in
    slot (n − 1) mod slots. From the device's memory it reads x and taps, 4·(M + C) bytes with M = b·c·s·r, C = k²·c²; it writes
    4·(terms − 1 + 1)·M bytes of iterates and result. terms·k²·c·M multiply-accumulates. A program has the images whose pixels
    fill one tile, or one image.
    """
    area = height * width
    owned = tl.maximum(BLOCK_P // area, 1)
    begin = tl.program_id(0) * owned * area
    end = tl.minimum(begin + owned * area, image_count * area)
    size = image_count.to(tl.int64) * channels * area
    tiles = tl.cdiv(channels, BLOCK_O)
    for turn in range(terms):
        if BACKWARD:
            divisor = turn + 1
            before = turn  # G_n is made from G_{n−1}
            after = turn + 1
        else:
            divisor = terms - turn
            before = divisor  # h_{n−1} is made from h_n
            after = divisor - 1
        source = iterates + (before + slots - 1) % slots * size
        if turn == 0:
            source = x
        for tile in range(tiles * tl.cdiv(end - begin, BLOCK_P)):
            outputs = tile % tiles * BLOCK_O + tl.arange(0, BLOCK_O)
            corner = begin + tile // tiles * BLOCK_P
            value = convolved(
                source, taps, outputs, corner, end, channels, height, width, K, BLOCK_P, BLOCK_I, PRECISION, EMULATED
            ) / divisor  # fmt: skip
            first, pixels, start = located(corner, channels, area, BLOCK_P)
            places = start[None, :] + outputs[:, None] * area
            exist = (outputs[:, None] < channels) & (pixels[None, :] < end)
            base = x
            if BACKWARD and turn > 0:
                base = result
            total = tl.load(base + first + places, mask=exist, other=0.0) + value
            slot = iterates + (after + slots - 1) % slots * size
            if BACKWARD:
                tl.store(result + first + places, total, mask=exist)
                # G_t is not read. Blocks are compared, because triton 3.9's interpreter widens a scalar boolean to int8.
                needed = turn + tl.zeros_like(pixels) < terms - 1
                tl.store(slot + first + places, value, mask=exist & needed[None, :])
            else:
                destination = slot
                if turn == terms - 1:
                    destination = result
                tl.store(destination + first + places, total, mask=exist)
        tl.debug_barrier()  # the next term reads values that other threads of this program wrote


_tuned_series = tuned(_series, CONFIGS, ["image_count", "channels", "width", "terms", "BACKWARD", "K", "PRECISION"])


def series(x: Tensor, taps: Tensor, terms: int, precision: str, *, keep: bool, backward: bool) -> tuple[Tensor, Tensor]:
    """Launch `_series` on contiguous x (b, c, s, r): the result and (terms − 1, b, c, s, r) iterates, scratch unless `keep`."""
    batch, channels, height, width = x.shape
    iterates = x.new_empty((terms - 1 if keep else min(terms - 1, 2), *x.shape))
    result = torch.empty_like(x)

    def grid(meta: Mapping[str, int]) -> tuple[int]:
        return (triton.cdiv(batch, max(meta["BLOCK_P"] // (height * width), 1)),)

    with on_device_of(x):
        _tuned_series[grid](
            x, taps, iterates if terms > 1 else result, result, terms, max(len(iterates), 1), batch, channels, height, width,
            BACKWARD=backward, K=taps.shape[0], PRECISION=precision, EMULATED=interpreted(),
        )  # fmt: skip
    return result, iterates


_SIGNATURE = dict.fromkeys(("x", "taps", "iterates", "result"), "*fp32") | dict.fromkeys(SIZES, "i32")


def variants(kernel: str, *, backward: bool) -> Iterator[Variant]:
    """The variants of `series`."""
    for size in KERNEL_SIZES:
        flags = {"BACKWARD": backward, "K": size}
        yield from variants_of(kernel, _series, CONFIGS, _SIGNATURE, flags, f"k = {size}, small images")
