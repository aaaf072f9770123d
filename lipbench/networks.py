"""The ConvNet of the comparison paper (arXiv 2311.16833, Tables 5–7), built from any method's layers.

Widths w = 16, 32, 64, 128 give the sizes XS, S, M, L for 32 × 32 images. Images of twice the size need one more block and half
the width, those of half the size one block less and twice the width: the head always has 32 w features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench.cases import NetworkSpec

ConvolutionFactory = Callable[[int, int, int], nn.Module]
"""(channels, kernel_size, image_size) → a layer that keeps channels and image size"""
HeadFactory = Callable[[int], nn.Module]
"""features → a layer (b, features) → (b, features)"""

CONVOLUTIONS_PER_BLOCK = 5


class MaxMin(nn.Module):
    """Sorts channels in pairs: 2j, 2j+1 → max, min; an odd last channel is left unchanged. (b, c, s, s) → (b, c, s, s)."""

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[:, : x.shape[1] // 2 * 2 : 2], x[:, 1::2]
        # Maximum and minimum keep the same two views of x for the backward pass, and no tensors of their own.
        sorted_pairs = torch.stack((torch.maximum(even, odd), torch.minimum(even, odd)), dim=2).flatten(1, 2)
        return sorted_pairs if x.shape[1] % 2 == 0 else torch.cat((sorted_pairs, x[:, -1:]), dim=1)


class PadChannels(nn.Module):
    """Appends channels of zeros: (b, c, s, s) → (b, channels, s, s)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, 0, 0, 0, 0, self.channels - x.shape[1]))


class FirstChannels(nn.Module):
    """Keeps the first entries of dimension 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.channels]


class ConvolutionalHead(nn.Module):
    """A method's own 1 × 1 convolution as the final fully connected layer: (b, features) → (b, features)."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x[:, :, None, None]).flatten(1)  # type: ignore[no-any-return]  # modules return Any


def downsize_block(channels: int, kernel_size: int, image_size: int, convolution: ConvolutionFactory) -> nn.Sequential:
    """A block (b, c, s, s) → (b, 2c, s/2, s/2): five convolutions with MaxMin, the first half of the channels, pixel-unshuffle
    by 2."""
    layers: list[nn.Module] = []
    for _ in range(CONVOLUTIONS_PER_BLOCK):
        layers += [convolution(channels, kernel_size, image_size), MaxMin()]
    return nn.Sequential(*layers, FirstChannels(channels // 2), nn.PixelUnshuffle(2))


def block_shapes(spec: NetworkSpec) -> list[tuple[int, int, int]]:
    """(channels, image_size, kernel_size) of the blocks; the last, on 2 × 2 images, uses 1 × 1 kernels."""
    blocks = spec.image_size.bit_length() - 1  # each halves the images, down to 1 × 1
    return [
        (spec.channels * 2**block, spec.image_size // 2**block, spec.kernel_size if block < blocks - 1 else 1)
        for block in range(blocks)
    ]


def convolution_shapes(spec: NetworkSpec) -> list[tuple[int, int, int]]:
    """(channels, image_size, kernel_size) of every convolution of the network except the head, in order."""
    blocks = [shape for shape in block_shapes(spec) for _ in range(CONVOLUTIONS_PER_BLOCK)]
    return [(spec.channels, spec.image_size, 1), *blocks]


def head_features(spec: NetworkSpec) -> int:
    """Number of features that enter the linear head: 32 w."""
    return 2 * block_shapes(spec)[-1][0]


def convnet(spec: NetworkSpec, convolution: ConvolutionFactory, head: HeadFactory, classes: int = 10) -> nn.Sequential:
    """The network of a spec: (b, 3, image_size, image_size) → (b, classes)."""
    return nn.Sequential(
        PadChannels(spec.channels),
        convolution(spec.channels, 1, spec.image_size),
        MaxMin(),
        *(downsize_block(channels, kernel, size, convolution) for channels, size, kernel in block_shapes(spec)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        head(head_features(spec)),
        FirstChannels(classes),
    )
