"""The exponential of a convolution as a truncated series in Horner's form, with the gradient of all terms.

`h_t = x`, `h_{n−1} = x + L h_n / n`, so that `h_0 = Σ_{n=0..t} Lⁿ x / n!`: division and sum are passes in place. With g the
gradient of h_0, `w_1 = g`, `w_{n+1} = Lᵀ w_n / (n + 1)`, the gradient of x is `g + Σ_{n=1..t} Lᵀ w_n`, and that of L
`Σ_{n=1..t} ∂L(h_n, w_n)`, where `∂L(h, w)` is that of one convolution with input h and gradient w of the output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipbench.layers.base import is_autocast
from lipbench.layers.lean.convolution import (
    SMALL_IMAGE,
    WIDE_VECTORS,
    convolve,
    convolve_transposed,
    kernel_gradient,
    laid_out,
)
from lipbench.layers.lean.derivatives import Gradients, first_alone
from lipbench.recomputation import is_repeated


def exponential(x: Tensor, kernel: Tensor, terms: int, training: bool, on_cpu: bool) -> Tensor:
    """`Σ_{n=0..terms} Lⁿ x / n!` for images (b, c, s, s) and a kernel (c, c, k, k), zero padding.

    In training it has a first derivative alone, backward alone, which is quicker, and must come last in an input half, but for
    what is added to it. Under autocast and in evaluation, it consists
    of PyTorch's operations.
    """
    if training and not is_autocast(x.device.type):
        trained: Tensor = _Exponential.apply(x, kernel, terms, on_cpu)  # type: ignore[no-untyped-call]  # torch gives it no types
        return trained
    last = _channels_last(x, on_cpu)
    total = start = laid_out(x, last)
    kernel = laid_out(kernel, last)
    for n in range(terms, 0, -1):
        total = torch.add(start, convolve(total, kernel), alpha=1 / n)
    return total.contiguous()


def _channels_last(x: Tensor, on_cpu: bool) -> bool:
    """Whether images and kernel are quicker channels-last: on a CPU, but for small images with wide vectors."""
    return on_cpu and not (WIDE_VECTORS and x.shape[-1] < SMALL_IMAGE)


class _Exponential(torch.autograd.Function):
    """Keeps the kernel and the inputs `h_t`, …, `h_1` of its convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, terms: int, on_cpu: bool) -> Tensor:
        ctx.on_cpu = on_cpu
        last = _channels_last(x, on_cpu)
        start, taps = laid_out(x, last), laid_out(kernel, last)
        total, later = start, []
        for n in range(terms, 1, -1):
            total = convolve(total, taps).mul_(1 / n).add_(start)
            later.append(total)
        ctx.save_for_backward(x, kernel, *later)
        if is_repeated():
            return x.new_empty(()).expand_as(x)
        return convolve(total, taps).add_(start).contiguous()

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, kernel, *later = ctx.saved_tensors
        last = _channels_last(x, ctx.on_cpu)
        kernel = laid_out(kernel, last)
        images, current = [*reversed(later), laid_out(x, last)], laid_out(gradient, last)
        of_x, of_kernel = current.clone(), None
        for n, image in enumerate(images, 1):
            if ctx.needs_input_grad[1]:
                one = kernel_gradient(image, current, kernel, ctx.on_cpu)
                of_kernel = one if of_kernel is None else of_kernel.add_(one)
            current = convolve_transposed(current, kernel)
            of_x.add_(current)
            current.div_(n + 1)
        return of_x.contiguous(), of_kernel, None, None
