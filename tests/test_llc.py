"""Published weights: names and shapes of the public state dicts, what the tensors mean, and files that hold something else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
import training_data
from conftest import disturb
from torch import Tensor

from lipbench import certify, registry
from lipbench.cases import LayerSpec, NetworkSpec
from lipbench.cli import evaluate as verb
from lipbench.errors import LipbenchError
from lipbench.layers.base import TwoHalves
from lipbench.quantities import Bound, Certificate
from lipbench.train import data, evaluating, llc
from lipbench.train.llc import CONVOLUTIONS, HEADS, Place

SHAPES: dict[str, dict[str, list[int]]] = json.loads((Path(__file__).parent / "data" / "published_shapes_xs.json").read_text())
"""method → name → shape in the public checkpoints of size XS, 10 classes, 32 × 32"""
SMALL = {"bcop": (4, 3, 6), "eco": (4, 3, 6)}
"""(channels, kernel size, image size) of single layers that are compared with their definitions"""


def random_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor in the published layout with random values, where they are free."""
    last = name.rpartition(".")[2]
    if last == "mask":
        mask = torch.zeros(shape)
        mask[..., : shape[-1] // 2] = 1
        return mask
    if last == "correction":
        return torch.tensor([0.7])
    return torch.randn(shape) / max(shape[-1:] or (1,)) ** 0.5


def random_state(method: str) -> dict[str, Tensor]:
    """A state dict in the layout of the public checkpoints."""
    found = {name: random_tensor(name, tuple(shape)) for name, shape in SHAPES[method].items()}
    for name, value in found.items():
        if name.endswith("correction"):
            kernel = found[name.replace("correction", "random_conv_filter")]
            value.fill_(1.0 if kernel.shape[-1] == 1 else 0.7)
    return found


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


# What the tensors mean


def layer_and_state(method: str) -> tuple[Place, dict[str, Tensor]]:
    """A small layer of a method that was given random published tensors, and these tensors."""
    channels, kernel_size, image_size = SMALL.get(method, (3, 3, 5))
    layer = registry.build_layer(LayerSpec(method, channels, image_size, kernel_size))
    assert isinstance(layer, TwoHalves)
    place, layout = Place(layer, image_size), CONVOLUTIONS[method]
    state = {name: random_tensor(name, shape) for name, shape in layout.shapes(place).items()}
    layer.load_state_dict(dict(layer.named_buffers()) | layout.state(place, state))
    return place, state


def published_names(method: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under the names of the definitions in `reference`, in float64."""
    weight = next(
        name
        for name in ("parametrizations.weight.original", "param_matrices", "random_conv_filter", "kernel", "weight")
        if name in state
    )
    return {**{name: value.double() for name, value in state.items()}, "weight": state[weight].double()}


def expected_output(method: str, x: Tensor, state: dict[str, Tensor], layer: TwoHalves) -> Tensor:
    values = published_names(method, state)
    if method == "cayley":  # α multiplies W over the norm of its half spectrum
        blocks = reference.frequency_matrices(values["weight"], x.shape[-1])
        half = torch.linalg.vector_norm(blocks[:, : x.shape[-1] // 2 + 1])
        matrices = reference.cayley_transform(values["alpha"] / half * blocks)
        return reference.add_bias(reference.apply_per_frequency(matrices, x), values["bias"])
    if method in ("soc", "eco"):  # the vectors of power iterations are those of the layer here, which has them converged
        values |= {name: value.double() for name, value in layer.named_buffers()}
    if method == "eco":
        values["weight"] = values["weight"].permute(2, 0, 1)
    setting = reference.Setting(False, x.shape[1], lambda *shape: torch.ones(*shape, dtype=torch.float64))
    return reference.DEFINITIONS[method](x, values, setting)


@pytest.mark.parametrize("method", CONVOLUTIONS)
def test_layers_compute_their_definition_on_published_tensors(method: str) -> None:
    place, state = layer_and_state(method)
    x = torch.randn(2, len(state["bias"]), place.image_size, place.image_size, dtype=torch.float64)
    with torch.no_grad():
        expected = expected_output(method, x, state, place.layer)
        found = place.layer.double().eval()(x)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("method", HEADS)
def test_heads_on_published_tensors(method: str) -> None:
    head = registry.find(method).head
    assert head is not None
    place = Place(head.layer(5, 5), 1)
    state = {name: random_tensor(name, shape) for name, shape in HEADS[method].shapes(place).items()}
    if method == "bcop":  # near an orthogonal matrix, where the iteration converges
        state["parametrizations.weight.original"] = torch.eye(5) + 0.1 * torch.randn(5, 5)
    place.layer.load_state_dict(HEADS[method].state(place, state))
    with torch.no_grad():
        matrix = place.layer.double().eval()(torch.eye(5, dtype=torch.float64)) - state["bias"].double()
    weight = state["weight" if method == "cayley" else "parametrizations.weight.original"].double()
    if method == "cayley":
        expected = reference.cayley_transform(state["alpha"].double() * weight / weight.norm())
    else:
        expected = reference.bjorck(weight, torch.ones(5, dtype=torch.float64))
    assert float((matrix.T - expected).norm()) < 1e-4


@pytest.mark.parametrize("method", SHAPES)
def test_networks_take_exactly_the_published_names_and_shapes(method: str) -> None:
    spec = NetworkSpec(method, "XS")
    network = registry.build_network(spec, 10)
    found = llc.places(network, spec)
    named = {
        f"{prefix}.{name}": list(shape)
        for prefix, (place, layout) in found.items()
        for name, shape in layout.shapes(place).items()
    }
    assert named == SHAPES[method]
    order = [part for part in network.modules() if isinstance(part, TwoHalves)]
    assert [place.layer for place, _ in found.values()] == order


def test_every_tensor_reaches_its_layer(tmp_path: Path) -> None:
    spec, state = NetworkSpec("bcop", "XS"), random_state("bcop")
    network = llc.load(saved(state, tmp_path / "weights.pth"), spec, 10)
    assert not network.training
    for prefix, (place, _) in llc.places(network, spec).items():
        assert torch.equal(place.layer.get_parameter("bias"), state[f"{prefix}.bias"])
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_places_in_a_network_for_larger_images() -> None:
    spec = NetworkSpec("aol", "XS", image_size=64)
    found = llc.places(registry.build_network(spec, 200), spec)
    assert len(found) == 1 + 6 * 5 + 1
    assert [place.image_size for place, _ in found.values()][-2:] == [2, 1]
    assert "Block6.8" in found


# Files


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (lambda state: {name: one for name, one in state.items() if name != "Block3.2.bias"}, "it lacks Block3.2.bias"),
    "extra": (lambda state: {**state, "Block9.0.bias": torch.ones(3)}, "it has, and may not have, Block9.0.bias"),
    "shape": (
        lambda state: {**state, "FirstConv.bias": torch.ones(1)},
        r"FirstConv.bias has the shape \(1,\) instead of \(16,\)",
    ),
    "expanded": (lambda state: {**state, "FirstConv.bias": torch.ones(1).expand(10**9)}, r"the shape \(1000000000,\)"),
    "kind": (lambda state: {**state, "FirstConv.bias": 3}, "FirstConv.bias is not a tensor"),
    "integers": (lambda state: {**state, "FirstConv.bias": torch.ones(16, dtype=torch.int64)}, "floating-point"),
    "NaN": (lambda state: {**state, "FirstConv.bias": torch.full((16,), torch.nan)}, "infinite or NaN"),
    "a list": (lambda state: [1, 2], "not a state dict"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_state_dicts_of_something_else(change: str, tmp_path: Path) -> None:
    alter, reason = CHANGES[change]
    path = saved(alter(random_state("aol")), tmp_path / "weights.pth")
    with pytest.raises(LipbenchError, match=reason) as caught:
        llc.load(path, NetworkSpec("aol", "XS"), 10)
    assert str(path) in str(caught.value)


def test_constants_that_are_built_in_are_checked(tmp_path: Path) -> None:
    state = random_state("soc")
    state["Block2.4.correction"].fill_(0.9)
    with pytest.raises(LipbenchError, match=r"Block2\.4\.correction has other values"):
        llc.load(saved(state, tmp_path / "weights.pth"), NetworkSpec("soc", "XS"), 10)


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("content", ["planted", "text", "nothing", "folder"])
def test_files_that_hold_no_tensors(content: str, tmp_path: Path) -> None:
    path, planted = tmp_path / "weights.pth", tmp_path / "planted"
    if content == "planted":
        torch.save({"FirstConv.bias": Planted(planted)}, path)
    elif content == "text":
        path.write_text("hello")
    elif content == "folder":
        path.mkdir()
    with pytest.raises(LipbenchError, match="not the published weights of this network") as caught:
        llc.load(path, NetworkSpec("aol", "XS"), 10)
    assert not planted.exists()
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_methods_without_published_weights(tmp_path: Path) -> None:
    with pytest.raises(LipbenchError, match="no weights of this method are published: got 'sandwich'"):
        llc.load(tmp_path / "weights.pth", NetworkSpec("sandwich", "XS"), 10)


# The result


def test_the_verb_evaluates_them_as_our_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of ours, its parameters stored under the published names, and read back by the verb."""
    certificate = Certificate((Bound(1.5, None, "upper bound", "product", 32),), ())
    monkeypatch.setattr(certify, "certify", lambda *_, **__: certificate)  # that of a whole network takes long
    training_data.write_cifar10(tmp_path)
    own = registry.build_network(NetworkSpec("aol", "XS"), 10)
    disturb(own)
    weights, biases = ([value for name, value in own.state_dict().items() if name.endswith(end)] for end in ("weight", "bias"))
    places = [name.removesuffix(".bias") for name in SHAPES["aol"] if name.endswith(".bias")]
    state = {f"{place}.parametrizations.weight.original": value for place, value in zip(places, weights, strict=True)}
    state |= {f"{place}.bias": value for place, value in zip(places, biases, strict=True)}
    file, table = saved(state, tmp_path / "weights.pth"), tmp_path / "found.json"
    verb.evaluate(None, llc=file, method="aol", data=tmp_path, output=table)
    (row,) = json.loads(table.read_text())
    expected = evaluating.evaluate(own, data.load("cifar10", tmp_path))
    assert row["accuracy"] == expected.accuracy > 0
    assert row["constant"] == expected.constant == 1.5
    assert row["margin_0.95"] == expected.margins["0.95"] > 0
    assert row["images"] == 20
