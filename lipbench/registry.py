"""The registry of methods: one line for each, and the entry points `lipbench.methods` of other packages."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from lipbench import building, calling, cases, errors, external, networks
from lipbench.cases import ExternalNetworkSpec, LayerSpec, NetworkSpec, Spec
from lipbench.layers import aol, bcop, bcop_polar, cayley, cpl, eco, lot, lot_polar, sandwich, sll, soc, standard
from lipbench.layers.base import Implementation, Method, TwoHalves
from lipbench.parameters import KERNEL

METHODS: dict[str, Method] = {
    "standard": standard.METHOD,
    "aol": aol.METHOD,
    "bcop": bcop.METHOD,
    "cayley": cayley.METHOD,
    "cpl": cpl.METHOD,
    "lot": lot.METHOD,
    "sll": sll.METHOD,
    "soc": soc.METHOD,
    "eco": eco.METHOD,
    "sandwich": sandwich.METHOD,
    "bcop-polar": bcop_polar.METHOD,
    "lot-polar": lot_polar.METHOD,
}


def methods() -> dict[str, Method]:
    """Built-in methods and those of installed packages, by name.

    Raises `LipbenchError` if two methods have the same name, and for an entry point that is not a `Method` of the same name.
    """
    found = dict(METHODS)
    for entry_point in _installed(tuple(sys.path)):
        if entry_point.name in found:
            raise errors.duplicate_method(entry_point.name)
        found[entry_point.name] = _load_method(entry_point)
    return found


@functools.lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points on this search path, read once: a table asks for the methods in each of its rows."""
    return tuple(entry_points(group="lipbench.methods"))


def _load_method(entry_point: EntryPoint) -> Method:
    try:
        method = entry_point.load()
    except Exception as error:  # another package's module may raise anything while it is imported
        raise errors.bad_entry_point(entry_point.name, f"{type(error).__name__}: {error}") from error
    if not isinstance(method, Method):
        raise errors.bad_entry_point(entry_point.name, f"it is of type {type(method).__name__}")
    if method.name != entry_point.name:  # records, formulas and tables would have two names
        raise errors.bad_entry_point(entry_point.name, f"its Method is named {method.name!r}")
    return method


def find(name: str) -> Method:
    """The method of a name. Raises `LipbenchError` for an unknown name."""
    known = methods()
    if name not in known:
        raise errors.unknown_method(name, known)
    return known[name]


def check_name(name: str) -> None:
    """Raises `LipbenchError` for an unknown method, and for an external layer that cannot be loaded or called."""
    if external.is_external(name):
        _check_not_a_module(name)
        calling.layer(name)
    else:
        find(name)


def check_network_name(name: str) -> None:
    """Raises `LipbenchError` for an external network that cannot be loaded or called."""
    _check_not_a_module(name)
    calling.network(name)


def _check_not_a_module(name: str) -> None:
    if isinstance(external.load(name), nn.Module):
        raise errors.not_importable(name, "it is an nn.Module object, not a class or function that returns one")


def title(name: str) -> str:
    """Title of a method or an external layer in tables. Raises `LipbenchError` for an unknown method."""
    return external.title(name) if external.is_external(name) else find(name).title


def build(spec: Spec) -> nn.Module:
    """The layer or network of a spec, freshly initialised. Raises `UnsupportedError` where the method cannot take the sizes."""
    if isinstance(spec, ExternalNetworkSpec):
        return building.build(calling.network(spec.method), building.sizes(spec))
    return build_network(spec) if isinstance(spec, NetworkSpec) else build_layer(spec)


def build_network(spec: NetworkSpec, classes: int = cases.CLASSES) -> nn.Module:
    """The ConvNet of a spec: (b, 3, image_size, image_size) → (b, classes)."""

    def convolution(channels: int, kernel_size: int, image_size: int) -> nn.Module:
        return build_layer(LayerSpec(spec.method, channels, image_size, kernel_size, spec.implementation))

    def head(features: int) -> nn.Module:
        own = None if external.is_external(spec.method) else find(spec.method).head
        return own.layer(features, features) if own else networks.ConvolutionalHead(convolution(features, 1, 1))

    network = networks.convnet(spec, convolution, head, classes)
    for end in (*network[1].modules(), *network[-2].modules()):
        if isinstance(end, TwoHalves):
            end.start_as_end()
    return network


def build_layer(spec: LayerSpec) -> nn.Module:
    """The layer that a spec describes, freshly initialised: (b, channels, s, s) → (b, channels, s, s).

    A fully connected layer, or one whose adapter says so, takes inputs of another shape: its attribute `input_shape`, without
    the batch. Raises `UnsupportedError` where the method cannot take the sizes, and `LipbenchError` for an external layer that
    cannot be called or is not an `nn.Module` of one tensor.
    """
    if external.is_external(spec.method):
        return building.build(calling.layer(spec.method), building.sizes(spec))
    layer = implementation(spec.method, spec.implementation).layer
    return layer(spec.channels, spec.channels, spec.kernel_size, spec.image_size)


def shown_sizes(spec: Spec) -> dict[str, int | None]:
    """Channels, image size and kernel size of a spec; None for those that its layer or network does not have or take."""
    found = {"channels": spec.channels or None, "image_size": spec.image_size, "kernel_size": spec.kernel_size or None}
    if isinstance(spec, LayerSpec) and external.is_external(spec.method):
        call = calling.layer(spec.method)
        found["kernel_size"] = spec.kernel_size if call.takes(KERNEL) else None
        found["image_size"] = None if call.counts_features else spec.image_size
    return found


def implementation(method: str, name: str) -> Implementation:
    """One implementation of a method. Raises `UnsupportedError` if there is none, or if a package that it needs is missing."""
    entry = find(method)
    if name not in entry.implementations:
        raise errors.no_implementation(entry.title, name, entry.implementations)
    _check_installed(entry.implementations[name])
    return entry.implementations[name]


def lacking(names: Collection[str], implementations: Collection[str]) -> tuple[tuple[str, str], ...]:
    """The pairs of a method and an implementation that do not exist, where the method has another one of `implementations`.

    Unknown methods and external layers are left out.
    """
    return tuple(
        (name, implementation)
        for name, method in methods().items()
        if name in names and not method.implementations.keys().isdisjoint(implementations)
        for implementation in implementations
        if implementation not in method.implementations
    )


def needs_triton(spec: Spec) -> bool:
    """Whether a spec's implementation runs Triton kernels; decided by its name where the method is not installed."""
    method = methods().get(spec.method)
    known = method.implementations.get(spec.implementation) if method else None
    return cases.needs_triton(spec.implementation) if known is None else known.needs == "triton"


def check_device(spec: Spec, device: str) -> None:
    """Raises `LipbenchError` if the implementation of a spec does not exist or cannot run on a device."""
    if not external.is_external(spec.method):
        check_machine(implementation(spec.method, spec.implementation), device)


def check_machine(implementation: Implementation, device: str) -> None:
    """Raises `LipbenchError` if an implementation's kernels cannot run: Triton kernels on a CPU, without the interpreter."""
    _check_installed(implementation)
    if implementation.needs == "triton" and device == "cpu":
        from lipbench_kernels import launching

        if not launching.interpreted():
            raise errors.no_gpu_for_kernels()


def _check_installed(implementation: Implementation) -> None:
    if implementation.needs == "triton" and importlib.util.find_spec("triton") is None:
        raise errors.no_triton()
