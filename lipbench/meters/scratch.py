"""Scratch memory of CPU kernels: operation → bytes, from its arguments and its result.

A function here returns the peak bytes of an operation, above those in use before it and including its results. The formulas
were derived from the allocator's events within each operation of PyTorch 2.13 on x86; `bench/memory_agreement.py` compares
their sums with the profiler. An operation that is not in `CPU` is assumed to allocate only its results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
HighWater = Callable[..., int]


def _size(*tensors: Tensor | None) -> int:
    """Bytes of dense copies of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def _dense_copies(*tensors: Tensor) -> int:
    """Bytes of the copies that a kernel makes of non-contiguous tensors."""
    return _size(*(tensor for tensor in tensors if not tensor.is_contiguous()))


# ------------------------------------------------------------------------------------------------------------ convolutions


@cache
def _block() -> int:
    """Number of channels in a block of oneDNN's blocked layouts: a vector register of float32."""
    return 16 if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else 8


def _blocked(tensor: Tensor, block: int, *dimensions: int) -> int:
    """Bytes of a tensor in a blocked layout, with the given dimensions padded to whole blocks."""
    sizes = (-(-n // block) * block if dimension in dimensions else n for dimension, n in enumerate(tensor.shape))
    return math.prod(sizes) * tensor.element_size()


def _backend(x: Tensor, weight: Tensor, settings: tuple[Any, ...]) -> str:
    """The kernel that PyTorch selects: 'Slow2d', 'SlowTranspose2d', 'onednn', or '' for one without a formula here."""
    if x.dim() != 4 or settings[-1] != 1:  # the last setting is the number of groups
        return ""
    name = str(torch._C._select_conv_backend(x, weight, None, *settings, None)).partition(".")[2]
    if name.startswith("Slow"):
        return name
    return "onednn" if x.dtype == torch.float32 and torch._C._has_mkldnn else ""


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any, out: Tensor) -> int:
    """Peak bytes of a convolution. oneDNN copies input, weight and output into its own layout and back; older kernels unfold
    the input, all images at once.

    `settings` are stride, padding, dilation, transposed, output padding, groups.
    """
    backend, transposed, block = _backend(x, weight, settings), settings[3], _block()
    if backend == "onednn":
        plain = not transposed and x.shape[1] < block  # few channels are read without a copy
        result = _blocked(out, block, 1)
        operands = (0 if plain else _blocked(x, block, 1)) + _blocked(weight, block, 0, 1)
        return _dense_copies(x, weight) + max(operands + result, result + _size(out))
    if backend == "SlowTranspose2d":
        return _size(out) + _columns(x, weight, x)
    if backend == "Slow2d" and weight.shape[2:].numel() > 1:
        return _size(out) + _columns(x, weight.transpose(0, 1), out)
    return _size(out)


def _columns(x: Tensor, weight: Tensor, positions: Tensor) -> int:
    """Bytes of an unfolded tensor: o k k elements of a weight (i, o, k, k) at every position of every image."""
    return x.shape[0] * weight[0].numel() * positions.shape[2:].numel() * x.element_size()


def convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, *settings: Any, out: tuple[Tensor | None, ...]
) -> int:
    """Peak bytes of the backward pass: the input's gradient is computed first; it stays while those of weight and bias are.

    `settings` are those of `convolution`, and the output mask: which gradients are wanted.
    """
    backend = _backend(x, weight, settings[:-1])
    for_input, for_weight, for_bias = out
    if backend == "onednn":
        first = _onednn_for_input(gradient, weight, for_input)
        if _block() == 8 and max(settings[2]) > 1 and for_weight is not None:  # dilated: no blocked kernel without AVX-512
            second = _size(*out) + 2 * _columns(x[:1], weight, gradient)
        else:
            second = _size(for_input) + _onednn_for_weight(gradient, x, for_weight, for_bias)
        return _dense_copies(gradient, x, weight) + max(first, second)
    if backend.startswith("Slow") and weight.shape[2:].numel() > 1:
        transposed = backend == "SlowTranspose2d"  # this kernel works image by image
        columns = _columns(x[:1], weight, x) if transposed else _columns(x, weight.transpose(0, 1), gradient)
        return _size(*out) + columns
    return _size(*out)


def _onednn_for_input(gradient: Tensor, weight: Tensor, result: Tensor | None) -> int:
    if result is None:
        return 0
    block = _block()
    blocked = _blocked(result, block, 1)
    return max(_blocked(gradient, block, 1) + _blocked(weight, block, 0, 1) + blocked, blocked + _size(result))


def _onednn_for_weight(gradient: Tensor, x: Tensor, result: Tensor | None, bias: Tensor | None) -> int:
    if result is None:
        return 0
    block = 8 if max(result.shape[:2]) <= 8 else _block()
    blocked = _blocked(result, block, 0, 1) + _size(bias)
    return max(_blocked(gradient, block, 1) + _blocked(x, block, 1) + blocked, blocked + _size(result, bias))


# ---------------------------------------------------------------------------------------------------------------- the rest


def batched_product(*arguments: Any, out: Tensor, **_: Any) -> int:
    """Peak bytes of a batched product: operands with only the conjugate bit set are conjugated in a copy."""
    return _size(out, *(one for one in arguments if isinstance(one, Tensor) and one.is_conj()))


def promoted(*arguments: Any, out: Tensor, **_: Any) -> int:
    """Peak bytes of an element-wise operation: operands of another dtype than the common one are converted in a copy. A GPU
    converts them without a copy."""
    operands = [one for one in arguments if isinstance(one, Tensor) and one.dim()]
    if len({one.dtype for one in operands}) < 2:
        return _size(out)
    common = reduce(torch.promote_types, (one.dtype for one in operands))
    return _size(out) + sum(one.numel() * common.itemsize for one in operands if one.dtype != common)


def total(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    """Peak bytes of a sum: integers and booleans are converted in a copy first."""
    return _size(out) + (x.numel() * out.element_size() if x.dtype != out.dtype else 0)


def shuffled(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return _size(out) + _dense_copies(x)


def inverse(a: Tensor, *_: Any, out: Any, **__: Any) -> int:
    """Peak bytes of an inverse: the factorisation overwrites a copy."""
    return _size(*out, a)


def inverse_real_fft(x: Tensor, dimensions: list[int], *_: Any, out: Tensor, **__: Any) -> int:
    """Peak bytes of an inverse real FFT: over several dimensions, all but the last are transformed in a copy.

    MKL then needs the other dimensions as one, which takes a second copy, unless the last dimension has the largest stride of
    those left.
    """
    if len(dimensions) < 2:
        return _size(out)
    others = [x.stride(dimension) for dimension in range(x.dim()) if dimension not in dimensions and x.shape[dimension] > 1]
    copies = 1 if all(stride < x.stride(dimensions[-1]) for stride in others) else 2
    return _size(out) + copies * _size(x)


CPU: dict[Any, HighWater] = {
    aten.convolution: convolution,
    aten.convolution_backward: convolution_backward,
    aten.bmm: batched_product,
    aten.baddbmm: batched_product,
    aten.add: promoted,
    aten.sub: promoted,
    aten.mul: promoted,
    aten.div: promoted,
    aten.sum: total,
    aten.pixel_shuffle: shuffled,
    aten.pixel_unshuffle: shuffled,
    aten.linalg_inv_ex: inverse,
    aten._fft_c2r: inverse_real_fft,
}
"""operation → formula for its peak bytes; GPU kernels and their workspaces, as of cuDNN and cuBLAS, have no formulas here"""
