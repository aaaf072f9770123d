"""The methods there are: one line each, and the entry points `lipbench.methods` of other packages."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from lipbench import cases, errors, networks
from lipbench.cases import LayerSpec, NetworkSpec
from lipbench.layers import aol, bcop, cayley, cpl, eco, lot, sandwich, sll, soc, standard
from lipbench.layers.base import Implementation, Method

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
}


def methods() -> dict[str, Method]:
    """Built-in methods and those of installed packages, by name.

    Raises `LipbenchError` if a name is taken twice, and for an entry point that is no `Method` of its own name.
    """
    found = dict(METHODS)
    for entry_point in entry_points(group="lipbench.methods"):
        if entry_point.name in found:
            raise errors.duplicate_method(entry_point.name)
        found[entry_point.name] = _load_method(entry_point)
    return found


def _load_method(entry_point: EntryPoint) -> Method:
    try:
        method = entry_point.load()
    except Exception as error:  # somebody else's module may raise anything while it is imported
        raise errors.bad_entry_point(entry_point.name, f"{type(error).__name__}: {error}") from error
    if not isinstance(method, Method):
        raise errors.bad_entry_point(entry_point.name, f"it is of type {type(method).__name__}")
    if method.name != entry_point.name:  # records, formulas and tables would be looked for under two names
        raise errors.bad_entry_point(entry_point.name, f"its Method is named {method.name!r}")
    return method


def find(name: str) -> Method:
    """The method of that name. Raises `LipbenchError` for a name that nobody has."""
    known = methods()
    if name not in known:
        raise errors.unknown_method(name, known)
    return known[name]


def is_external(name: str) -> bool:
    """Whether a name is `package.module:Class` rather than a registered method."""
    return ":" in name


def title(name: str) -> str:
    """What a method or a layer of somebody else's is called in a table. Raises `LipbenchError` for a name that nobody has."""
    return load_class(name).__name__ if is_external(name) else find(name).title


def build(spec: LayerSpec | NetworkSpec) -> nn.Module:
    """The layer or network of a spec, freshly initialised. Raises `UnsupportedError` where the method cannot take the sizes."""
    return build_network(spec) if isinstance(spec, NetworkSpec) else build_layer(spec)


def build_network(spec: NetworkSpec) -> nn.Module:
    """The ConvNet of a spec: (b, 3, image_size, image_size) → (b, 10)."""

    def convolution(channels: int, kernel_size: int, image_size: int) -> nn.Module:
        return build_layer(LayerSpec(spec.method, channels, image_size, kernel_size, spec.implementation))

    def head(features: int) -> nn.Module:
        own = None if is_external(spec.method) else find(spec.method).head
        return own.layer(features, features) if own else networks.ConvolutionalHead(convolution(features, 1, 1))

    return networks.convnet(spec, convolution, head)


def build_layer(spec: LayerSpec) -> nn.Module:
    """The layer a spec describes, freshly initialised: (b, channels, s, s) → (b, channels, s, s).

    A layer of somebody else's is called as `Class(channels, channels, kernel_size)`, with `image_size=` added where its
    constructor has a parameter of that name. Raises `UnsupportedError` where the method cannot take the sizes.
    """
    arguments = (spec.channels, spec.channels, spec.kernel_size)
    if is_external(spec.method):
        layer = load_class(spec.method)
        takes_image_size = "image_size" in inspect.signature(layer).parameters
        return layer(*arguments, **({"image_size": spec.image_size} if takes_image_size else {}))
    return implementation(spec.method, spec.implementation).layer(*arguments, spec.image_size)


def implementation(method: str, name: str) -> Implementation:
    """One implementation of a method. Raises `UnsupportedError` where there is none, or where Python lacks what it needs."""
    entry = find(method)
    if name not in entry.implementations:
        raise errors.no_implementation(entry.title, name, entry.implementations)
    _check_installed(entry.implementations[name])
    return entry.implementations[name]


def needs_triton(spec: LayerSpec | NetworkSpec) -> bool:
    """Whether a spec's implementation runs Triton kernels; by its name, where the method is not installed here."""
    method = methods().get(spec.method)
    known = method.implementations.get(spec.implementation) if method else None
    return cases.needs_triton(spec.implementation) if known is None else known.needs == "triton"


def check_device(spec: LayerSpec | NetworkSpec, device: str) -> None:
    """Raises `LipbenchError` where the implementation of a spec does not exist or cannot run on a device."""
    if not is_external(spec.method):
        check_machine(implementation(spec.method, spec.implementation), device)


def check_machine(implementation: Implementation, device: str) -> None:
    """Raises `LipbenchError` where kernels cannot run: those of triton on a CPU, outside triton's interpreter."""
    _check_installed(implementation)
    if implementation.needs == "triton" and device == "cpu":
        from lipbench_kernels import launching

        if not launching.interpreted():
            raise errors.no_gpu_for_kernels()


def _check_installed(implementation: Implementation) -> None:
    if implementation.needs == "triton" and importlib.util.find_spec("triton") is None:
        raise errors.no_triton()


def load_class(path: str) -> type[nn.Module]:
    """The `torch.nn.Module` class at `package.module:Class`. Raises `LipbenchError` if there is none.

    Modules are looked for in the current folder too, last of all, so that nothing there takes the place of what is installed.
    """
    module_name, _, class_name = path.partition(":")
    with contextlib.suppress(FileNotFoundError):  # of a current folder that is there no more
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise errors.not_importable(path, str(error)) from error
    except Exception as error:  # somebody else's module may raise anything while it is imported
        raise errors.not_importable(path, f"{type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise errors.not_importable(path, "not a torch.nn.Module class")
    return found
