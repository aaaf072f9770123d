"""Every layer is initialised as its publication says."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import reference
import torch
from torch import Tensor

from lipbench import registry
from lipbench.layers.base import LipschitzConv2d
from lipbench.layers.soc import SOCConv2d

C, K, S = 256, 3, 4
FAN_IN = C * K**2

Check = Callable[[Tensor, LipschitzConv2d], None]


def follows(sample: Tensor, distribution: Callable[[Tensor], Tensor]) -> None:
    """The Kolmogorov–Smirnov test at a level of 1e-4: no distance to the distribution function is too large."""
    n = sample.numel()
    values, steps = distribution(sample.detach().double().flatten().sort().values), torch.arange(n + 1) / n
    gap = torch.maximum((values - steps[:-1]).abs().max(), (steps[1:] - values).abs().max())
    assert gap <= 2.23 / math.sqrt(n)


def normal(deviation: float) -> Check:
    return lambda tensor, layer: follows(tensor, lambda x: torch.special.ndtr(x / deviation))


def uniform(bound: float) -> Check:
    return lambda tensor, layer: follows(tensor, lambda x: (0.5 + x / (2 * bound)).clamp(0, 1))


def zero(tensor: Tensor, layer: LipschitzConv2d) -> None:
    assert not tensor.any()


def identity(tensor: Tensor, layer: LipschitzConv2d) -> None:
    expected = torch.zeros(C, C, K, K)
    expected[:, :, K // 2, K // 2] = torch.eye(C)
    assert torch.equal(tensor, expected)


def orthogonal(tensor: Tensor, layer: LipschitzConv2d) -> None:
    """2k − 1 different orthogonal matrices, each divided by √c."""
    scaled = tensor.detach() * math.sqrt(C)
    torch.testing.assert_close(scaled @ scaled.mT, torch.eye(C).expand(2 * K - 1, C, C), rtol=0, atol=1e-4)
    follows(tensor, lambda x: torch.special.ndtr(x * C))  # any entry of such a matrix is nearly normal
    assert (scaled[1:] - scaled[:-1]).abs().amax((1, 2)).min() > 0.1


def norm_of_weight(tensor: Tensor, layer: LipschitzConv2d) -> None:
    norm = layer.get_parameter("weight").detach().double().square().sum().sqrt()
    torch.testing.assert_close(tensor.detach().double(), norm, rtol=1e-4, atol=0)


CONV2D: dict[str, Check] = {"weight": uniform(1 / math.sqrt(FAN_IN)), "bias": uniform(1 / math.sqrt(FAN_IN))}
XAVIER_NORMAL = normal(math.sqrt(2 / (FAN_IN + FAN_IN)))
INITIAL: dict[str, dict[str, Check]] = {
    "standard": CONV2D,
    "aol": {"weight": identity, "bias": zero},
    "bcop": {"weight": orthogonal, "bias": uniform(1 / math.sqrt(C))},
    "cayley": {**CONV2D, "alpha": norm_of_weight},
    "cpl": {"weight": XAVIER_NORMAL, "bias": uniform(1 / math.sqrt(FAN_IN)), "u": normal(1)},
    "lot": {"weight": identity, "bias": zero},
    "sll": {"weight": XAVIER_NORMAL, "bias": uniform(1 / math.sqrt(FAN_IN)), "q": normal(1)},
    "soc": {"weight": normal(1 / math.sqrt(C)), "bias": uniform(1 / math.sqrt(C))},
    "sandwich": {
        "weight": uniform(1 / math.sqrt(2 * FAN_IN)),
        "bias": uniform(1 / math.sqrt(2 * FAN_IN)),
        "alpha": norm_of_weight,
        "psi": zero,
    },
    "bcop-polar": {"weight": orthogonal, "bias": uniform(1 / math.sqrt(C))},
    "lot-polar": {"weight": identity, "bias": zero},
}
"""published distribution of every parameter, and of a buffer before any iteration; none is published for ECO"""


@pytest.mark.parametrize("method", INITIAL)
def test_starts_as_published(method: str) -> None:
    layer = registry.implementation(method, "paper").layer(C, C, K, S)
    state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    assert {name for name, _ in layer.named_parameters()} <= set(INITIAL[method]) <= set(state)
    for name, check in INITIAL[method].items():
        check(state[name], layer)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_new_soc_has_taken_50_power_steps_on_its_own_kernel(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    layer = SOCConv2d(16, 16, k, 6)
    monkeypatch.setattr(SOCConv2d, "refresh", lambda self: None)
    torch.manual_seed(1)
    start = SOCConv2d(16, 16, k, 6)
    assert torch.equal(layer.weight, start.weight)
    for index, matrix in enumerate(reference.matricisations(reference.skew_kernel(layer.weight.detach()))):
        v = start.get_buffer(f"right{index}")
        for _ in range(50):
            u = matrix @ v / torch.linalg.vector_norm(matrix @ v)
            v = matrix.T @ u / torch.linalg.vector_norm(matrix.T @ u)
        left, right = layer.get_buffer(f"left{index}"), layer.get_buffer(f"right{index}")
        torch.testing.assert_close(left, u, rtol=0, atol=1e-3)
        torch.testing.assert_close(right, v, rtol=0, atol=1e-3)
        torch.testing.assert_close(left @ matrix @ right, torch.linalg.matrix_norm(matrix, 2), rtol=0.05, atol=0)
