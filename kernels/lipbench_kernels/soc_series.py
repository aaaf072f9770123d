"""SOC's Taylor series, `z = Σ_{n=0..t} Lⁿ x / n!`, with one launch per step, or one for all steps on small images.

Source: Singla & Feizi, "Skew Orthogonal Convolutions", ICML 2021, arXiv 2105.11417, whose Algorithm 1 keeps the term u and the
sum z: `u ← (L ∗ u)/n, z ← z + u`, which reads two images a step and writes two. Here the same polynomial is evaluated by
Horner's rule, which reads two and writes one:

    h_t = x,      h_{n−1} = x + (L ∗ h_n)/n,      z = h_0
    G_0 = ∂z,     G_n = (Lᵀ ∗ G_{n−1})/n,         ∂x = Σ_{n=0..t} G_n,      ∂L = Σ_{n=1..t} (G_{n−1} ⋆ h_n)/n

`∗` is cross-correlation with zero padding 'same', `Lᵀ` the transposed map, `⋆` the correlation over batch and pixels. Nothing
is assumed about L: it need not be skew. Kept for the backward pass: x, L and h_1 … h_{t−1}, as many images as `paper` keeps.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from lipbench_kernels import soc_resident, soc_work
from lipbench_kernels.launching import Kernel, check
from lipbench_kernels.soc_convolution import (
    adjoint,
    gradient,
    gradient_variants,
    new_partials,
    step,
    step_variants,
    summed,
    taps_of,
)

LARGEST = 2**30
"""number of elements from which offsets within two images of a tile, or within a kernel, may not fit 32 bits"""


@torch.library.custom_op("lipbench::soc_series", mutates_args=())
def _series(x: Tensor, kernel: Tensor, terms: int, precision: str, keep: bool, resident: bool) -> tuple[Tensor, Tensor]:
    """z (b, c, s, r); h_1 … h_{t−1} (t − 1, b, c, s, r) if `keep`, else none. `resident`: all terms in one launch."""
    check("soc_series", precision, x, kernel)
    x, taps = x.contiguous(), taps_of(kernel)
    if resident:
        result, iterates = soc_resident.series(x, taps, terms, precision, keep=keep, backward=False)
        return result, iterates if keep else x.new_empty((0, *x.shape))
    iterates = x.new_empty((terms - 1 if keep else 0, *x.shape))
    before = x
    for order in range(terms, 0, -1):
        after = iterates[order - 2] if keep and order > 1 else torch.empty_like(x)
        step(before, taps, 1 / order, precision, base=x, term=None, total=after)
        before = after
    return before, iterates


@_series.register_fake
def _(x: Tensor, kernel: Tensor, terms: int, precision: str, keep: bool, resident: bool) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((terms - 1 if keep else 0, *x.shape))


@torch.library.custom_op("lipbench::soc_series_backward", mutates_args=())
def _series_backward(
    upstream: Tensor, x: Tensor, kernel: Tensor, iterates: Tensor, terms: int, precision: str, resident: bool
) -> tuple[Tensor, Tensor]:
    """∂x (b, c, s, r) and ∂L (c, c, k, k) of the upstream gradient ∂z (b, c, s, r)."""
    check("soc_series's backward pass", precision, upstream, x, kernel, iterates)
    upstream, x, taps = upstream.contiguous(), x.contiguous(), taps_of(adjoint(kernel))
    partial = new_partials(kernel, x, terms)
    splits = len(partial) // terms
    if resident:
        result, powers = soc_resident.series(upstream, taps, terms, precision, keep=True, backward=True)
        last = powers[-1:] if terms > 1 else upstream[None]  # G_{t−1}, which meets h_t = x
        gradient(x[None], last, partial[-splits:], terms, precision)
        if terms > 1:
            gradient(iterates[:1], upstream[None], partial[:splits], 1, precision)
        if terms > 2:
            gradient(iterates[1:], powers[:-1], partial[splits:-splits], 2, precision)
        return result, summed(partial)
    term = total = upstream
    for order in range(1, terms + 1):
        source = x if order == terms else iterates[order - 1]
        gradient(source[None], term[None], partial[(order - 1) * splits : order * splits], order, precision)
        next_term = torch.empty_like(x) if order < terms else None
        next_total = torch.empty_like(x)  # not in place, because a step runs many times while it is tuned
        step(term, taps, 1 / order, precision, base=total, term=next_term, total=next_total)
        term, total = term if next_term is None else next_term, next_total
    return total, summed(partial)


@_series_backward.register_fake
def _(
    upstream: Tensor, x: Tensor, kernel: Tensor, iterates: Tensor, terms: int, precision: str, resident: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), kernel.new_empty(kernel.shape)


def _set_up_series(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, kernel, ctx.terms, ctx.precision, ctx.keep, ctx.resident = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros would take as much memory as the iterates
    ctx.save_for_backward(*(x, kernel, output[1]) if ctx.keep else (kernel,))


@once_differentiable
def _differentiate_series(
    ctx: Any, upstream: Tensor | None, _: None
) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
    by_x = by_kernel = None
    if upstream is not None and ctx.keep:
        by_x, by_kernel = torch.ops.lipbench.soc_series_backward(
            upstream, *ctx.saved_tensors, ctx.terms, ctx.precision, ctx.resident
        )
    elif upstream is not None:
        if ctx.needs_input_grad[1]:
            raise RuntimeError("soc_series kept nothing for the gradient of its kernel: got keep=False; pass keep=True")
        (kernel,) = ctx.saved_tensors
        by_x, _none = torch.ops.lipbench.soc_series(upstream, adjoint(kernel), ctx.terms, ctx.precision, False, ctx.resident)
    return by_x, by_kernel, None, None, None, None


_series.register_autograd(_differentiate_series, setup_context=_set_up_series)


@torch.library.custom_op("lipbench::soc_step", mutates_args=())
def _one_step(h: Tensor, x: Tensor, kernel: Tensor, order: int, precision: str) -> Tensor:
    """`x + (L ∗ h)/order`, (b, c, s, r)."""
    check("soc_step", precision, h, x, kernel)
    result = torch.empty_like(h, memory_format=torch.contiguous_format)
    step(h.contiguous(), taps_of(kernel), 1 / order, precision, base=x.contiguous(), term=None, total=result)
    return result


@_one_step.register_fake
def _(h: Tensor, x: Tensor, kernel: Tensor, order: int, precision: str) -> Tensor:
    return h.new_empty(h.shape)


@torch.library.custom_op("lipbench::soc_step_backward", mutates_args=())
def _one_step_backward(upstream: Tensor, h: Tensor, kernel: Tensor, order: int, precision: str) -> tuple[Tensor, Tensor]:
    """∂h (b, c, s, r) and ∂L (c, c, k, k)."""
    check("soc_step's backward pass", precision, upstream, h, kernel)
    upstream, h = upstream.contiguous(), h.contiguous()
    by_h, partial = torch.empty_like(h), new_partials(kernel, h, 1)
    step(upstream, taps_of(adjoint(kernel)), 1 / order, precision, base=None, term=by_h, total=None)
    gradient(h[None], upstream[None], partial, order, precision)
    return by_h, summed(partial)


@_one_step_backward.register_fake
def _(upstream: Tensor, h: Tensor, kernel: Tensor, order: int, precision: str) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), kernel.new_empty(kernel.shape)


def _set_up_step(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    h, _, kernel, ctx.order, ctx.precision = inputs
    ctx.save_for_backward(h, kernel)


@once_differentiable
def _differentiate_step(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
    by_h = by_kernel = None
    if ctx.needs_input_grad[0] or ctx.needs_input_grad[2]:
        by_h, by_kernel = torch.ops.lipbench.soc_step_backward(upstream, *ctx.saved_tensors, ctx.order, ctx.precision)
    return by_h, upstream, by_kernel, None, None


_one_step.register_autograd(_differentiate_step, setup_context=_set_up_step)


def _convolution_flops(images: torch.Size, kernel: torch.Size) -> int:
    return 2 * images.numel() * kernel[1:].numel()


@register_flop_formula(torch.ops.lipbench.soc_series, get_raw=True)
def _series_flops(x: Tensor, kernel: Tensor, terms: int, *_: Any, **__: Any) -> int:
    return terms * _convolution_flops(x.shape, kernel.shape)


@register_flop_formula(torch.ops.lipbench.soc_series_backward, get_raw=True)
def _series_backward_flops(
    upstream: Tensor, x: Tensor, kernel: Tensor, iterates: Tensor, terms: int, *_: Any, **__: Any
) -> int:
    return 2 * terms * _convolution_flops(x.shape, kernel.shape)


@register_flop_formula(torch.ops.lipbench.soc_step, get_raw=True)
def _step_flops(h: Tensor, x: Tensor, kernel: Tensor, *_: Any, **__: Any) -> int:
    return _convolution_flops(h.shape, kernel.shape)


@register_flop_formula(torch.ops.lipbench.soc_step_backward, get_raw=True)
def _step_backward_flops(upstream: Tensor, h: Tensor, kernel: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _convolution_flops(h.shape, kernel.shape)


def _check_shapes(name: str, images: Tensor, kernel: Tensor) -> None:
    """Check that these are images (b, c, s, r) and a kernel (c, c, k, k) of odd k, with offsets that fit 32 bits."""
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(
            f"{name} takes images (b, c, s, r): got {tuple(images.shape)}; pass four dimensions, none of them empty"
        )
    channels = images.shape[1]
    if (
        kernel.dim() != 4
        or kernel.shape[:2] != (channels, channels)
        or kernel.shape[2] != kernel.shape[3]
        or kernel.shape[2] % 2 == 0
    ):
        raise ValueError(
            f"{name} takes a kernel ({channels}, {channels}, k, k) with odd k for images of {channels} channels: "
            f"got {tuple(kernel.shape)}; pad channels with zeros, or the kernel"
        )
    largest = max(images.shape[1:].numel(), kernel.shape.numel(), images.numel() // channels)
    if largest >= LARGEST:
        raise ValueError(
            f"{name} takes less than 2³⁰ elements in an image, a channel and a kernel: got {largest}; split the batch"
        )


def soc_series(x: Tensor, kernel: Tensor, terms: int, precision: str = "ieee", *, resident: bool | None = None) -> Tensor:
    """`Σ_{n=0..terms} Lⁿ x / n!`, (b, c, s, r), with `L x` the cross-correlation of x with `kernel` (c, c, k, k), zero padding.

    x (b, c, s, r) and kernel float32, of any strides, on a CUDA device; k odd, terms ≥ 1. Once differentiable by both. Keeps
    terms − 1 images for the backward pass where the kernel needs a gradient, none otherwise. `resident` chooses between one
    launch for all terms and one for each; if None, `soc_resident.fits` decides. Raises `ValueError` for other arguments.
    """
    _check_shapes("soc_series", x, kernel)
    if terms < 1:
        raise ValueError(f"soc_series takes one term or more: got {terms}; for none, the result is x itself")
    owned = soc_resident.fits(*x.shape[1:]) if resident is None else resident
    keep = torch.is_grad_enabled() and kernel.requires_grad
    result: Tensor = torch.ops.lipbench.soc_series(x, kernel, terms, precision, keep, owned)[0]
    return result


def soc_step(h: Tensor, x: Tensor, kernel: Tensor, order: int, precision: str = "ieee") -> Tensor:
    """One step of Horner's rule, `x + (L ∗ h)/order`, (b, c, s, r): convolution, division and addition in one kernel.

    h, x (b, c, s, r) and kernel (c, c, k, k) float32, of any strides, on a CUDA device; k odd, order ≥ 1. Once differentiable
    by all three. Raises `ValueError` for other arguments.
    """
    _check_shapes("soc_step", h, kernel)
    if x.shape != h.shape:
        raise ValueError(
            f"soc_step takes x of h's shape {tuple(h.shape)}: got {tuple(x.shape)}; pass the images the series began with"
        )
    if order < 1:
        raise ValueError(f"soc_step takes an order of 1 or more: got {order}; the series divides term n by n")
    result: Tensor = torch.ops.lipbench.soc_step(h, x, kernel, order, precision)
    return result


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "soc_step",
        "one term of SOC's series: convolution, division and addition",
        lambda: step_variants("soc_step", term=False, total=True),
        soc_work.step,
        soc_work.replaced_step,
        {"b": 256, "c": 64, "s": 32, "k": 3},
    ),
    Kernel(
        "soc_step_backward",
        "gradients of one term by its image and its kernel",
        lambda: chain(step_variants("soc_step_backward", term=True, total=False), gradient_variants("soc_step_backward")),
        soc_work.step_backward,
        soc_work.replaced_step_backward,
        {"b": 256, "c": 64, "s": 32, "k": 3},
    ),
    Kernel(
        "soc_series",
        "SOC's series; small images in one launch",
        lambda: soc_resident.variants("soc_series", backward=False),
        soc_work.series,
        soc_work.replaced_series,
        {"b": 256, "c": 64, "s": 8, "k": 3, "t": 5},
    ),
    Kernel(
        "soc_series_backward",
        "its gradients; small images in one launch, and the kernel's in three",
        lambda: chain(
            soc_resident.variants("soc_series_backward", backward=True),
            step_variants("soc_series_backward", term=True, total=True),
        ),
        soc_work.series_backward,
        soc_work.replaced_series_backward,
        {"b": 256, "c": 64, "s": 8, "k": 3, "t": 5},
    ),
)
