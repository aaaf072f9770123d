"""BCOP with its free matrices orthogonalised to convergence, by eight Polar Express steps in place of 20 Björck–Bowie steps.

Source: Amsel, Persson, Musco & Gower, "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon
Algorithm", 2025, arXiv 2505.16932; BCOP as in `bcop.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import sympy
import torch
from torch import Tensor

from lipbench.layers.base import Head, Implementation, Method
from lipbench.layers.bcop import BCOPConv2d, BjorckLinear, block_kernel_cost
from lipbench.layers.standard import PADDED
from lipbench.theory import C, Complexity, Cost, b, c, k, t

POLAR_STEPS = 8
LOWEST = 1.5e-4
"""The smallest singular value, relative to the estimated norm, for which the steps are the best; smaller ones come out
smaller."""
Quintic = tuple[float, float, float]
"""a, b, c of the polynomial a x + b x³ + c x⁵"""
_FIXED: Quintic = (1.875, -1.25, 0.375)
"""the quintic of Newton and Schulz, the limit of the best ones as their interval shrinks to 1"""
_NEAR = 1e-3
"""half the width of an interval about 1 from which on that limit is taken: its error is about 2.5 times the third power"""


@functools.cache
def quintics(steps: int, lowest: float = LOWEST) -> tuple[Quintic, ...]:
    """Odd quintics whose composition is the best one for the sign function on [lowest, 1] (arXiv 2505.16932, Theorem 3.1).

    Each is the best approximation of 1 on the interval to which the earlier ones map [lowest, 1]. The last one is divided by
    the largest value that it takes, so that no singular value up to 1 comes out above 1, apart from rounding.
    """
    low, high = lowest, 1.0
    found: list[Quintic] = []
    for _ in range(steps):
        quintic = _FIXED if 1 - low < _NEAR else _best(low, high)
        low, high = _range(quintic, low, high)
        found.append(quintic)
    first, third, fifth = found[-1]
    return (*found[:-1], (first / high, third / high, fifth / high))


def _best(low: float, high: float) -> Quintic:
    """The odd quintic with the smallest largest distance from 1 on an interval, by Remez' exchange of its extremal points.

    At low, q, r and high its distances are −e, e, −e, e.
    """
    inner = ((3 * low + high) / 4, (low + 3 * high) / 4)
    for _ in range(100):
        points = np.array([low, *inner, high])
        system = np.stack([points, points**3, points**5, [1.0, -1.0, 1.0, -1.0]], axis=1)
        first, third, fifth, _error = (float(value) for value in np.linalg.solve(system, np.ones(4)))
        before, inner = inner, _extremes(first, third, fifth)
        if max(abs(one - other) for one, other in zip(before, inner)) < 1e-13 * high:
            break
    return first, third, fifth


def _extremes(first: float, third: float, fifth: float) -> tuple[float, float]:
    """The two positive places where the derivative of an odd quintic is zero."""
    root = math.sqrt(max(0.0, 9 * third**2 - 20 * first * fifth))
    return math.sqrt((-3 * third - root) / (10 * fifth)), math.sqrt((-3 * third + root) / (10 * fifth))


def _range(quintic: Quintic, low: float, high: float) -> tuple[float, float]:
    """The least and the largest value on an interval, of a best quintic there."""
    places = np.array([low, high, *(place for place in _extremes(*quintic) if low < place < high)])
    values = quintic[0] * places + quintic[1] * places**3 + quintic[2] * places**5
    return float(values.min()), float(values.max())


def polar_factors(matrices: Tensor, steps: Sequence[Quintic]) -> Tensor:
    """The nearest matrices with orthonormal columns, or rows, of real or complex (n, r, c).

    A step is `A ← a A + A (b G + c G²)` with the Gram matrix `G = Aᴴ A` of the shorter side: three products. The first A is
    divided by the root of ‖G‖_F, which is at least its norm.
    """
    if matrices.shape[1] < matrices.shape[2]:
        return polar_factors(matrices.mH, steps).mH
    gram = torch.bmm(matrices.mH, matrices)
    scale = torch.rsqrt(torch.linalg.vector_norm(gram, dim=(1, 2), keepdim=True))
    matrices, gram = matrices * scale, gram * scale.square()
    for place, (first, third, fifth) in enumerate(steps):
        gram = gram if place == 0 else torch.bmm(matrices.mH, matrices)
        matrices = torch.baddbmm(matrices, matrices, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), beta=first)
    return matrices


class PolarBCOPConv2d(BCOPConv2d):
    """As BCOP, from the polar factors of the same free matrices. No random vector is drawn: the norm is bounded from above."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, image_size: int, iterations: int = POLAR_STEPS
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size, iterations)
        self.quintics = quintics(iterations)  # here, since TorchDynamo cannot trace how they are found

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        return ()

    def orthogonal_matrices(self, *advanced: Tensor) -> Tensor:
        return polar_factors(self.weight, self.quintics)


class PolarLinear(BjorckLinear):
    """`y = W x + bias`, W (out, in) the polar factor of a free matrix; initialised to the identity."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.quintics = quintics(POLAR_STEPS)

    def advance(self, image_size: int) -> tuple[Tensor, ...]:
        return ()

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return (polar_factors(self.weight[None], self.quintics)[0],)


def _polar_cost(count: sympy.Expr) -> Cost:
    """Cost for `count` matrices of c × c: three products a step. Kept are A, G and the factor of A of each step; the free
    matrix, its G and the result; and the norm of that G, its root and its square."""
    return Cost(count * 3 * c**3 * t, count * 3 * (c**2 * (t + 1) + 1), count * 6 * c**3 * t)


METHOD = Method(
    name="bcop-polar",
    title="BCOP-polar",
    source="Li et al., NeurIPS 2019, arXiv 1911.00937, with Amsel et al., arXiv 2505.16932",
    implementations={
        "paper": Implementation(
            PolarBCOPConv2d, Complexity(Cost(C, PADDED, 2 * C), _polar_cost(2 * k - 1) + block_kernel_cost()), tail=C
        )
    },
    published=None,
    published_operations=("", ""),
    iterations={"t": POLAR_STEPS},
    orthogonal=True,
    head=Head(
        PolarLinear,
        Complexity(Cost(b * c**2, b * c, 2 * b * c**2), _polar_cost(sympy.Integer(1))),
        tail=b * c**2,
    ),
)
