"""SLL: SDP-based Lipschitz layers, a residual layer with a learnable diagonal bound.

Source: Araujo, Havens, Delattre, Allauzen & Hu, "A Unified Algebraic Perspective on Lipschitz Neural Networks", ICLR 2023,
arXiv 2303.03169.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench import errors
from lipbench.layers.aol import CORRELATION_MACS, CORRELATION_MEMORY
from lipbench.layers.base import Implementation, LipschitzConv2d, Method, WithKernel
from lipbench.layers.lean.correlation import BACKWARD_MACS, MACS, MEMORY, absolute_correlation, by_size, pays
from lipbench.layers.lean.residual import residual, residual_branch
from lipbench.theory import C, Complexity, Cost, M, P, c, k

EPSILON = 1e-6


class SLLConv2d(LipschitzConv2d):
    """`y = x − Kᵀ (T ⊙ relu(K ∗ x + bias))`, zero padding, `T_i = 2 / (Σ_j |K Kᵀ|_ij q_j / q_i + ε)` (arXiv 2303.03169).

    `q` (c,) is a free parameter; the formula uses `|q| + ε`. Raises `UnsupportedError` for unequal channels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        if in_channels != out_channels:
            raise errors.unequal_channels("SLL", in_channels, out_channels)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.xavier_normal_(self.weight)
        bound = 1 / math.sqrt(in_channels * kernel_size**2)
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))
        self.q = nn.Parameter(torch.randn(out_channels))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        q = self.q.abs() + EPSILON
        return self.weight, 2 / (self._row_sums(q) / q + EPSILON)

    def _row_sums(self, q: Tensor) -> Tensor:
        """`Σ_j |K Kᵀ|_ij q_j` of each output channel i, (c,)."""
        correlation = functional.conv2d(self.weight, self.weight, padding=self.kernel_size - 1)
        return torch.mv(correlation.abs().sum((2, 3)), q)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        kernel, scale = effective
        radius = self.kernel_size // 2
        activation = functional.relu(functional.conv2d(x, kernel, self.bias, padding=radius))
        return x - functional.conv_transpose2d(scale[:, None, None] * activation, kernel, padding=radius)

    def branch(self, x: Tensor, *effective: Tensor) -> Tensor:
        kernel, scale = effective
        radius = self.kernel_size // 2
        # B and Bᵀ each get the square root of the scale.
        hidden = scale.sqrt()[:, None, None] * functional.conv2d(x, kernel, padding=radius)
        return functional.conv_transpose2d(scale.sqrt()[:, None, None] * hidden, kernel, padding=radius)


class LeanSLLConv2d(SLLConv2d):
    """The same function; the scale is part of the second kernel, and the row sums take half of the correlation's shifts."""

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        kernel, scale = super().transform_parameters(image_size, *advanced)
        return kernel, -scale[:, None, None, None] * kernel

    def _row_sums(self, q: Tensor) -> Tensor:
        if pays(self.weight, self.training):
            return torch.mv(absolute_correlation(self.weight.transpose(0, 1)), q)
        return super()._row_sums(q)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return residual(x, effective[0], self.bias, effective[1], self.training, self.is_on_cpu(x))

    def branch(self, x: Tensor, *effective: Tensor) -> Tensor:
        return residual_branch(x, *effective)


class TritonSLLConv2d(WithKernel, SLLConv2d):
    """The same function; the kernel of AOL's bound computes the row sums, with weights q."""

    def _row_sums(self, q: Tensor) -> Tensor:
        if self.fallback:
            return super()._row_sums(q)
        from lipbench_kernels.aol_bound import aol_bound

        return aol_bound(self.weight.transpose(0, 1), q, self.precision)


EXACT = Complexity(
    Cost(2 * C, 3 * M, 4 * C),
    Cost(CORRELATION_MACS + c**2, P + CORRELATION_MEMORY + c**2 + 5 * c, 2 * CORRELATION_MACS + c**2),
)
EXACT_LEAN = Complexity(
    Cost(2 * C, 2 * M, 4 * C),
    Cost(
        by_size(MACS, CORRELATION_MACS) + c**2,
        2 * P + by_size(MEMORY, CORRELATION_MEMORY) + c**2 + 6 * c,
        by_size(BACKWARD_MACS, 2 * CORRELATION_MACS) + c**2,
    ),
)

METHOD = Method(
    name="sll",
    title="SLL",
    source="Araujo et al., ICLR 2023, arXiv 2303.03169",
    implementations={
        "paper": Implementation(SLLConv2d, EXACT, tail=C),
        "lean": Implementation(LeanSLLConv2d, EXACT_LEAN, tail=C),
        "triton": Implementation(TritonSLLConv2d, needs="triton"),
    },
    published=Complexity(Cost(2 * C, 3 * M), Cost(c**3 * k**4, 5 * P)),
    published_operations=("CONVs & ACT", "CONVs"),
    linear=False,
)
