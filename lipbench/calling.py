"""How external layers and networks are called: each size goes to the parameter whose name means it; nothing is tried out.

Also layers of this process alone, such as those of a notebook: they get a name for as long as they are needed.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lipbench import errors, parameters, settings
from lipbench.external import load, parse, surroundings
from lipbench.parameters import CLASSES, IMAGE, IN, KERNEL, OUT

_ADAPTER = ("channels", "image_size", "kernel_size")
_NETWORK = ("image_size", "classes")
_VALUES = {IN: "channels", OUT: "channels", IMAGE: "image_size", KERNEL: "kernel_size", CLASSES: "classes"}
"""meaning of a parameter → the argument of an adapter that it gets"""
_USUAL = {
    "stride": "1", "padding": "kernel_size // 2", "dilation": "1", "group": "1", "bias": "True",
    "size": "(1, channels, image_size, image_size)", "shape": "(channels, image_size, image_size)",
    "factor": "1", "chan": "channels", "plane": "channels", "feature": "channels", "width": "channels", "dim": "channels",
}  # fmt: skip
"""word in a parameter's name → the value that an adapter passes for the user to check"""
_WRAPPER = """class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return {}


"""


@dataclass(frozen=True)
class Call:
    """How one external callable is called."""

    name: str
    """its external name"""
    kind: str
    """'layer' or 'network'"""
    function: Callable[..., object]
    taken: parameters.Parameters
    meanings: parameters.Meanings
    settings: Mapping[str, object]
    """further arguments, which come before the sizes"""

    def takes(self, meaning: str) -> bool:
        """Whether a size reaches the callable."""
        return any(found == meaning and name not in self.settings for name, found in self.meanings.items())

    @property
    def counts_features(self) -> bool:
        """Whether the layer is fully connected by its parameters: it takes features, and neither kernel nor image size."""
        own = {*self.meanings.values()}
        return not own & {KERNEL, IMAGE} and any(map(parameters.counts_features, self.meanings))

    def inputs(self, sizes: Mapping[str, int]) -> int:
        """Channels of the input: those that the callable is told, or that the settings give it."""
        given = next(
            (self.settings[name] for name, found in self.meanings.items() if found == IN and name in self.settings), None
        )
        return given if isinstance(given, int) and given > 0 else sizes[IN]

    def make(self, sizes: Mapping[str, int]) -> object:
        """The object that the callable returns.

        Raises any error of the callable, and `LipbenchError` where its parameters do not say what it needs.
        """
        places, names = self._arguments(sizes)
        with surroundings(self.name):
            try:
                return self.function(*places, **names)
            except (TypeError, LookupError) as error:
                if not any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in self.taken.values()):
                    raise
                raise self.misfit(f"its parameters do not say what it takes: {type(error).__name__}: {error}") from error

    def _arguments(self, sizes: Mapping[str, int]) -> tuple[list[object], dict[str, object]]:
        """The positional and the keyword arguments."""
        values: dict[str, object] = {}
        for name, meaning in self.meanings.items():
            size = sizes[meaning]
            values[name] = (size, size) if parameters.wants_pair(self.taken[name]) else size
        values |= self.settings
        by_place = [name for name, one in self.taken.items() if one.kind is one.POSITIONAL_ONLY and name in values]
        return [values.pop(name) for name in by_place], values

    def misfit(self, why: str) -> errors.LipbenchError:
        """The error, with the adapter to write, for a callable whose arguments are not known."""
        return errors.adapter_needed(self.name, why, self.kind, self.adapter())

    def adapter(self, forward: str = "") -> str:
        """The lines of an adapter file. With `forward`, an expression of `x`, the adapter wraps the layer in a module."""
        found = parse(self.name)
        known = _NETWORK if self.kind == "network" else _ADAPTER
        module = Path(found.place).stem if found.is_file else found.place
        made = f"{found.name}({', '.join(filter(None, map(self._written, self.taken.values())))})"
        imported = f"from {module} import {found.name.partition('.')[0]}\n\n\n"
        if forward:
            imported = f"from torch import nn\n{imported}{_WRAPPER.format(forward)}"
            made = f"Wrapped({made})"
        return f"{imported}def {self.kind}({', '.join(known)}):\n    return {made}\n"

    def _written(self, one: inspect.Parameter) -> str:
        """The argument that an adapter passes for a parameter; "" for one that keeps its default."""
        if one.kind is one.VAR_POSITIONAL and not self.meanings and self.kind == "layer":
            return "channels, channels, kernel_size"
        meaning, required = self.meanings.get(one.name), one.default is one.empty
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or not (required or meaning or one.name in self.settings):
            return ""
        if one.name in self.settings:
            value = repr(self.settings[one.name])
        elif meaning:
            value = "3" if meaning == IN and self.kind == "network" else _VALUES[meaning]
        else:
            value = (
                "1"
                if self.kind == "network"
                else next((found for word, found in _USUAL.items() if word in one.name.lower()), "1")
            )
        return value if one.kind is one.POSITIONAL_ONLY else f"{one.name}={value}"


def layer(name: str) -> Call:
    """How a layer is called. Raises `LipbenchError` if the name cannot be loaded, or a parameter without a default has no clear
    meaning; nothing is called."""
    return _checked(name, "layer")


def network(name: str) -> Call:
    """How a network is called. Raises `LipbenchError` as `layer` does."""
    return _checked(name, "network")


def _checked(name: str, kind: str) -> Call:
    function = load(name)
    given = settings.read(parse(name).settings)
    try:
        found = parameters.signature(function)
    except (TypeError, ValueError) as error:  # for a callable that is not written in Python
        raise Call(name, kind, function, {}, {}, given).misfit(str(error)) from error
    fixed = {*function.keywords} if isinstance(function, functools.partial) else set()
    is_function = parse(name).is_file and not isinstance(function, type)
    meant = (
        parameters.of_network(found) if kind == "network"
        else parameters.of_adapter(found) if is_function
        else parameters.of_layer(found)
    )  # fmt: skip
    call = Call(name, kind, function, found, {one: meaning for one, meaning in meant.items() if one not in fixed}, given)
    _check_settings(call)
    if unknown := [one.name for one in found.values() if is_required(one) and one.name not in {*call.meanings, *given}]:
        raise call.misfit(f"what it needs as {', '.join(unknown)} is not known")
    return call


def is_required(one: inspect.Parameter) -> bool:
    """Whether a parameter needs an argument."""
    return one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)


def _check_settings(call: Call) -> None:
    """Raises `LipbenchError` for a setting that is no parameter of the callable."""
    named = [one.name for one in call.taken.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    takes_all = any(one.kind is one.VAR_KEYWORD for one in call.taken.values())
    if unknown := [name for name in call.settings if name not in named and not takes_all]:
        raise errors.unknown_setting(call.name, unknown[0], named)


# ---------------------------------------------------------------------------------------------- layers of this process alone


_THIS_PROCESS = "this_process"
"""the module that such layers seem to be of"""


def importable_name(function: object) -> str:
    """The external name by which any process finds a callable; "" for one that only this process has.

    An adapter, by its parameters, has the name of its file.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or module == "__main__":
        return ""
    try:
        place = importlib.import_module(module)
        found = functools.reduce(getattr, name.split("."), place)
    except (ImportError, AttributeError):
        return ""
    if found is not function:
        return ""
    if callable(function) and _is_adapter(function):
        path = place.__file__ or ""
        return f"{path}:{name}" if path.endswith(".py") else ""
    return f"{module}:{name}"


@contextlib.contextmanager
def in_this_process(layer: Any) -> Iterator[str]:
    """A name that stands for a layer in the block, in this process.

    The layer is a callable, or an object with a `forward`, which is copied.
    """
    name = getattr(layer, "__name__", "") or type(layer).__name__
    name = "layer" if name == "<lambda>" else name
    module = sys.modules.setdefault(_THIS_PROCESS, ModuleType(_THIS_PROCESS))
    others = [one for one in vars(module) if one.partition("_")[0] == name]
    name = f"{name}_{len(others) + 1}" if others else name
    setattr(module, name, _as_callable(layer))
    try:
        yield f"{_THIS_PROCESS}:{name}"
    finally:
        delattr(module, name)


def _is_adapter(function: Callable[..., object]) -> bool:
    try:
        return tuple(parameters.signature(function)) == _ADAPTER
    except (TypeError, ValueError):  # for a callable that is not written in Python
        return False


def _as_callable(layer: Any) -> Callable[..., Any]:
    if hasattr(layer, "forward") and not isinstance(layer, type):
        return lambda channels, out_channels, kernel_size: copy.deepcopy(layer)
    made: Callable[..., Any] = layer
    return made
