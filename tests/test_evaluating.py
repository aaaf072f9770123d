"""The worth of a network: certified accuracy by hand, only beside a certificate, and never above what an attack leaves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import disturb
from torch import Tensor, nn

from lipbench import certify, registry
from lipbench.cases import LayerSpec
from lipbench.errors import LipbenchError
from lipbench.layers.base import TwoHalves
from lipbench.networks import ConvolutionalHead, FirstChannels, MaxMin, PadChannels
from lipbench.quantities import Bound, Certificate
from lipbench.train import evaluating
from lipbench.train.attack import PGD
from lipbench.train.data import DataSet, Images
from lipbench.train.evaluating import accuracy_and_certified, certified_radii, evaluate, proved_constant
from lipbench.train.task import RADII, radius_key

METHODS = ("aol", "bcop", "cayley", "cpl", "lot", "sll", "soc")
FEW = PGD(10, 1)


def chain(method: str, channels: int = 8, size: int = 4, scale: float = 1.0) -> nn.Sequential:
    """A small network of a method, (b, 3, 4, 4) → (b, 3); the kernels' results are multiplied by `scale` in one layer."""
    layer = registry.build_layer(LayerSpec(method, channels, size, 3))
    head = registry.build_layer(LayerSpec(method, channels, 1, 1))
    network = nn.Sequential(
        PadChannels(channels), layer, MaxMin(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), ConvolutionalHead(head), FirstChannels(3)
    )  # fmt: skip
    disturb(network)
    if scale != 1:
        network.insert(2, Scaled(scale))
    return network.eval()


class Scaled(nn.Module):
    """A planted error: a layer that claims to be 1-Lipschitz and is not."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def own_data(network: nn.Module, count: int = 60, **settings: Any) -> DataSet:
    """Random colour images with the classes that the network gives them, except for every sixth, whose class is wrong."""
    pixels = torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8)
    empty = Images(pixels[:0], torch.zeros(0, dtype=torch.long))
    data = DataSet("cifar10", 3, empty, empty, Images(pixels, torch.zeros(count, dtype=torch.long)), **settings)
    with torch.no_grad():
        labels = network(data.prepared(pixels)).argmax(1)
    labels[::6] = (labels[::6] + 1) % 3
    images = Images(pixels, labels)
    return DataSet("cifar10", 3, images, empty, images, **settings)


# The formula


class Logits(nn.Module):
    """Gives rows of logits for the images whose first pixel is 0, 1, 2, …"""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows[(x[:, 0, 0, 0] * 255).round().long()]


def test_certified_accuracy_of_ten_images_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Margins m = 1.5, 0.7, 0.65, 0.5, 0.3, 0.25, 0.19, 0, −1, and one of another class; m / √2 = 1.06, 0.495, 0.46, 0.354,
    0.212, 0.177, 0.134. Radii 0.1412, 0.2824, 0.4235, 1: six, four, three and one of ten lie above."""
    rows = torch.tensor([
        [2.0, 0.5, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.65], [0.5, 0.0, -3.0], [0.3, 0.0, 0.0], [0.0, 0.25, 0.0],
        [0.0, 0.19, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0],
    ])  # fmt: skip
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 1, 0, 0, 1])
    pixels = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).repeat(1, 3, 1, 1)
    images = Images(pixels, labels)
    data = DataSet("cifar10", 3, images, images, images)
    by_hand = {"0.141176": 0.6, "0.282353": 0.4, "0.423529": 0.3, "1": 0.1}

    def certificate(constant: float) -> Certificate:
        return Certificate((Bound(constant, None, "upper bound", "product", 1),), ())

    for constant, expected in (
        (1.0, by_hand),
        (0.5, by_hand),
        (2.0, {**by_hand, "0.141176": 0.4, "0.282353": 0.1, "0.423529": 0.1, "1": 0.0}),
    ):
        monkeypatch.setattr(certify, "certify", lambda *_, **__: certificate(constant))  # noqa: B023  # used in this turn
        found = evaluate(Logits(rows), data)
        assert found.certified == pytest.approx(expected)
        assert found.accuracy == 0.7
        assert found.constant == constant
    assert accuracy_and_certified(Logits(rows), data, "validation", RADII[1]) == pytest.approx((0.7, 0.4))


def test_radii_of_margins() -> None:
    margin = torch.tensor([math.sqrt(2), 0.0, -1.0, math.nan], dtype=torch.float64)
    assert certified_radii(margin, 0.5).tolist() == pytest.approx([1, 0, 0, 0])
    assert certified_radii(margin, 4.0).tolist() == pytest.approx([0.25, 0, 0, 0])
    assert certified_radii(margin, None).tolist() == [0, 0, 0, 0]
    assert [radius_key(radius) for radius in RADII] == ["0.141176", "0.282353", "0.423529", "1"]


# The certificate


def bound(kind: Any, largest: float, size: int = 4, uncertainty: float = 0.0) -> Bound:
    return Bound(largest, None, kind, "product", size, uncertainty=uncertainty)


@pytest.mark.parametrize(
    ("bounds", "settings", "expected"),
    [
        ((bound("upper bound", 2.0), bound("exact", 1.2)), {}, 2.0),  # exact is then that of the worst layer
        ((bound("exact", 1.2, uncertainty=0.1), bound("exact", 1.1, size=2)), {}, 1.3),  # the second is at another image size
        ((bound("exact", 1.1, size=2), bound("lower bound", 1.0)), {}, None),
        ((bound("upper bound", math.inf),), {}, None),
        ((bound("upper bound", 1.0),), {"unknown": "random"}, None),
        ((bound("upper bound", 1.0),), {"growing": ("3",)}, None),
        ((bound("upper bound", 1.2),), {"growing": ("3",)}, 1.2),
        ((), {}, None),
    ],
)
def test_which_constant_is_proved(bounds: tuple[Bound, ...], settings: dict[str, Any], expected: float | None) -> None:
    assert proved_constant(Certificate(bounds, (), **settings), 4) == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_its_certificate_under_attack(method: str) -> None:
    network = chain(method)
    data = own_data(network)
    found = evaluate(network, data, attack=FEW, images=40)
    assert found.verdict == "ok", found.reason
    assert found.constant is not None
    assert found.constant <= 1.0001
    assert found.accuracy == pytest.approx(5 / 6)
    assert [one.images for one in found.attacked] == [40] * 4
    for one in found.attacked:
        assert one.certified <= one.accuracy <= one.clean
    assert found.attacked[0].certified > 0
    assert found.attacked[0].accuracy >= found.attacked[-1].accuracy
    assert found.images_per_second > 0


def test_a_network_without_a_bound_has_no_certified_accuracy() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square().flatten(1)[:, :3]

    data = own_data(Squared())
    found = evaluate(Squared(), data)
    assert (found.certified, found.margins, found.constant) == ({}, {}, None)
    assert "no Lipschitz constant is proved" in found.reason
    assert found.accuracy == pytest.approx(5 / 6)


def test_preprocessing_is_part_of_the_constant() -> None:
    network = chain("aol")
    data = own_data(network, deviation=(0.25, 0.5, 0.5))
    plain, divided = evaluate(network, own_data(network)), evaluate(network, data)
    assert plain.constant is not None
    assert divided.constant == pytest.approx(4 * plain.constant)
    with torch.no_grad():
        margin = evaluating.margins(network(data.prepared(data.test.pixels)), data.test.labels).double()
    assert divided.margins["0.5"] == pytest.approx(
        float((margin.clamp_min(0) / (math.sqrt(2) * divided.constant)).quantile(0.5))
    )


def test_a_planted_error_is_refused_and_divides_the_margins() -> None:
    network = chain("cayley", scale=1.2)
    data = own_data(network)
    found, certain = evaluate(network, data), evaluate(chain("cayley"), data)
    assert found.verdict == "violates"
    assert found.constant == pytest.approx(1.2, rel=1e-6)
    assert "constant = 1.200000" in found.reason
    assert "margins are divided by the proved constant 1.2" in found.reason
    assert certain.reason == ""


def test_a_network_that_claims_nothing_of_its_layers_is_judged_as_a_whole() -> None:
    """A layer with the constant 1.2 after one with 0.5: the network keeps its claim."""
    network = chain("cayley", scale=1.2)
    network.insert(3, Scaled(0.5))
    data = own_data(network)
    of_layers, whole = (evaluate(network, data, each_layer=each) for each in (True, False))
    assert (of_layers.verdict, whole.verdict, whole.reason) == ("violates", "ok", "")
    assert whole.constant is not None
    assert whole.constant <= 0.6 + 1e-6


def test_an_attack_catches_a_planted_error_where_no_certificate_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes told apart by the mean colour: the margin is √2 times the distance, so that every excess is found."""

    class Means(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = (x - 0.5).flatten(1).sum(1, keepdim=True) / math.sqrt(2 * 48)
            return 1.2 * torch.cat((score, -score), dim=1)

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (200, 3, 4, 4), generator=generator, dtype=torch.uint8)
    labels = Means()(pixels / 255).argmax(1)
    images = Images(pixels, labels)
    data = DataSet("cifar10", 2, images, images, images)
    honest = evaluate(Means(), data, attack=True, images=200)
    assert honest.constant == pytest.approx(1.2, rel=1e-6)
    assert all(one.certified <= one.accuracy for one in honest.attacked)
    off = Certificate((bound("upper bound", 1.0),), ())
    monkeypatch.setattr(certify, "certify", lambda *_, **__: off)
    with pytest.raises(LipbenchError, match=r"an attack changed the class within the certified radius .*trust no certified"):
        evaluate(Means(), data, attack=True, images=200)


# What evaluation leaves


def test_a_module_is_left_as_it_was() -> None:
    network = chain("aol").train()
    network[2].eval()
    layer = network[1]
    assert isinstance(layer, TwoHalves)
    layer.precision = "tf32"
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(network, own_data(network))
    assert network.training
    assert not network[2].training
    assert layer.precision == "tf32"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_iterated_state_is_brought_to_convergence() -> None:
    network = chain("soc")
    data = own_data(network)
    with torch.no_grad():
        for value in network[1].buffers():
            value.copy_(nn.functional.normalize(torch.ones_like(value), dim=0))
    found = evaluate(network, data)
    assert found.verdict == "ok", found.reason
