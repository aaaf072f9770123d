"""Published weights: state dicts of the public repository of arXiv 2311.16833 as parameters of the ConvNets here.

A name there is a place in the network and a tensor of its layer, such as `Block2.4.kernel`. Every tensor must be there with its
shape, and nothing else. What follows from the other tensors, such as vectors of power iterations, is computed anew.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lipbench import errors, registry
from lipbench.cases import NetworkSpec
from lipbench.layers.base import TwoHalves
from lipbench.layers.soc import SCALE
from lipbench.networks import ConvolutionalHead
from lipbench.store.files import read_regular

LARGEST_FILE = 2**32
"""bytes; the largest published networks have 0.4 GB"""


@dataclass(frozen=True)
class Place:
    """A layer of a network, and the size of the images that it receives."""

    layer: TwoHalves
    image_size: int


Shapes = dict[str, tuple[int, ...]]
Published = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How a kind of layer is stored: its tensors with their shapes, and the state of the layer here that they mean."""

    shapes: Callable[[Place], Shapes]
    state: Callable[[Place, Published], Published]
    constants: Callable[[Place], Published] = field(default=lambda place: {})
    """tensors that must have these values, since the layers here have them built in"""


def load(path: Path, spec: NetworkSpec, classes: int) -> nn.Module:
    """The network of a spec with the weights of a published file, in evaluation mode.

    The file holds tensors alone, and nothing of it is run. Raises `LipbenchError` for a method without published weights, and
    for a file that does not hold exactly the tensors of this method at this size, all of finite numbers.
    """
    if spec.method not in CONVOLUTIONS:
        raise errors.not_published(spec.method, CONVOLUTIONS)
    network = registry.build_network(spec, classes)
    insert(network, spec, _read(path), path)
    return network.eval()


def insert(network: nn.Module, spec: NetworkSpec, published: Mapping[str, Any], path: Path) -> None:
    """Put the tensors of a published state dict into a network of this spec; `path` is named by errors, which `load` lists."""
    found = places(network, spec)
    expected = {
        name: shape for prefix, (place, layout) in found.items() for name, shape in _named(prefix, layout.shapes(place))
    }
    _check(published, expected, path)
    for prefix, (place, layout) in found.items():
        own = {name: published[f"{prefix}.{name}"].detach().float() for name in layout.shapes(place)}
        for name, value in layout.constants(place).items():
            if not torch.equal(own[name], value):
                raise errors.bad_weights(path, f"{prefix}.{name} has other values than those of this layer")
        kept = dict(place.layer.named_buffers())
        place.layer.load_state_dict(kept | layout.state(place, own))


def places(network: nn.Module, spec: NetworkSpec) -> dict[str, tuple[Place, Layout]]:
    """Published prefix → the layer of a network, and how it is stored."""
    layers = cast(nn.Sequential, network)
    convolution = CONVOLUTIONS[spec.method]
    found = {"FirstConv": (Place(cast(TwoHalves, layers[1]), spec.image_size), convolution)}
    blocks = [part for part in layers if isinstance(part, nn.Sequential)]
    for number, block in enumerate(blocks, 1):
        size = spec.image_size // 2 ** (number - 1)
        for index, part in enumerate(block):
            if isinstance(part, TwoHalves):
                found[f"Block{number}.{index}"] = (Place(part, size), convolution)
    head = next(part for part in reversed(layers) if isinstance(part, TwoHalves | ConvolutionalHead))
    if isinstance(head, ConvolutionalHead):
        found["ClassificationHead.0"] = (Place(cast(TwoHalves, head.convolution), 1), convolution)
    else:
        found["ClassificationHead.1"] = (Place(head, 1), HEADS[spec.method])
    return found


def _named(prefix: str, shapes: Shapes) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{prefix}.{name}", shape) for name, shape in shapes.items()]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = read_regular(path, LARGEST_FILE)
    except OSError as error:
        raise errors.bad_weights(path, error.strerror or str(error)) from error
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything; the text of PyTorch advises to run what they hold
        raise errors.bad_weights(path, "damaged, or holding more than tensors") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise errors.bad_weights(path, "not a state dict")
    return found


def _check(published: Mapping[str, Any], expected: Shapes, path: Path) -> None:
    missing = [name for name in expected if name not in published]
    extra = [name for name in published if name not in expected]
    for what, names in (("lacks", missing), ("has, and may not have,", extra)):
        if names:
            others = f" and {len(names) - 1} others" if len(names) > 1 else ""
            raise errors.bad_weights(path, f"it {what} {names[0]}{others}")
    for name, shape in expected.items():
        value = published[name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise errors.bad_weights(path, f"{name} is not a tensor of floating-point numbers")
        if tuple(value.shape) != shape:
            raise errors.bad_weights(path, f"{name} has the shape {tuple(value.shape)} instead of {shape}")
        if not value.isfinite().all():
            raise errors.bad_weights(path, f"{name} has numbers that are infinite or NaN")


# ---------------------------------------------------------------------------------------------------------------- methods


def _shape(place: Place, name: str) -> tuple[int, ...]:
    """Shape of a tensor of the layer here."""
    return tuple(place.layer.state_dict()[name].shape)


def _renamed(**names: str) -> Layout:
    """A layer whose tensors have the same shapes and values here; `names`: name here → published name."""
    return Layout(
        lambda place: {there: _shape(place, here) for here, there in names.items()},
        lambda place, own: {here: own[there] for here, there in names.items()},
    )


def _mask(place: Place) -> Published:
    """1 for the columns that make BCOP's projectors: the first half."""
    matrices, channels, _ = _shape(place, "weight")
    mask = torch.zeros(matrices - 1, 1, channels)
    mask[:, :, : channels // 2] = 1
    return {"mask": mask}


def _bcop_shapes(place: Place) -> Shapes:
    matrices, channels, _ = _shape(place, "weight")
    return {"param_matrices": (matrices, channels, channels), "mask": (matrices - 1, 1, channels), "bias": (channels,)}


def _cayley_state(place: Place, own: Published) -> Published:
    """The published α multiplies `W / ‖W‖` with the norm of the half spectrum; the one here has the norm of the kernel."""
    kernel = own["weight"].double()
    half_spectrum = torch.fft.rfft2(kernel, s=(place.image_size, place.image_size))
    ratio = torch.linalg.vector_norm(kernel) / torch.linalg.vector_norm(half_spectrum)
    return {"weight": own["weight"], "bias": own["bias"], "alpha": (own["alpha"].double() * ratio).float()}


def _soc_shapes(place: Place) -> Shapes:
    c, _, k, _ = _shape(place, "weight")
    return {
        "random_conv_filter": (c, c, k, k), "bias": (c,), "correction": (1,),
        "u1": (1, c, 1, k), "v1": (c, 1, k, 1), "u2": (1, c, k, 1), "v2": (c, 1, 1, k),
        "u3": (1, c, k, k), "v3": (c, 1, 1, 1), "u4": (c, 1, k, k), "v4": (1, c, 1, 1),
    }  # fmt: skip


def _soc_correction(place: Place) -> Published:
    return {"correction": torch.tensor([1.0 if _shape(place, "weight")[-1] == 1 else SCALE])}


def _eco_shapes(place: Place) -> Shapes:
    n, c, _ = _shape(place, "weight")
    return {"random_conv_filter": (c, c, n), "bias": (c,), "correction": (1,), "us": (n, 1, c), "vs": (n, c, 1)}


_LINEAR = {"bias": "bias", "weight": "parametrizations.weight.original"}
CONVOLUTIONS: Mapping[str, Layout] = {
    "aol": _renamed(**_LINEAR),
    "bcop": Layout(_bcop_shapes, lambda place, own: {"weight": own["param_matrices"], "bias": own["bias"]}, _mask),
    "cayley": Layout(
        lambda place: {"weight": _shape(place, "weight"), "bias": _shape(place, "bias"), "alpha": ()}, _cayley_state
    ),
    "cpl": _renamed(weight="kernel", bias="bias", u="u"),
    "lot": _renamed(weight="weight", bias="bias"),
    "sll": _renamed(weight="kernel", bias="bias", q="q"),
    "soc": Layout(
        _soc_shapes, lambda place, own: {"weight": own["random_conv_filter"], "bias": own["bias"]}, _soc_correction
    ),
    "eco": Layout(
        _eco_shapes, lambda place, own: {"weight": own["random_conv_filter"].permute(2, 0, 1), "bias": own["bias"]}
    ),
}  # fmt: skip
"""Method → how its convolutions are stored"""
HEADS: Mapping[str, Layout] = {
    "bcop": _renamed(**_LINEAR),
    "cayley": Layout(
        lambda place: {"weight": _shape(place, "weight"), "bias": _shape(place, "bias"), "alpha": (1,)},
        lambda place, own: {**own, "alpha": own["alpha"][0]},
    ),
}
"""Method → how its linear layer at the end is stored, where it has one"""
