"""Upper bounds by composition: modules that do not apply their parts one after the other, and the table of constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from composed_layers import (
    AddsItsInput,
    Centres,
    Indexed,
    Listed,
    Looks,
    MaxMinOfHalves,
    Rounds,
    TwiceInTraining,
    orthogonal,
)  # fmt: skip
from torch import Tensor, nn
from torch.nn import functional

from lipbench import certify
from lipbench.composition.bound import upper_bound
from lipbench.layers.cayley import CayleyConv2d
from lipbench.layers.sandwich import SandwichConv2d
from lipbench.networks import MaxMin
from lipbench.quantities import Bound

LIKE = torch.zeros(1, 4, 4, 4, dtype=torch.float64)


def layer_constant(layer: nn.Module, like: Tensor) -> Bound:
    return certify._layer_constant(layer, like)


def bound(module: nn.Module, like: Tensor = LIKE) -> float:
    found, reason = upper_bound(module.double(), like, layer_constant)
    assert found is not None, reason
    return found.largest


def refusal(module: nn.Module, like: Tensor = LIKE) -> str:
    found, reason = upper_bound(module.double(), like, layer_constant)
    assert found is None
    return reason


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


ELEMENTWISE: tuple[tuple[Callable[[Tensor], Tensor], float], ...] = (
    (functional.relu, 1), (functional.relu6, 1), (lambda x: functional.leaky_relu(x, -2.0), 2), (functional.elu, 1),
    (lambda x: functional.elu(x, 3.0), 3), (lambda x: functional.celu(x, 0.5), 1), (functional.selu, 1.7580993),
    (functional.gelu, 1.1289042), (lambda x: functional.gelu(x, approximate="tanh"), 1.1289931), (functional.silu, 1.0998394),
    (functional.mish, 1.0884982), (functional.softplus, 1), (torch.sigmoid, 0.25), (torch.tanh, 1), (functional.hardtanh, 1),
    (functional.hardswish, 1.5), (functional.hardsigmoid, 1 / 6), (functional.logsigmoid, 1), (functional.softshrink, 1),
    (functional.tanhshrink, 1), (functional.softsign, 1), (torch.abs, 1), (torch.sin, 1), (torch.cos, 1), (torch.atan, 1),
    (torch.asinh, 1), (torch.erf, 1.1283792), (lambda x: x.clamp(-1, 2), 1), (lambda x: functional.threshold(x, 1.0, 1.0), 1),
    (lambda x: functional.prelu(x, torch.tensor([-3.0], dtype=x.dtype)), 3),
)  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), ELEMENTWISE)
def test_the_constant_of_a_function_is_its_largest_slope(function: Callable[[Tensor], Tensor], expected: float) -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64).requires_grad_()
    (slopes,) = torch.autograd.grad(function(x).sum(), x)
    found = bound(Applied(function))
    assert found == pytest.approx(expected, rel=1e-6)
    assert float(slopes.abs().max()) == pytest.approx(found, rel=1e-6)
    assert float(slopes.abs().max()) <= found * (1 + 1e-7)  # PyTorch rounds the slope of hardsigmoid to float32


VECTOR: tuple[tuple[Callable[[Tensor], Tensor], float], ...] = (
    (lambda x: x.softmax(1), 0.5), (lambda x: x.log_softmax(1), 2), (lambda x: x.logsumexp((1, 2, 3)), 1),
    (lambda x: x.sort(1)[0], 1), (lambda x: x.amax(1), 1), (lambda x: x.topk(2, 1)[0], 1), (lambda x: x.norm(dim=1), 1),
    (lambda x: x.abs().sum(1), 2), (lambda x: x.norm(p=1, dim=1), 2), (lambda x: torch.maximum(x, 2 * x), math.sqrt(5)),
    (lambda x: functional.max_pool2d(x, 2), 1), (lambda x: functional.max_pool2d(x, 3, 1, 1), 3),
    (lambda x: functional.max_pool2d(x, 3, 2, 1), 2), (lambda x: functional.max_pool2d(x, 4, 1), 1),
    (lambda x: functional.adaptive_max_pool2d(x, 3), 2), (lambda x: functional.lp_pool2d(x, 2, 2), 1),
    (lambda x: functional.avg_pool2d(x, 2), 0.5), (lambda x: functional.interpolate(x, scale_factor=2.0), 2),
    (lambda x: torch.fft.irfft2(2j * torch.fft.rfft2(x)), 2), (lambda x: torch.fft.fft2(x, norm="ortho").abs(), 1),
    (lambda x: torch.cat((x.relu(), x), 1), math.sqrt(2)), (lambda x: torch.cat((x[:, :1].relu(), x[:, 1:]), 1), 1),
    (lambda x: x + 2 * x.relu(), 3), (lambda x: x.relu() - x, 2),
    (lambda x: torch.linalg.solve(2 * torch.eye(4).double(), x), 0.5),
)  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), VECTOR)
def test_the_bound_of_a_function_of_vectors(function: Callable[[Tensor], Tensor], expected: float) -> None:
    assert bound(Applied(function)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("function", "part"),
    [
        (lambda x: functional.hardshrink(x), "hardshrink"), (lambda x: functional.threshold(x, 0.0, 1.0), "threshold"),
        (lambda x: functional.glu(x, 1), "glu"), (lambda x: functional.layer_norm(x, (4,)), "native_layer_norm"),
        (lambda x: functional.group_norm(x, 2), "native_group_norm"), (lambda x: x * x, "mul"),
        (lambda x: 1 / (x + 9), "reciprocal"),
        (lambda x: x / (x + 9), "div"), (lambda x: x.exp(), "exp"), (lambda x: x * x.gt(0), "mul"), (torch.round, "round"),
        (lambda x: functional.lp_pool2d(x, 3, 2), "finite"), (lambda x: functional.softplus(x, 1, 1), "softplus"),
        (lambda x: x.float().double(), "float32"), (lambda x: x.div(2, rounding_mode="floor"), "div"),
        (lambda x: x + torch.rand_like(x), "random"), (lambda x: functional.dropout(x), "random"),
    ],
)  # fmt: skip
def test_what_is_unknown_is_named(function: Callable[[Tensor], Tensor], part: str) -> None:
    assert part in refusal(Applied(function))


def test_modules_are_what_they_compute_and_not_what_they_inherit() -> None:
    assert bound(AddsItsInput(nn.ReLU(), Applied(lambda x: 0.5 * x))) == pytest.approx(1.5)
    assert bound(Listed()) == pytest.approx(1.1289042**2, rel=1e-6)
    assert bound(nn.Sequential(orthogonal(4), nn.ReLU(), MaxMin(), MaxMinOfHalves(), nn.Flatten())) == pytest.approx(1)
    assert bound(MaxMin(), torch.zeros(1, 5, 2, 2, dtype=torch.float64)) == pytest.approx(1)
    hooked = nn.Sequential(orthogonal(4), nn.ReLU())
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert bound(hooked) == pytest.approx(2)
    assert bound(TwiceInTraining().train()) == pytest.approx(2)
    assert bound(TwiceInTraining().eval()) == pytest.approx(1)
    assert bound(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")) > 0


def test_layers_with_two_halves_enter_with_their_constants() -> None:
    layer = CayleyConv2d(4, 4, 3, 4).eval()
    assert bound(nn.Sequential(layer, nn.GELU(), layer)) == pytest.approx(1.1289042, rel=1e-5)
    layer.register_forward_hook(lambda module, inputs, output: 3 * output)
    assert bound(nn.Sequential(layer, nn.ReLU())) == pytest.approx(3, rel=1e-5)
    assert bound(SandwichConv2d(4, 4, 3, 4).eval()) >= certify.certify(SandwichConv2d(4, 4, 3, 4), LIKE).evaluation[0].largest


def test_writes_in_place_are_seen() -> None:
    def halves(x: Tensor) -> Tensor:
        y = torch.zeros(1, 8, *x.shape[2:], dtype=x.dtype).expand(len(x), -1, -1, -1).clone()
        y[:, ::2], y[:, 1::2] = x, 3 * x.relu()
        return y

    def views(x: Tensor) -> Tensor:
        part = x[:, :2]
        x.mul_(2)
        return part.relu_() + x[:, :2]

    assert bound(Applied(halves)) == pytest.approx(math.sqrt(10))
    assert bound(Applied(views)) == pytest.approx(4)
    assert bound(nn.Sequential(nn.ReLU(inplace=True), orthogonal(4))) == pytest.approx(1)


def test_values_state_and_batches_are_no_functions_of_one_image() -> None:
    assert "values" in refusal(Looks())
    assert "round" in refusal(Rounds())
    assert "embedding" in refusal(Indexed())
    assert "batch" in refusal(Centres())


def test_a_certificate_quotes_the_upper_bound_where_it_decides() -> None:
    passes = certify.certify(nn.Sequential(orthogonal(4), nn.ReLU(inplace=True)), LIKE, training=False)
    assert [(each.kind, each.how) for each in passes.evaluation] == [("upper bound", "composition"), ("lower bound", "ascent")]
    steep = certify.certify(nn.Sequential(orthogonal(4), nn.GELU()), LIKE, training=False)
    assert [each.kind for each in steep.evaluation] == ["lower bound", "upper bound"]
    assert certify.violation(steep)
    unknown = certify.certify(nn.Sequential(orthogonal(4), nn.GroupNorm(2, 4)), LIKE, training=False)
    assert [each.kind for each in unknown.evaluation] == ["lower bound"]
    assert unknown.remarks == ("no upper bound: the constant of native_group_norm is unknown",)


def test_the_product_is_taken_only_where_every_part_is_known() -> None:
    layer = CayleyConv2d(4, 4, 3, 4)
    plain = nn.Sequential(layer, MaxMin())
    assert certify.certify(plain, LIKE, training=False, each_layer=True).evaluation[0].how == "product"
    for other in (AddsItsInput(layer, MaxMin()), nn.Sequential(layer, nn.GELU())):
        assert all(each.how != "product" for each in certify.certify(other, LIKE, training=False, each_layer=True).evaluation)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert certify.certify(plain, LIKE, training=False, each_layer=True).evaluation[0].how != "product"
    assert certify.certify(layer, LIKE, training=False).evaluation[0].largest == pytest.approx(2, rel=1e-5)
