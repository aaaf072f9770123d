"""The meter of Lipschitz constants, on maps with known constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lipbench.meters import lipschitz, search
from lipbench.quantities import Bound

LIKE = torch.zeros(1, 3, 6, 6, dtype=torch.float64)


def convolution(mode: str, image_size: int = 6) -> lipschitz.Map:
    """A random 3 × 3 convolution with a bias, so that the map is affine and not linear."""
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    return lambda x: functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode=mode), kernel, bias)


def jacobian_values(apply: lipschitz.Map, like: Tensor = LIKE) -> np.ndarray:
    """All singular values, from columns computed one by one."""
    columns = []
    for place in range(like.numel()):
        unit = torch.zeros(like.numel(), dtype=torch.float64)
        unit[place] = 1
        columns.append((apply(unit.view_as(like)) - apply(torch.zeros_like(like))).flatten().numpy())
    return np.linalg.svd(np.stack(columns, axis=1), compute_uv=False)


@pytest.mark.parametrize(("mode", "how"), [("circular", "fourier"), ("constant", "dense"), ("reflect", "dense")])
def test_singular_values_are_those_of_the_jacobian(mode: str, how: str) -> None:
    apply = convolution(mode)
    found = lipschitz.exact_singular_values(apply, LIKE)
    values = jacobian_values(apply)
    assert found is not None
    assert (found.how, found.kind) == (how, "exact")
    assert found.largest == pytest.approx(values[0], rel=1e-12)
    assert found.smallest == pytest.approx(values[-1], rel=1e-9)


@pytest.mark.parametrize("image_size", [5, 6])
def test_odd_and_even_images_have_their_own_half_plane(image_size: int) -> None:
    like = torch.zeros(1, 3, image_size, image_size, dtype=torch.float64)
    apply = convolution("circular")
    found = lipschitz.exact_singular_values(apply, like)
    values = jacobian_values(apply, like)
    assert found is not None
    assert (found.largest, found.smallest) == (pytest.approx(values[0], rel=1e-12), pytest.approx(values[-1], rel=1e-9))


@pytest.mark.parametrize("mode", ["circular", "constant"])
def test_lanczos_steps_find_both_ends(mode: str) -> None:
    apply = convolution(mode)
    found = lipschitz.extreme_singular_values(apply, LIKE)
    assert found is not None
    values = jacobian_values(apply)
    assert found.how == "lanczos"
    assert found.kind == "exact"
    assert found.largest == pytest.approx(values[0], rel=1e-9)
    assert found.smallest == pytest.approx(values[-1], rel=1e-4)


def test_lanczos_says_when_it_has_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lipschitz, "STEPS", 3)
    apply = convolution("constant")
    found = lipschitz.extreme_singular_values(apply, LIKE)
    assert found is not None
    assert found.kind == "lower bound"
    assert found.residual > lipschitz.CONVERGED
    assert found.largest < jacobian_values(apply)[0]
    assert found.smallest is None


def test_a_wrong_gradient_gives_no_singular_values() -> None:
    class Tenfold(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return 10 * gradient

    assert lipschitz.extreme_singular_values(lambda x: Tenfold.apply(x), LIKE) is None  # type: ignore[no-any-return,no-untyped-call]


def test_an_orthogonal_map_is_known_after_one_step() -> None:
    found = lipschitz.extreme_singular_values(lambda x: x.flip(1, 2), LIKE)
    assert found is not None
    assert (found.largest, found.smallest) == (pytest.approx(1), pytest.approx(1))


def test_affine_maps_are_told_from_others() -> None:
    assert lipschitz.is_affine(convolution("constant"), LIKE)
    assert not lipschitz.is_affine(torch.relu, LIKE)
    assert not lipschitz.is_affine(lambda x: x + 1e-3 * x.sin(), LIKE)


def test_circular_maps_are_told_from_others() -> None:
    assert lipschitz.is_circular(convolution("circular"), LIKE)
    assert not lipschitz.is_circular(convolution("constant"), LIKE)
    assert not lipschitz.is_circular(lambda x: x.flatten(1), LIKE)


def test_too_many_inputs_are_left_to_lanczos() -> None:
    like = torch.zeros(1, 3, 20, 20, dtype=torch.float64)
    assert lipschitz.exact_singular_values(convolution("constant"), like) is None
    circular = lipschitz.exact_singular_values(convolution("circular"), like)
    assert circular is not None
    assert circular.how == "fourier"


def test_a_steep_place_is_found_and_called_a_lower_bound() -> None:
    """A map with slope 1 around the origin and 3 beyond ±2 in the first coordinate, where few random points lie."""

    def apply(x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat((first + 2 * functional.relu(first - 2), x.flatten(1)[:, 1:]), dim=1)

    found = search.lower_bound(apply, LIKE)
    assert found.kind == "lower bound"
    assert 1.5 < found.largest <= 3 + 1e-6
    assert lipschitz.violates(found)


def test_a_contraction_stays_below_one() -> None:
    found = search.lower_bound(lambda x: torch.tanh(x), LIKE)
    assert 0.5 < found.largest <= 1 + 1e-9
    assert not lipschitz.violates(found)


@pytest.mark.parametrize(("value", "kind", "expected"), [
    (1 + 2e-4, "exact", True), (1 + 5e-5, "exact", False), (1.1, "lower bound", True), (1.1, "upper bound", False),
    (float("nan"), "exact", False),
])  # fmt: skip
def test_what_is_a_violation(value: float, kind: str, expected: bool) -> None:
    assert lipschitz.violates(Bound(value, None, kind, "dense", 4)) is expected


def test_variance_shows_the_part_that_stretches() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 108, bias=False), nn.Linear(108, 108, bias=False)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(108))  # type: ignore[operator,union-attr]
        network[2].weight.copy_(1.01 * torch.eye(108))  # type: ignore[operator,union-attr]
    parts = {"even": network[1], "steep": network[2]}
    passed = lipschitz.pass_through(network, parts, torch.randn(8, 3, 6, 6, dtype=torch.float64))
    assert [(one.name, lipschitz.grows(one)) for one in passed] == [("even", False), ("steep", True)]
    assert passed[1].variance_out == pytest.approx(1.01**2 * passed[1].variance_in)
