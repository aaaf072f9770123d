"""Layers of deel-torchlip (https://github.com/deel-ai/deel-torchlip): (b, channels, s, s) → (b, channels, s, s)."""

from __future__ import annotations

from torch import nn


def torchlip_spectral(channels: int, kernel_size: int) -> nn.Module:
    """SpectralConv2d (Serrurier et al. 2021, arXiv 2006.06520), with circular padding.

    The reshaped kernel is orthogonalised by the spectral norm and Björck steps, and divided by k, the norm of the unfolding.

    Its method `vanilla_export()` gives the plain convolution with the present kernel.
    """
    from deel.torchlip import SpectralConv2d

    layer: nn.Module = SpectralConv2d(channels, channels, kernel_size, padding=kernel_size // 2, padding_mode="circular")
    return layer
