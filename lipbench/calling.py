"""How external layers and networks are called: by their signature, which is checked, and never by trying.

Also layers of this process alone, such as those of a notebook: they get a name for as long as they are needed.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lipbench import errors
from lipbench.external import load, parse, surroundings

_PACKAGE_LAYER = ("channels", "channels", "kernel_size")
_ADAPTER = ("channels", "image_size", "kernel_size")
_NETWORK = ("image_size", "classes")
_WORDS = {
    "kernel_size": ("kernel",),
    "image_size": ("image", "resolution"),
    "classes": ("class",),
    "something else": ("input_size", "shape", "stride", "padding", "dilation", "groups", "bias", "factor"),
    "channels": ("channel", "plane", "feature", "cin", "cout", "width"),
}
"""meaning of a parameter → words that occur in its name; the first match counts"""
_USUAL = {
    "stride": "1", "padding": "kernel_size // 2", "dilation": "1", "groups": "1", "bias": "True",
    "input_size": "(1, channels, image_size, image_size)", "shape": "(channels, image_size, image_size)",
}  # fmt: skip
"""word in a parameter's name → the value that an adapter passes"""


def check_layer(name: str) -> None:
    """Raises `LipbenchError` if the name cannot be loaded, or cannot be called as a layer; nothing is called."""
    _layer_call(name)


def check_network(name: str) -> None:
    """Raises `LipbenchError` if the name cannot be loaded, or cannot be called as a network; nothing is called."""
    _checked(name, _NETWORK)


def make_layer(name: str, channels: int, image_size: int, kernel_size: int) -> object:
    """The object that the callable returns. Raises `LipbenchError` as `check_layer` does, and any error of the callable."""
    sizes = {"channels": channels, "image_size": image_size, "kernel_size": kernel_size}
    function, roles, keywords = _layer_call(name)
    with surroundings(name):
        return function(*(sizes[role] for role in roles), **{keyword: sizes[keyword] for keyword in keywords})


def make_network(name: str, image_size: int, classes: int) -> object:
    """The object that the callable returns. Raises `LipbenchError` as `check_network` does, and any error of the callable."""
    function = _checked(name, _NETWORK)
    with surroundings(name):
        return function(image_size, classes)


def _layer_call(name: str) -> tuple[Callable[..., object], Sequence[str], Sequence[str]]:
    """The callable, and the sizes that it gets as positional and as keyword arguments."""
    if parse(name).is_file:
        return _checked(name, _ADAPTER), _ADAPTER, ()
    takes_image_size = "image_size" in _parameters(load(name))
    keywords = ("image_size",) if takes_image_size else ()
    return _checked(name, _PACKAGE_LAYER, keywords), _PACKAGE_LAYER, keywords


def _checked(name: str, roles: Sequence[str], keywords: Sequence[str] = ()) -> Callable[..., object]:
    """The callable. Raises `LipbenchError`, with the adapter to write, if its signature does not take the arguments."""
    function = load(name)
    why = _misfit(function, roles, keywords)
    if why:
        call = ", ".join((*roles, *(f"{keyword}={keyword}" for keyword in keywords)))
        kind = "network" if roles is _NETWORK else "layer"
        raise errors.adapter_needed(name, call, why, kind, _adapter(name, function, roles, kind))
    return function


def _misfit(function: Callable[..., object], roles: Sequence[str], keywords: Sequence[str]) -> str:
    """Reason why a callable does not take these arguments; "" if it does. The signature decides; nothing is called."""
    try:
        signature = inspect.signature(function)
        signature.bind(*roles, **dict.fromkeys(keywords))
    except (TypeError, ValueError) as error:
        return str(error)
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in signature.parameters.values() if parameter.kind in by_place]
    for role, name in zip(roles, names):
        if _meaning(name) not in ("", role):
            return f"its parameter {name} is not the {role.replace('_', ' ')}"
    return ""


def _meaning(parameter: str) -> str:
    """Meaning of a parameter by its name; "" where the name does not say."""
    return next((meaning for meaning, words in _WORDS.items() if any(word in parameter.lower() for word in words)), "")


def _parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # for a callable that is not written in Python
        return {}


def _adapter(name: str, function: Callable[..., object], roles: Sequence[str], kind: str) -> str:
    """Five lines of an adapter file: it passes the sizes that parameter names stand for; the user fills in the other values."""
    found = parse(name)
    known = _NETWORK if roles is _NETWORK else _ADAPTER
    module = Path(found.place).stem if found.is_file else found.place
    taken = [_argument(one, known) for one in _parameters(function).values() if one.kind is not one.VAR_POSITIONAL]
    return (
        f"from {module} import {found.name.partition('.')[0]}\n\n\n"
        f"def {kind}({', '.join(known)}):\n"
        f"    return {found.name}({', '.join(filter(None, taken))})\n"
    )


def _argument(parameter: inspect.Parameter, known: Sequence[str]) -> str:
    """The argument that an adapter passes for a parameter; "" for one that keeps its default."""
    meaning, required = _meaning(parameter.name), parameter.default is parameter.empty
    if parameter.kind is parameter.VAR_KEYWORD or not (required or meaning in known):
        return ""
    usual = "1" if known is _NETWORK else next((value for word, value in _USUAL.items() if word in parameter.name.lower()), "1")
    value = meaning if meaning in known else "3" if meaning == "channels" else usual
    return value if parameter.kind is parameter.POSITIONAL_ONLY else f"{parameter.name}={value}"


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
    if callable(function) and tuple(_parameters(function)) == _ADAPTER:
        path = place.__file__ or ""
        return f"{path}:{name}" if path.endswith(".py") else ""
    return f"{module}:{name}"


@contextlib.contextmanager
def in_this_process(layer: Any) -> Iterator[str]:
    """A name that stands for a layer in the block, in this process: a callable, or an object with a `forward`, which is copied.

    A callable whose parameters are those of an adapter is called as one.
    """
    name = getattr(layer, "__name__", "") or type(layer).__name__
    name = "layer" if name == "<lambda>" else name
    module = sys.modules.setdefault(_THIS_PROCESS, ModuleType(_THIS_PROCESS))
    others = [one for one in vars(module) if one.partition("_")[0] == name]
    name = f"{name}_{len(others) + 1}" if others else name
    setattr(module, name, _as_package_layer(layer))
    try:
        yield f"{_THIS_PROCESS}:{name}"
    finally:
        delattr(module, name)


def _as_package_layer(layer: Any) -> Callable[..., Any]:
    if hasattr(layer, "forward") and not isinstance(layer, type):
        return lambda channels, out_channels, kernel_size: copy.deepcopy(layer)
    if tuple(_parameters(layer)) == _ADAPTER:
        return lambda channels, out_channels, kernel_size, image_size: layer(channels, image_size, kernel_size)
    made: Callable[..., Any] = layer
    return made
