"""Residual blocks `y = x + Bᵀ relu(A ∗ x + bias)` that keep their input and their activation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lipbench.layers.base import is_autocast
from lipbench.layers.lean.convolution import WIDE_VECTORS, convolve, convolve_transposed, kernel_gradient, laid_out
from lipbench.layers.lean.derivatives import Gradients, first_alone
from lipbench.recomputation import is_repeated


def residual(x: Tensor, first: Tensor, bias: Tensor, second: Tensor, training: bool, on_cpu: bool) -> Tensor:
    """`x + Bᵀ relu(A ∗ x + bias)`: images (b, i, s, s), kernels A and B (o, i, k, k), bias (o,), zero padding.

    In training it has a first derivative alone, backward alone, which is quicker, and must be the last function of an input
    half. Under autocast and in evaluation, it consists of PyTorch's operations.
    """
    if training and not is_autocast(x.device.type):
        y: Tensor = _Residual.apply(x, first, bias, second, on_cpu)  # type: ignore[no-untyped-call]  # torch gives it no types
        return y
    return x + convolve_transposed(functional.relu(convolve(x, first, bias)), second)


def scaled_residual(x: Tensor, kernel: Tensor, bias: Tensor, scale: Tensor, training: bool, on_cpu: bool) -> Tensor:
    """`x + scale · Kᵀ relu(K ∗ x + bias)`: images (b, i, s, s), a kernel (o, i, k, k), bias (o,), a scalar; as `residual`."""
    if training and not is_autocast(x.device.type):
        y: Tensor = _ScaledResidual.apply(x, kernel, bias, scale, on_cpu)  # type: ignore[no-untyped-call]  # torch gives it no types
        return y
    return torch.addcmul(x, scale, convolve_transposed(functional.relu(convolve(x, kernel, bias)), kernel))


def residual_branch(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """`−Bᵀ (A ∗ x)`: what such a block subtracts from its input where all units are active, without the bias."""
    return -convolve_transposed(convolve(x, first), second)


def _laid_out(images: Tensor, on_cpu: bool) -> Tensor:
    """Channels-last on a CPU, but with wide vectors: there, two convolutions are not worth the conversion."""
    return laid_out(images, on_cpu and not WIDE_VECTORS)


class _Residual(torch.autograd.Function):
    """Keeps the images, the activation, whose sign is the mask of active units, and both kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, bias: Tensor, second: Tensor, on_cpu: bool) -> Tensor:
        ctx.on_cpu = on_cpu
        start = _laid_out(x, on_cpu)
        activation = convolve(start, first, bias).relu_()
        ctx.save_for_backward(x, first, bias, second, activation)
        if is_repeated():
            return x.new_empty(()).expand_as(x)
        return convolve_transposed(activation, second).add_(start).contiguous()

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, first, _, second, activation = ctx.saved_tensors
        of_x = of_first = of_bias = of_second = None
        incoming = _laid_out(gradient, ctx.on_cpu)
        if ctx.needs_input_grad[3]:
            of_second = kernel_gradient(incoming, activation, second, ctx.on_cpu)
        inner = torch.ops.aten.threshold_backward(convolve(incoming, second), activation, 0)
        if ctx.needs_input_grad[1]:
            of_first = kernel_gradient(_laid_out(x, ctx.on_cpu), inner, first, ctx.on_cpu)
        if ctx.needs_input_grad[2]:
            of_bias = inner.sum((0, 2, 3))
        if ctx.needs_input_grad[0]:
            of_x = convolve_transposed(inner, first).add_(incoming).contiguous()
        return of_x, of_first, of_bias, of_second, None


class _ScaledResidual(torch.autograd.Function):
    """Keeps the images, the activation, the kernel and the scale, which multiplies sums and gradients as they are added."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor, scale: Tensor, on_cpu: bool) -> Tensor:
        ctx.on_cpu = on_cpu
        start = _laid_out(x, on_cpu)
        activation = convolve(start, kernel, bias).relu_()
        ctx.save_for_backward(x, kernel, bias, scale, activation)
        if is_repeated():
            return x.new_empty(()).expand_as(x)
        return torch.addcmul(start, scale, convolve_transposed(activation, kernel)).contiguous()

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        x, kernel, _, scale, activation = ctx.saved_tensors
        of_x = of_kernel = of_bias = of_scale = None
        incoming = _laid_out(gradient, ctx.on_cpu)
        inner = torch.ops.aten.threshold_backward(convolve(incoming, kernel), activation, 0)  # of the sum, without the scale
        if ctx.needs_input_grad[1]:
            of_kernel = kernel_gradient(incoming, activation, kernel, ctx.on_cpu)
            of_kernel = of_kernel.add_(kernel_gradient(_laid_out(x, ctx.on_cpu), inner, kernel, ctx.on_cpu)).mul_(scale)
        if ctx.needs_input_grad[2]:
            of_bias = inner.sum((0, 2, 3)).mul_(scale)
        if ctx.needs_input_grad[3]:
            of_scale = _dot(inner, activation).view_as(scale)
        if ctx.needs_input_grad[0]:
            of_x = torch.addcmul(incoming, scale, convolve_transposed(inner, kernel)).contiguous()
        return of_x, of_kernel, of_bias, of_scale, None


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The sum of products of two images (b, c, s, s), in the order of memory of the first."""
    order = (0, 2, 3, 1) if one.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2, 3)
    return torch.dot(one.permute(order).reshape(-1), other.permute(order).reshape(-1))
