"""Parts of the `lean` input halves: images and gradients of kernels in the forms that are quickest on a CPU.

Everything here is about time alone; the numbers are those of PyTorch's convolutions up to rounding. On other devices nothing
was measured, and PyTorch's own forms are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SMALL_IMAGE = 8
"""image size up to which the gradient of a kernel is quicker as a forward convolution, with narrow vectors"""
WIDE_VECTORS = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""whether oneDNN has its own kernels for all gradients, which it has for vectors of 512 bits"""


def laid_out(x: Tensor, wanted: bool) -> Tensor:
    """Images or a kernel channels-last if wanted, as some convolutions would otherwise convert them; else as they are."""
    return x.contiguous(memory_format=torch.channels_last) if wanted else x


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Cross-correlation with zero padding: x (b, i, s, s), kernel (o, i, k, k), bias (o,) → (b, o, s, s)."""
    return functional.conv2d(x, kernel, bias, padding=kernel.shape[-1] // 2)


def convolve_transposed(y: Tensor, kernel: Tensor) -> Tensor:
    """The transposed map of `convolve`: y (b, o, s, s), kernel (o, i, k, k) → (b, i, s, s)."""
    return functional.conv_transpose2d(y, kernel, padding=kernel.shape[-1] // 2)


def kernel_gradient(x: Tensor, gradient: Tensor, kernel: Tensor, on_cpu: bool) -> Tensor:
    """Gradient (o, i, k, k) of the kernel of `convolve`, from its input (b, i, s, s) and its output's gradient (b, o, s, s).

    For small images on a CPU with narrow vectors, it is the convolution of the channels of one by those of the other, with the
    batch as channels.
    """
    radius = kernel.shape[-1] // 2
    if on_cpu and not WIDE_VECTORS and x.shape[-1] <= SMALL_IMAGE:
        return functional.conv2d(x.transpose(0, 1), gradient.transpose(0, 1), padding=radius).transpose(0, 1)
    wanted = [False, True, False]  # of the gradients of input, kernel and bias
    _, found, _ = torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, [1, 1], [radius, radius], [1, 1], False, [0, 0], 1, wanted
    )
    return found  # type: ignore[no-any-return]  # torch gives operators no types
