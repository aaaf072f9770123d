"""BCOP: block-convolution orthogonal parameterisation, with its Björck–Bowie orthogonalisation.

Source: Li, Haque, Anil, Lucas, Grosse & Jacobsen, "Preventing Gradient Attenuation in Lipschitz Constrained Convolutional
Networks", NeurIPS 2019, arXiv 1911.00937; Björck & Bowie, SIAM J. Numer. Anal. 8 (1971).
"""

from __future__ import annotations

import math
from dataclasses import replace

import sympy
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench.layers.base import Head, Implementation, LipschitzConv2d, LipschitzLinear, Method, WithKernel
from lipbench.layers.lean.bjorck import extended, lean_bjorck_steps, lean_spectral_norms
from lipbench.layers.lean.circular import circular_pad
from lipbench.layers.standard import PADDED, circular_conv2d
from lipbench.theory import C, Complexity, Cost, M, b, c, k, t

BJORCK_ITERATIONS = 20
BJORCK_BETA = 0.5
POWER_ITERATIONS = 10


def spectral_norms(matrices: Tensor) -> Tensor:
    """Estimates of the spectral norms of (n, r, c) matrices, shape (n, 1, 1): power iterations from a new random normal vector.

    The start vector multiplies the columns. The estimates are not differentiated.
    """
    with torch.no_grad():
        right = torch.randn(matrices.shape[0], matrices.shape[2], 1, dtype=matrices.dtype, device=matrices.device)
        for _ in range(POWER_ITERATIONS):
            left = functional.normalize(torch.bmm(matrices, right), dim=1)
            right = functional.normalize(torch.bmm(matrices.mT, left), dim=1)
        return torch.bmm(left.mT, torch.bmm(matrices, right))


def orthogonalize(matrices: Tensor, iterations: int = BJORCK_ITERATIONS) -> Tensor:
    """Nearly orthogonal matrices from free ones (n, r, c), by Björck–Bowie steps `A ← (1 + β) A − β A Aᵀ A`.

    Division by the estimated norm brings the singular values into the region of convergence, below √5.
    """
    return bjorck_steps(matrices / spectral_norms(matrices), iterations)


def bjorck_steps(matrices: Tensor, iterations: int) -> Tensor:
    """Result of steps `A ← (1 + β) A − β A Aᵀ A` on matrices (n, r, c)."""
    tall = matrices.shape[1] >= matrices.shape[2]
    for _ in range(iterations):
        if tall:
            left, right = matrices, torch.bmm(matrices.mT, matrices)
        else:
            left, right = torch.bmm(matrices, matrices.mT), matrices
        matrices = torch.baddbmm(matrices, left, right, beta=1 + BJORCK_BETA, alpha=-BJORCK_BETA)
    return matrices


def block_convolution(blocks: Tensor, factor: Tensor) -> Tensor:
    """Block convolution of (n, n, c, c) with (2, 2, c, c) → (n+1, n+1, c, c): products summed over offsets that add up."""
    n, channels = blocks.shape[0], blocks.shape[2]
    columns = factor.permute(2, 0, 1, 3).reshape(channels, 4 * channels)
    products = (blocks.reshape(n * n * channels, channels) @ columns).view(n, n, channels, 2, 2, channels)
    return sum(  # type: ignore[return-value]  # sum() of tensors is a tensor
        functional.pad(products[:, :, :, row, column], (0, 0, 0, 0, column, 1 - column, row, 1 - row))
        for row in (0, 1)
        for column in (0, 1)
    )


class BCOPConv2d(LipschitzConv2d):
    """`y = K ∗ x + bias`, K the block convolution of an orthogonal matrix and k − 1 pairs of projectors (arXiv 1911.00937).

    `weight` (2k−1, c, c) with c = max(in, out) has the free matrices: the first mixes channels, the others give the projectors.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, image_size: int, iterations: int = BJORCK_ITERATIONS
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        self.iterations = iterations
        channels = max(in_channels, out_channels)
        self.weight = nn.Parameter(torch.empty(2 * kernel_size - 1, channels, channels))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-1, 1) / math.sqrt(out_channels))
        for matrix in self.weight.data:
            nn.init.orthogonal_(matrix, gain=1 / math.sqrt(channels))

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """Estimated norms (2k−1, 1, 1) of the free matrices."""
        return (spectral_norms(self.weight),)

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        orthogonal = self.orthogonal_matrices(*advanced)
        channel_mixing = orthogonal[0, : self.in_channels, : self.out_channels]
        if self.kernel_size == 1:
            kernel = channel_mixing if self.in_channels == self.out_channels else channel_mixing.T
            return (kernel[:, :, None, None],)
        return (self._kernel(channel_mixing, orthogonal[1:]),)

    def orthogonal_matrices(self, *advanced: Tensor) -> Tensor:
        """Nearly orthogonal matrices (2k−1, c, c) from the free ones."""
        return self._bjorck_steps(self.weight / advanced[0])

    def _bjorck_steps(self, matrices: Tensor) -> Tensor:
        """All iterations on (2k−1, c, c) matrices of norm 1."""
        return bjorck_steps(matrices, self.iterations)

    def _kernel(self, channel_mixing: Tensor, orthogonal: Tensor) -> Tensor:
        """Kernel (o, i, k, k), k > 1, of the channel mixing (i, o) and the (2k−2, c, c) matrices of the projectors."""
        blocks = self._blocks(orthogonal)
        if self.in_channels <= self.out_channels:
            return (blocks.mT @ channel_mixing.T).permute(2, 3, 1, 0)
        return (channel_mixing.T @ blocks).permute(2, 3, 1, 0)

    def _blocks(self, orthogonal: Tensor) -> Tensor:
        """Block kernel (k, k, c, c) of the projectors on the first half of the columns of (2k−2, c, c) matrices."""
        halves = orthogonal[:, :, : orthogonal.shape[2] // 2]
        projectors = torch.bmm(halves, halves.mT)
        first, second = projectors[0::2], projectors[1::2]
        both = torch.bmm(first, second)
        identity = torch.eye(both.shape[-1], dtype=both.dtype, device=both.device)
        factors = torch.stack((both, first - both, second - both, identity - first - second + both), dim=1)
        factors = factors.view(-1, 2, 2, *identity.shape)
        blocks: Tensor = factors[0]
        for factor in factors[1:]:
            blocks = block_convolution(blocks, factor)
        return blocks

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return circular_conv2d(x, effective[0], self.bias)


class TritonBCOPConv2d(WithKernel, BCOPConv2d):
    """The same function; one kernel runs all iterations on a matrix and keeps it on chip. For matrices up to 64 × 64."""

    def _bjorck_steps(self, matrices: Tensor) -> Tensor:
        if self.fallback:
            return super()._bjorck_steps(matrices)
        from lipbench_kernels.bjorck import bjorck

        return bjorck(matrices, self.iterations, BJORCK_BETA, self.precision)

    def _matrices(self) -> tuple[int, int]:
        from lipbench_kernels.bjorck import largest

        return self.weight.shape[-1], largest(self.precision)


class LeanBCOPConv2d(BCOPConv2d):
    """The same function: three products for the gradient of a step, and the kernel grown from its channel mixing.

    Multiplying the channel mixing by one projector after another takes 13 products for k = 3, in place of 27.
    """

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        return (lean_spectral_norms(self.weight, POWER_ITERATIONS),)

    def _bjorck_steps(self, matrices: Tensor) -> Tensor:
        if not self.training:
            return super()._bjorck_steps(matrices)
        return lean_bjorck_steps(matrices, self.iterations, BJORCK_BETA)

    def _kernel(self, channel_mixing: Tensor, orthogonal: Tensor) -> Tensor:
        rows_are_inputs = self.in_channels <= self.out_channels
        blocks = (channel_mixing if rows_are_inputs else channel_mixing.T)[None, None]
        halves = orthogonal[:, :, : orthogonal.shape[2] // 2]
        for index, projector in enumerate(torch.bmm(halves, halves.mT)):
            blocks = extended(blocks, projector, index % 2)
        return blocks.permute(3, 2, 1, 0) if rows_are_inputs else blocks.permute(2, 3, 1, 0)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        radius = self.kernel_size // 2
        if not self.training or not 0 < radius <= x.shape[-1]:
            return super().transform_input(x, *effective)
        return functional.conv2d(circular_pad(x, radius), effective[0], self.bias)


class BjorckLinear(LipschitzLinear):
    """`y = W x + bias`, W (out, in) orthogonalised by Björck–Bowie steps; initialised to the identity."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.eye_(self.weight)

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        """The estimated norm (1, 1, 1) of the free matrix."""
        return (spectral_norms(self.weight[None]),)

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return (bjorck_steps(self.weight[None] / advanced[0], BJORCK_ITERATIONS)[0],)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return functional.linear(x, effective[0], self.bias)


def _orthogonalization(count: sympy.Expr) -> Cost:
    """Cost for `count` matrices of c × c: two products a step; A and AᵀA of each step, the result and the norms are kept.

    The norms are not differentiated; every other product is, with respect to both factors.
    """
    steps = Cost(count * 2 * c**3 * t, count * c**2 * (2 * t + 1), count * 4 * c**3 * t)
    return steps + replace(_norms(count), backward=sympy.Integer(0))


def _norms(count: sympy.Expr) -> Cost:
    """Cost of the estimated norms of `count` matrices of c × c."""
    return Cost(count * ((2 * POWER_ITERATIONS + 1) * c**2 + c), count)


def block_kernel_cost() -> Cost:
    """Cost from orthogonal matrices to the kernel, k > 1: projectors, their pairs, k − 2 block convolutions, channel mixing.

    A block convolution multiplies n² blocks by 4, n = 2 … k − 1; its factors are kept, the first with all 2 × 2 kernels.
    The kept elements are those for c > 1: with one channel, the first factor is rearranged without a copy.
    """
    squares = (k - 1) * k * (2 * k - 1) / 6  # Σ n², n = 1 … k − 1
    projectors = (2 * k - 2) * c**2 * sympy.floor(c / 2)
    macs = projectors + (k - 1) * c**3 + 4 * (squares - 1) * c**3 + k**2 * c**3
    memory = c**2 * ((2 * k - 2) + 4 * (k - 1) + 4 * (k - 2) + (squares - 5) + 2 * k**2)
    return Cost(*(sympy.Piecewise((quantity, k > 1), (0, True)) for quantity in (macs, memory, 2 * macs)))


EXACT = Complexity(Cost(C, PADDED, 2 * C), _orthogonalization(2 * k - 1) + block_kernel_cost())


_LEAN_NORMS = Cost((2 * k - 1) * 2 * POWER_ITERATIONS * c**2, 2 * k - 1, sympy.Integer(0))
"""costs of `advance()`: norms as lengths of the vectors of the last iteration"""


def _lean_parameters() -> Cost:
    """Cost of the lean parameter half: per step, two products, and three for the gradient; kept are A and AᵀA.

    The kernel takes i² + i (i + 1) products of blocks for the i-th pair of projectors. Their factors are kept, the first one
    as a part of what was orthogonalised, and so is the kernel.
    """
    count, products = 2 * k - 1, (k - 1) * k * (2 * k - 1) / 3 + k * (k - 1) / 2
    steps = Cost(count * 2 * c**3 * t, count * c**2 * (2 * t + 1), count * 3 * c**3 * t) + _LEAN_NORMS
    macs = (2 * k - 2) * c**2 * sympy.floor(c / 2) + products * c**3
    kernel = Cost(macs, c**2 * ((2 * k - 2) + products - 1 + k**2), 2 * macs)
    return steps + kernel


EXACT_LEAN = Complexity(EXACT.input, _lean_parameters())

METHOD = Method(
    name="bcop",
    title="BCOP",
    source="Li et al., NeurIPS 2019, arXiv 1911.00937",
    implementations={
        "paper": Implementation(BCOPConv2d, EXACT, tail=C),
        "lean": Implementation(LeanBCOPConv2d, EXACT_LEAN, tail=C, advance=_LEAN_NORMS),
        "triton": Implementation(TritonBCOPConv2d, needs="triton"),
    },
    published=Complexity(Cost(C, M), Cost(c**3 * k * t + c**3 * k**3, c**2 * k * t + c**2 * k**3)),
    published_operations=("CONV", "BnB & MMs"),
    iterations={"t": BJORCK_ITERATIONS},
    advance=_norms(2 * k - 1),
    orthogonal=True,
    head=Head(
        BjorckLinear,
        Complexity(Cost(b * c**2, b * c, 2 * b * c**2), _orthogonalization(sympy.Integer(1))),
        advance=_norms(sympy.Integer(1)),
        tail=b * c**2,
    ),
)
