"""AOL: almost-orthogonal Lipschitz layers, a convolution whose kernel is rescaled per input channel.

Source: Prach & Lampert, "Almost-Orthogonal Layers for Efficient General-Purpose Lipschitz Networks", ECCV 2022,
arXiv 2208.03160.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench.layers.base import Implementation, LipschitzConv2d, Method, WithKernel
from lipbench.layers.lean.correlation import BACKWARD_MACS, MACS, MEMORY, absolute_correlation, by_size, pays
from lipbench.layers.standard import PADDED, circular_conv2d, identity_kernel
from lipbench.theory import C, Complexity, Cost, M, P, c, k

EPSILON = 1e-6


def self_correlation(kernel: Tensor) -> Tensor:
    """Correlation of a kernel (o, i, k, k) with itself, (i, i, 2k−1, 2k−1): v[i, j, δ] = Σ_o Σ_p K[o, i, p] K[o, j, p + δ]."""
    transposed = kernel.transpose(0, 1)
    return functional.conv2d(transposed, transposed, padding=kernel.shape[-1] - 1)


CORRELATION_MACS = c**3 * k**2 * (2 * k - 1) ** 2
"""MACs as executed, with products that fall on padding; k⁴ of the k² (2k−1)² products do not."""
CORRELATION_MEMORY = c**2 * (2 * k - 1) ** 2


class AOLConv2d(LipschitzConv2d):
    """`y = K̂ ∗ x + bias`, `K̂[o, i] = K[o, i] / sqrt(Σ_{j, δ} |v[i, j, δ]| + ε)` (arXiv 2208.03160, Theorem 2).

    The bound holds for circular and for zero padding. The kernel is initialised to the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        self.weight = nn.Parameter(identity_kernel(out_channels, in_channels, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def start_as_end(self) -> None:
        """An orthogonal matrix in the middle of the kernel (public code of arXiv 2311.16833)."""
        middle = self.kernel_size // 2
        with torch.no_grad():
            nn.init.orthogonal_(self.weight.zero_()[:, :, middle, middle])

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return (self.weight * torch.rsqrt(self._bound() + EPSILON)[:, None, None],)

    def _bound(self) -> Tensor:
        """`Σ_{j, δ} |v[i, j, δ]|` of each input channel i, (in_channels,)."""
        return self_correlation(self.weight).abs().sum((1, 2, 3))

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return circular_conv2d(x, effective[0], self.bias)


class LeanAOLConv2d(AOLConv2d):
    """The same function; where there are enough channels, the bound takes half of the shifts and keeps signs."""

    def _bound(self) -> Tensor:
        if pays(self.weight, self.training):
            return absolute_correlation(self.weight).sum(1)
        return super()._bound()


class TritonAOLConv2d(WithKernel, AOLConv2d):
    """The same function; one kernel computes correlation, absolute value and sum, and never writes the correlation."""

    def _bound(self) -> Tensor:
        if self.fallback:
            return super()._bound()
        from lipbench_kernels.aol_bound import aol_bound

        return aol_bound(self.weight, precision=self.precision)


EXACT = Complexity(Cost(C, PADDED, 2 * C), Cost(CORRELATION_MACS, 2 * P + CORRELATION_MEMORY + c, 2 * CORRELATION_MACS))
EXACT_LEAN = Complexity(
    EXACT.input,
    Cost(
        by_size(MACS, CORRELATION_MACS),
        2 * P + by_size(MEMORY, CORRELATION_MEMORY) + c,
        by_size(BACKWARD_MACS, 2 * CORRELATION_MACS),
    ),
)

METHOD = Method(
    name="aol",
    title="AOL",
    source="Prach & Lampert, ECCV 2022, arXiv 2208.03160",
    implementations={
        "paper": Implementation(AOLConv2d, EXACT, tail=C),
        "lean": Implementation(LeanAOLConv2d, EXACT_LEAN, tail=C),
        "triton": Implementation(TritonAOLConv2d, needs="triton"),
    },
    published=Complexity(Cost(C, M), Cost(c**3 * k**4, 5 * P)),
    published_operations=("CONV", "CONV"),
)
