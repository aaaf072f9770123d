"""Layers of orthogonium (https://github.com/deel-ai/orthogonium): (b, channels, s, s) → (b, channels, s, s).

Padding is circular, unless a function says otherwise.
"""

from __future__ import annotations

from torch import nn


def orthogonium_aoc(channels: int, kernel_size: int) -> nn.Module:
    """AOC, the adaptive orthogonal convolution (Boissin et al. 2025, arXiv 2501.07930)."""
    from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d

    layer: nn.Module = AdaptiveOrthoConv2d(channels, channels, kernel_size)
    return layer


def orthogonium_aol(channels: int, kernel_size: int) -> nn.Module:
    """AOL (Prach and Lampert 2022, arXiv 2208.03160)."""
    from orthogonium.layers.conv.AOL.aol import AOLConv2D

    layer: nn.Module = AOLConv2D(channels, channels, kernel_size, padding=kernel_size // 2, padding_mode="circular")
    return layer


def orthogonium_sll(channels: int, kernel_size: int) -> nn.Module:
    """SLL (Araujo et al. 2023, arXiv 2303.03169) with as many inner channels as channels, zero padding."""
    from orthogonium.layers.conv.SLL.sll_layer import SDPBasedLipschitzResBlock

    layer: nn.Module = SDPBasedLipschitzResBlock(channels, 1.0, kernel_size)
    return layer


def orthogonium_cayley(channels: int, kernel_size: int) -> nn.Module:
    """Cayley (Trockman and Kolter 2021, arXiv 2104.07167), the public code as orthogonium ships it; it needs einops."""
    from orthogonium.legacy.cayley_ortho_conv import Cayley

    layer: nn.Module = Cayley(channels, channels, kernel_size)
    return layer


def orthogonium_bcop(channels: int, kernel_size: int) -> nn.Module:
    """BCOP (Li et al. 2019, arXiv 1911.00937), the public code as orthogonium ships it; it needs einops and a CUDA device.

    It is not among the peers, because it cannot be built on a CPU.
    """
    from orthogonium.legacy.block_ortho_conv import BCOP

    layer: nn.Module = BCOP(channels, channels, kernel_size)
    return layer
