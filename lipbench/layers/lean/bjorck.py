"""Björck–Bowie steps with three products a step for the gradient, and kernels from projectors: BCOP's `lean` implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lipbench.layers.base import without_autocast
from lipbench.layers.lean.derivatives import Gradients, first_alone


class _BjorckSteps(torch.autograd.Function):
    """Steps `A ← (1 + β) A − β A R`, `R = Aᵀ A`. Since R is symmetric, both of its factors have their gradient in one product.

    So a step takes three products for the gradient, where autograd takes four.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, iterations: int, beta: float) -> Tensor:
        kept, ctx.beta = [], beta
        for _ in range(iterations):
            gram = torch.bmm(matrices.mT, matrices)
            kept += [matrices, gram]
            matrices = torch.baddbmm(matrices, matrices, gram, beta=1 + beta, alpha=-beta)
        ctx.save_for_backward(*kept)
        return matrices

    @staticmethod
    @first_alone
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        kept, beta = ctx.saved_tensors, ctx.beta
        with without_autocast(gradient.device.type):
            for matrices, gram in zip(kept[-2::-2], kept[::-2]):
                inner = torch.bmm(matrices.mT, gradient)
                gradient = torch.baddbmm(gradient, gradient, gram, beta=1 + beta, alpha=-beta)
                gradient.baddbmm_(matrices, inner + inner.mT, alpha=-beta)
        return gradient, None, None


def lean_bjorck_steps(matrices: Tensor, iterations: int, beta: float) -> Tensor:
    """Result of steps `A ← (1 + β) A − β A Aᵀ A` on square matrices (n, c, c). Its gradient has no gradient or tangent."""
    result: Tensor = _BjorckSteps.apply(matrices, iterations, beta)  # type: ignore[no-untyped-call]  # torch gives it no types
    return result


def lean_spectral_norms(matrices: Tensor, iterations: int) -> Tensor:
    """Estimates (n, 1, 1) of spectral norms by power iterations on the columns of (n, r, c), from random normal vectors.

    Only one of the two vectors of an iteration is normalised, and the last one's length is the estimate.
    """
    with torch.no_grad():
        right = torch.randn(matrices.shape[0], matrices.shape[2], 1, dtype=matrices.dtype, device=matrices.device)
        for _ in range(iterations):
            left = torch.bmm(matrices, right)
            right = torch.bmm(matrices.mT, left)
            length = torch.linalg.vector_norm(right, dim=1, keepdim=True)
            right = right / length
        norms: Tensor = length / torch.linalg.vector_norm(left, dim=1, keepdim=True)
        return norms


def extended(blocks: Tensor, projector: Tensor, dimension: int) -> Tensor:
    """Block convolution of (p, q, m, c) with the pair P, I − P along the first or second dimension, which grows by one."""
    kept = (blocks.reshape(-1, blocks.shape[-1]) @ projector).view(blocks.shape)
    after = (0, 0) * (3 - dimension) + (0, 1)
    before = (0, 0) * (3 - dimension) + (1, 0)
    return functional.pad(kept, after) + functional.pad(blocks - kept, before)
