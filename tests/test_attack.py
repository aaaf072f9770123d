"""The attack: perturbations stay in their ball, a linear network falls exactly at its margin, and nothing is left changed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lipbench.train import attack
from lipbench.train.attack import PGD, margins, withstands
from lipbench.train.data import DataSet, Images


class Recorded(nn.Module):
    """A linear classifier of two classes that keeps all that it is given."""

    def __init__(self, direction: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        score = (x - 0.5).flatten(1) @ self.direction
        return torch.stack((score, -score), dim=1) / math.sqrt(2)


def half_grey(count: int) -> Images:
    """Images near the middle of the pixels' range, so that small perturbations are not cut."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(118, 138, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.zeros(count, dtype=torch.long))


def coloured(images: Images) -> DataSet:
    return DataSet("cifar10", 2, images, images.first(0), images)


def test_margins_of_some_logits() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, 4.0, 5.0], [1.0, 1.0, 0.0]])
    assert margins(logits, torch.tensor([0, 1, 0])).tolist() == [0.5, -1.0, 0.0]


@pytest.mark.parametrize("radius", [0.05, 0.15, 0.4])
def test_a_linear_network_falls_where_its_distance_is_below_the_radius(radius: float) -> None:
    direction = nn.functional.normalize(torch.randn(48), dim=0)
    images = half_grey(60)
    network = Recorded(direction).eval()
    distance = (images.pixels.float() / 255 - 0.5).flatten(1) @ direction
    found = withstands(network, coloured(images), images, radius, PGD(50, 1))
    sure = (distance - radius).abs() > 0.02 * radius
    assert torch.equal(found[sure], (distance > radius)[sure])
    assert bool((distance > 0).any())
    assert not found[distance <= 0].any()  # misclassified before any attack


def test_perturbations_stay_in_the_ball_and_in_the_range_of_pixels() -> None:
    images = Images(torch.tensor([0, 255, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).repeat(1, 1, 4, 4), torch.tensor([0]))
    network = Recorded(torch.ones(48)).eval()
    with torch.no_grad():
        network.direction.mul_(1e-3)
    clean, radius = images.pixels.float() / 255, 1.0
    withstands(network, coloured(images), images, radius, PGD(10, 2))
    seen = torch.cat(network.seen)
    assert float((seen - clean).flatten(1).norm(dim=1).max()) <= radius
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1
    assert len(seen) == 1 + 2 * 11


def test_start_points_lie_in_the_ball_and_follow_the_seed() -> None:
    first, again = (attack._random_in_ball(torch.Size((500, 1, 3, 3)), 0.7, torch.Generator().manual_seed(4)) for _ in range(2))
    norms = first.flatten(1).norm(dim=1)
    assert torch.equal(first, again)
    assert float(norms.max()) <= 0.7
    assert abs(float(norms.mean()) - 0.35) < 0.03


def test_an_attack_leaves_parameters_as_they_were() -> None:
    network = Recorded(torch.ones(48)).eval()
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    network.register_parameter("frozen", frozen)
    withstands(network, coloured(half_grey(3)), half_grey(3), 0.1, PGD(2, 1))
    assert network.direction.requires_grad
    assert network.direction.grad is None
    assert not frozen.requires_grad


def test_more_starts_find_no_less() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 2)).eval()
    images = half_grey(100)
    few, many = (withstands(network, coloured(images), images, 0.1, PGD(5, starts)) for starts in (1, 4))
    assert not (many & ~few).any()
    assert str(PGD(5, 1)) == "PGD, L2, 5 steps, 1 random start"
    assert str(PGD(5, 4)) == "PGD, L2, 5 steps, 4 random starts"
