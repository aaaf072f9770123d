"""Convolutions with PyTorch's own parametrisations: (b, channels, s, s) → (b, channels, s, s), circular padding."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations


class _ReshapedKernel(nn.Module):
    """A convolution whose kernel is a matrix (c, c k²) divided by k."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.matrix = nn.Linear(channels * kernel_size**2, channels)
        parametrizations.orthogonal(self.matrix)

    def forward(self, x: Tensor) -> Tensor:
        k, p = self.kernel_size, self.kernel_size // 2
        weight = self.matrix.weight.reshape(len(self.matrix.weight), -1, k, k) / k
        padded = functional.pad(x, (p, p, p, p), mode="circular") if p else x
        return functional.conv2d(padded, weight, self.matrix.bias)


def torch_orthogonal(channels: int, kernel_size: int) -> nn.Module:
    """RKO (Li et al. 2019, arXiv 1911.00937) by `torch.nn.utils.parametrizations.orthogonal`.

    The kernel, reshaped to (c, c k²), has orthonormal rows. Divided by k, the norm of the unfolding, it is 1-Lipschitz.
    """
    return _ReshapedKernel(channels, kernel_size)


def torch_spectral_norm(channels: int, kernel_size: int) -> nn.Module:
    """A convolution under `torch.nn.utils.parametrizations.spectral_norm`, as it is often used.

    The reshaped kernel has norm 1, so the convolution is 1-Lipschitz for k = 1, and up to k-Lipschitz in general.
    """
    mode: Literal["circular", "zeros"] = "circular" if kernel_size > 1 else "zeros"
    convolution = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, padding_mode=mode)
    return parametrizations.spectral_norm(convolution)
