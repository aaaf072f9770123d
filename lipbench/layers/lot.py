"""LOT: layer-wise orthogonal training; the inverse square root of its covariance orthogonalises every Fourier block.

Source: Xu, Li & Li, "LOT: Layer-wise Orthogonal Training on Improving ℓ2 Certified Robustness", NeurIPS 2022, arXiv 2210.11620.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench.layers.base import Implementation, LipschitzConv2d, Method, WithKernel
from lipbench.layers.cayley import apply_spectrum, fft_macs, half_plane, kernel_spectrum
from lipbench.layers.lean.newton import Blocks, folded_inverse_root
from lipbench.layers.lean.spectrum import applied_cost, apply_blocks, blocks_cost, kernel_blocks, last_macs
from lipbench.layers.standard import identity_kernel
from lipbench.theory import Complexity, Cost, M, b, c, k, s, t

NEWTON_ITERATIONS = 10
EPSILON = 1e-4


def normalized_covariance(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """`S/ν` (f, o, o) with `S = V Vᴴ + ε I` and `ν = ‖S‖ + ε`, and ν (f, 1, 1), for complex V (f, o, i)."""
    identity = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    covariance = torch.bmm(blocks, blocks.mH) + EPSILON * identity
    norm = torch.linalg.vector_norm(covariance, dim=(1, 2), keepdim=True) + EPSILON
    return covariance / norm, norm


def inverse_root(y: Tensor, iterations: int) -> Tensor:
    """`y^(−1/2)` for Hermitian y (f, n, n) with norms up to 1, by coupled Newton steps (arXiv 2210.11620, Alg. 1).

    `Y₀ = y`, `Z₀ = I`, `T = (3 I − Z Y)/2`, `Y ← Y T`, `Z ← T Z`. The first Z is the identity and the last Y is not used, so
    these two products are left out.
    """
    identity = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    z = step = 1.5 * identity - 0.5 * y
    for _ in range(iterations - 1):
        y = torch.bmm(y, step)
        step = torch.baddbmm(identity, z, y, beta=1.5, alpha=-0.5)
        z = torch.bmm(step, z)
    return z


class LOTConv2d(LipschitzConv2d):
    """Zero-pads by k//2, multiplies every frequency by its block, crops, and adds the bias. Initialised to the identity.

    The map is orthogonal only on the padded torus; with padding and cropping it is a contraction on the image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, image_size: int, iterations: int = NEWTON_ITERATIONS
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        self.iterations = iterations
        self.weight = nn.Parameter(identity_kernel(out_channels, in_channels, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        blocks = kernel_spectrum(self.weight, image_size + 2 * (self.kernel_size // 2))
        covariance, norm = normalized_covariance(blocks)
        return (torch.bmm(self._inverse_root(covariance), blocks) * torch.rsqrt(norm),)

    def _inverse_root(self, covariance: Tensor) -> Tensor:
        """Inverse square roots of the blocks (f, c, c), by all iterations."""
        return inverse_root(covariance, self.iterations)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        radius, image_size = self.kernel_size // 2, x.shape[-1]
        if radius:
            x = functional.pad(x, (radius,) * 4)
        image = slice(radius, radius + image_size)
        return apply_spectrum(x, effective[0])[:, :, image, image] + self.bias[:, None, None]


class TritonLOTConv2d(WithKernel, LOTConv2d):
    """The same function; one kernel runs all Newton steps on a block and keeps it on chip. For up to 32 output channels."""

    def _inverse_root(self, covariance: Tensor) -> Tensor:
        if self.fallback:
            return super()._inverse_root(covariance)
        from lipbench_kernels.newton import newton_inverse_root

        return newton_inverse_root(covariance, self.iterations, self.precision)

    def _matrices(self) -> tuple[int, int]:
        from lipbench_kernels.newton import largest

        return self.out_channels, largest(self.precision)


class LeanLOTConv2d(LOTConv2d):
    """The same function in real arithmetic: Hermitian matrices as real ones, Fourier transforms as products."""

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        blocks = Blocks.of(*kernel_blocks(self.weight, image_size + 2 * (self.kernel_size // 2)))
        identity = torch.eye(self.out_channels, dtype=self.weight.dtype, device=self.weight.device)
        covariance = blocks.covariance() + EPSILON * identity
        norm = torch.linalg.vector_norm(covariance, dim=(1, 2), keepdim=True) + EPSILON
        root = folded_inverse_root(covariance / norm, self.iterations, self.training)
        return blocks.times(root * torch.rsqrt(norm))

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        real, imaginary = effective
        with self._without_autocast():  # as complex products are
            return apply_blocks(x, real, imaginary, self.training, self.kernel_size // 2) + self.bias[:, None, None]


_F = half_plane(s + k - 1)
_FFT = fft_macs(s + k - 1)

EXACT = Complexity(
    Cost(
        4 * b * _F * c**2 + 2 * b * c * _FFT,
        b * c * (s + k - 1) ** 2 + 2 * b * c * _F,
        8 * b * _F * c**2 + 3 * b * c * _FFT,
    ),
    Cost(
        c**2 * _FFT + 4 * _F * c**3 * (3 * t - 1),
        c**2 * (s + k - 1) ** 2 + 2 * _F * c**2 * (3 * t + 3) + 5 * _F,
        2 * c**2 * _FFT + 8 * _F * c**3 * (3 * t - 1),
    ),
)

# Hermitian products take two real products in the forward pass and four for tangents; `H V` takes three. Kept are y and three
# matrices of each step but the first; the covariance, the root and the scaled root with its halves; the blocks with their sums;
# and the result.
EXACT_LEAN = Complexity(
    applied_cost(s + k - 1),
    blocks_cost(s + k - 1) + Cost(_F * c**3 * (6 * t - 1), _F * c**2 * (3 * t + 9) + 3 * _F, _F * c**3 * (12 * t - 2)),
)

METHOD = Method(
    name="lot",
    title="LOT",
    source="Xu et al., NeurIPS 2022, arXiv 2210.11620",
    implementations={
        "paper": Implementation(LOTConv2d, EXACT, tail=4 * b * _F * c**2 + b * c * _FFT),
        "lean": Implementation(LeanLOTConv2d, EXACT_LEAN, tail=last_macs(s + k - 1)),
        "triton": Implementation(TritonLOTConv2d, needs="triton"),
    },
    published=Complexity(Cost(b * s**2 * c**2, 3 * M), Cost(4 * s**2 * c**3 * t, 4 * s**2 * c**2 * t)),
    published_operations=("FFTs & MVs", "FFTs & MMs"),
    iterations={"t": NEWTON_ITERATIONS},
)
