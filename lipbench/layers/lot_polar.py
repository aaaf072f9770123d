"""LOT with its Fourier blocks orthogonalised to convergence, by eight Polar Express steps in place of ten Newton steps.

Source: Amsel, Persson, Musco & Gower, "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm", 2025, arXiv 2505.16932; LOT as in `lot.py`.
"""

from __future__ import annotations

from torch import Tensor

from lipbench.layers.base import Implementation, Method
from lipbench.layers.bcop_polar import POLAR_STEPS, polar_factors, quintics
from lipbench.layers.cayley import fft_macs, half_plane, kernel_spectrum
from lipbench.layers.lot import EXACT as LOT
from lipbench.layers.lot import LOTConv2d
from lipbench.theory import Complexity, Cost, b, c, k, s, t


class PolarLOTConv2d(LOTConv2d):
    """As LOT, with the polar factor of every Fourier block. Zero-padded and cropped, so it is a contraction on the image."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, image_size: int, iterations: int = POLAR_STEPS
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size, iterations)
        self.quintics = quintics(iterations)  # here, since TorchDynamo cannot trace how they are found

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return (polar_factors(kernel_spectrum(self.weight, image_size + 2 * (self.kernel_size // 2)), self.quintics),)


_F = half_plane(s + k - 1)
_FFT = fft_macs(s + k - 1)

EXACT = Complexity(
    LOT.input,
    Cost(
        c**2 * _FFT + 12 * _F * c**3 * t,
        c**2 * (s + k - 1) ** 2 + 2 * _F * c**2 * (3 * t + 3) + 5 * _F,
        2 * c**2 * _FFT + 24 * _F * c**3 * t,
    ),
)

METHOD = Method(
    name="lot-polar",
    title="LOT-polar",
    source="Xu et al., NeurIPS 2022, arXiv 2210.11620, with Amsel et al., arXiv 2505.16932",
    implementations={"paper": Implementation(PolarLOTConv2d, EXACT, tail=4 * b * _F * c**2 + b * c * _FFT)},
    published=None,
    published_operations=("", ""),
    iterations={"t": POLAR_STEPS},
)
