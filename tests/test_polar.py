"""The polynomials of Polar Express, and how far the layers that use them converge where BCOP and LOT do not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from lipbench import registry
from lipbench.layers.bcop import BCOPConv2d
from lipbench.layers.bcop_polar import LOWEST, POLAR_STEPS, PolarBCOPConv2d, quintics
from lipbench.layers.lot_polar import PolarLOTConv2d
from lipbench.weights import converted


def at(places: np.ndarray, quintic: tuple[float, float, float]) -> np.ndarray:
    first, third, fifth = quintic
    return np.asarray(first * places + third * places**3 + fifth * places**5)


def composed(places: np.ndarray, steps: int = POLAR_STEPS, lowest: float = LOWEST) -> np.ndarray:
    for quintic in quintics(steps, lowest):
        places = at(places, quintic)
    return places


def test_every_step_is_the_best_quintic_of_its_interval() -> None:
    """Its largest distance from 1 is reached four times with alternating signs, which Chebyshev's theorem asks for."""
    low, high = LOWEST, 1.0
    for quintic in quintics(POLAR_STEPS)[:-1]:
        places = np.linspace(low, high, 2_000_001)
        distances = at(places, quintic) - 1
        largest = np.abs(distances).max()
        reached = distances[np.abs(distances) > (1 - 1e-6) * largest]
        signs = np.sign(reached)
        assert signs[0] == -1
        assert np.count_nonzero(np.diff(signs)) == 3
        low, high = 1 - largest, 1 + largest


def test_the_steps_together_are_the_sign_and_never_above_it() -> None:
    inside = composed(np.geomspace(LOWEST, 1, 200_001))
    assert 1 - 1e-6 < inside.min() <= inside.max() < 1 + 1e-14
    below = composed(np.linspace(0, LOWEST, 1001))
    assert 0 <= below.min() <= below.max() <= inside.max()
    assert np.all(np.diff(below) > 0)


@pytest.mark.parametrize("lowest", [1e-1, 1e-3, 1e-6])
def test_other_intervals_and_numbers_of_steps_have_their_own(lowest: float) -> None:
    errors = [1 - composed(np.geomspace(lowest, 1, 100_001), steps, lowest).min() for steps in range(1, 13)]
    assert all(later < earlier or later < 1e-12 for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 1e-3


def test_they_are_those_of_the_definition() -> None:
    np.testing.assert_allclose(quintics(POLAR_STEPS), reference.QUINTICS, rtol=1e-9)


def singular_values(matrices: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrices.detach().double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bcop_converges_where_its_published_steps_do_not(dtype: torch.dtype) -> None:
    left, right = (torch.linalg.qr(torch.randn(5, 64, 64, dtype=torch.float64))[0] for _ in range(2))
    weight = left * torch.linspace(3e-4, 1, 64, dtype=torch.float64) @ right
    least = {}
    for layer_class in (BCOPConv2d, PolarBCOPConv2d):
        layer = converted(layer_class(64, 64, 3, 8), dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            values = singular_values(layer.orthogonal_matrices(*layer.advance(8)))
        assert values.max() < 1 + (1e-5 if layer_class is PolarBCOPConv2d else 1e-3)
        least[layer_class] = float(values.min())
    assert 1 - least[PolarBCOPConv2d] < 1e-4 < 1e-2 < 1 - least[BCOPConv2d]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (32, 16), (16, 32)])
def test_lot_converges_on_every_frequency(inputs: int, outputs: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = converted(PolarLOTConv2d(inputs, outputs, 3, 6), dtype)
    with torch.no_grad():
        torch.nn.init.normal_(layer.weight)
        (blocks,) = layer.parameter_half(6)
    values = torch.linalg.svdvals(blocks.to(torch.complex128))
    assert values.max() < 1 + 2e-6
    assert values.min() > 1 - 1e-3


@pytest.mark.parametrize("method", ["bcop-polar", "lot-polar"])
def test_it_draws_no_random_numbers(method: str) -> None:
    layer = registry.implementation(method, "paper").layer(4, 4, 3, 6)
    before = torch.random.get_rng_state()
    layer(torch.ones(2, 4, 6, 6))
    assert torch.equal(torch.random.get_rng_state(), before)
