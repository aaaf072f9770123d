"""How nearly orthogonal BCOP's matrices and LOT's Fourier blocks are, as published and with Polar Express steps.

`python -m bench.convergence [--channels 64,256] [--image-size 8] [--draws 3]` draws the weights of layers with k = 3 from a
normal distribution, computes the parameter half in float32 and in float64, and prints a table in Markdown: products of c × c
matrices per matrix or block; the smallest singular value of the worst and of the median matrix; and the largest one of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.layers import bcop, bcop_polar, lot
from lipbench.layers.base import LipschitzConv2d
from lipbench.layers.bcop import BCOPConv2d
from lipbench.layers.bcop_polar import PolarBCOPConv2d
from lipbench.layers.lot import LOTConv2d
from lipbench.layers.lot_polar import PolarLOTConv2d
from lipbench.weights import converted

PRODUCTS = {
    BCOPConv2d: 2 * bcop.BJORCK_ITERATIONS,
    PolarBCOPConv2d: 3 * bcop_polar.POLAR_STEPS,
    LOTConv2d: 3 * lot.NEWTON_ITERATIONS - 1,
    PolarLOTConv2d: 3 * bcop_polar.POLAR_STEPS,
}
"""with the Gram matrix and the last product of LOT's blocks"""
TITLES = {BCOPConv2d: "BCOP", PolarBCOPConv2d: "BCOP-polar", LOTConv2d: "LOT", PolarLOTConv2d: "LOT-polar"}


def orthogonal(layer: nn.Module, image_size: int) -> Tensor:
    """The matrices that should be orthogonal, (n, c, c): BCOP's free ones after the iteration, or LOT's blocks."""
    with torch.no_grad():
        if isinstance(layer, BCOPConv2d):
            return layer.orthogonal_matrices(*layer.advance(image_size))
        assert isinstance(layer, LipschitzConv2d)
        (blocks,) = layer.parameter_half(image_size)
        return blocks


def values(make: Callable[..., LipschitzConv2d], channels: int, image_size: int, dtype: torch.dtype, draws: int) -> Tensor:
    """The singular values of every matrix, (n, c), over so many draws of the weights."""
    found = []
    for seed in range(draws):
        layer = make(channels, channels, 3, image_size)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = layer.get_parameter("weight")
            weight.copy_(torch.randn(weight.shape, generator=generator))
        torch.manual_seed(seed)  # BCOP's power iterations start at random
        matrices = orthogonal(converted(layer, dtype), image_size)
        exact = matrices.to(torch.complex128 if matrices.is_complex() else torch.float64)
        found.append(torch.linalg.svdvals(exact))
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", default="64,256")
    parser.add_argument("--image-size", type=int, default=8, help="of LOT's layers")
    parser.add_argument("--draws", type=int, default=3)
    given = parser.parse_args()
    print("| method | channels | dtype | products | σ_min, worst | σ_min, median | σ_max − 1 |")
    print("|---|---|---|---|---|---|---|")
    for make, title in TITLES.items():
        for channels in map(int, given.channels.split(",")):
            for dtype in (torch.float32, torch.float64):
                found = values(make, channels, given.image_size, dtype, given.draws)
                smallest = found.amin(1)
                least, middle, most = (float(value) for value in (smallest.min(), smallest.median(), found.max()))
                name = str(dtype).removeprefix("torch.")
                print(f"| {title} | {channels} | {name} | {PRODUCTS[make]} | {least:.6f} | {middle:.6f} | {most - 1:.1e} |")


if __name__ == "__main__":
    main()
