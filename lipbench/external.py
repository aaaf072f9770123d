"""External layers and networks: what a name stands for, how it is loaded, and how it is called.

An external name is one of two. `package.module:name` is any callable that can be imported, in the current folder too; as a
layer it is called as `name(channels, channels, kernel_size)`, with `image_size=` where it has a parameter of that name.
`file.py:name` is an adapter, a function in a file, called as `name(channels, image_size, kernel_size)`. As a network, both are
called as `name(image_size, classes)`. What decides is the place: one that ends in `.py` is a file.

Nothing here imports torch: the process that plans reads names too, and loads none.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lipbench import errors

_MODULE_PREFIX = "lipbench_external_"
"""of the names that files have as modules"""
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
"""meaning → parts of names that parameters of that meaning have; the first that fits"""
_USUAL = {
    "stride": "1", "padding": "kernel_size // 2", "dilation": "1", "groups": "1", "bias": "True",
    "input_size": "(1, channels, image_size, image_size)", "shape": "(channels, image_size, image_size)",
}  # fmt: skip
"""what an adapter gives to parameters of such names"""


# --------------------------------------------------------------------------------------------------------------- the names


@dataclass(frozen=True)
class External:
    """The two parts of an external name."""

    place: str
    """dotted name of a module, or path of a file"""
    name: str
    """of the callable; dotted, where it stands in a class"""

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")


def is_external(name: str) -> bool:
    """Whether a name is an external one rather than that of a registered method."""
    return ":" in name


def parse(name: str) -> External:
    """The parts of an external name."""
    place, _, found = name.rpartition(":")
    return External(place, found)


def absolute(name: str) -> str:
    """The same name with the whole path of a file, so that it means the same in every process and folder."""
    found = parse(name)
    return f"{os.path.abspath(found.place)}:{found.name}" if is_external(name) and found.is_file else name


def title(name: str) -> str:
    """What it is called in a table: `name` of a package, `file.py:name` of a file. Nothing is loaded."""
    found = parse(name)
    return f"{Path(found.place).name}:{found.name}" if found.is_file else found.name


def titles(names: Iterable[str]) -> dict[str, str]:
    """Titles of external names, each different: one that two names share is replaced by the names as they are."""
    found = {name: title(name) for name in names if is_external(name)}
    shared = list(found.values())
    return {name: own if shared.count(own) == 1 else name for name, own in found.items()}


def slug(name: str) -> str:
    """The same for case ids: the name, and of a file a hash of its path, since files in other folders may have its name."""
    found = parse(name)
    if not (is_external(name) and found.is_file):
        return name
    return f"{Path(found.place).name}-{found.name}-{_digest(found.place)}"


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:6]


# ------------------------------------------------------------------------------------------------------------- the calling


def check_layer(name: str) -> None:
    """Raises `LipbenchError` if the name cannot be loaded, or not be called as a layer; nothing is called."""
    _layer_call(name)


def check_network(name: str) -> None:
    """Raises `LipbenchError` if the name cannot be loaded, or not be called as a network; nothing is called."""
    _checked(name, _NETWORK)


def make_layer(name: str, channels: int, image_size: int, kernel_size: int) -> object:
    """What the callable returns. Raises `LipbenchError` as `check_layer` does, and whatever the callable raises."""
    sizes = {"channels": channels, "image_size": image_size, "kernel_size": kernel_size}
    function, roles, keywords = _layer_call(name)
    with _surroundings(name):
        return function(*(sizes[role] for role in roles), **{keyword: sizes[keyword] for keyword in keywords})


def make_network(name: str, image_size: int, classes: int) -> object:
    """What the callable returns. Raises `LipbenchError` as `check_network` does, and whatever the callable raises."""
    function = _checked(name, _NETWORK)
    with _surroundings(name):
        return function(image_size, classes)


def _layer_call(name: str) -> tuple[Callable[..., object], Sequence[str], Sequence[str]]:
    """The callable, and what it is given by place and by keyword."""
    if parse(name).is_file:
        return _checked(name, _ADAPTER), _ADAPTER, ()
    takes_image_size = "image_size" in _parameters(load(name))
    keywords = ("image_size",) if takes_image_size else ()
    return _checked(name, _PACKAGE_LAYER, keywords), _PACKAGE_LAYER, keywords


def _checked(name: str, roles: Sequence[str], keywords: Sequence[str] = ()) -> Callable[..., object]:
    """The callable. Raises `LipbenchError`, with the adapter to write, where its signature does not take what it is given."""
    function = load(name)
    why = _misfit(function, roles, keywords)
    if why:
        call = ", ".join((*roles, *(f"{keyword}={keyword}" for keyword in keywords)))
        kind = "network" if roles is _NETWORK else "layer"
        raise errors.adapter_needed(name, call, why, kind, _adapter(name, function, roles, kind))
    return function


def _misfit(function: Callable[..., object], roles: Sequence[str], keywords: Sequence[str]) -> str:
    """Why a callable does not take these arguments; "" if it does. Decided by its signature, never by calling it."""
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
    """What a parameter is by its name; "" where the name does not say."""
    return next((meaning for meaning, words in _WORDS.items() if any(word in parameter.lower() for word in words)), "")


def _parameters(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a callable that is not written in Python
        return {}


def _adapter(name: str, function: Callable[..., object], roles: Sequence[str], kind: str) -> str:
    """Five lines of an adapter's file that call it with what its parameters are named for; the others are to be filled in."""
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
    """How an adapter gives a parameter; "" for one that it leaves as it is."""
    meaning, required = _meaning(parameter.name), parameter.default is parameter.empty
    if parameter.kind is parameter.VAR_KEYWORD or not (required or meaning in known):
        return ""
    usual = "1" if known is _NETWORK else next((value for word, value in _USUAL.items() if word in parameter.name.lower()), "1")
    value = meaning if meaning in known else "3" if meaning == "channels" else usual
    return value if parameter.kind is parameter.POSITIONAL_ONLY else f"{parameter.name}={value}"


# ------------------------------------------------------------------------------------------------------------- the loading


class _File(ModuleType):
    """A file as a module, under a name that no other file has."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.__file__ = path
        self.beside: dict[str, ModuleType] = {}
        """the modules in its folder that it has imported"""


def load(name: str) -> Callable[..., Any]:
    """The callable of an external name. Raises `LipbenchError` if there is none.

    Modules are looked for in the current folder and, for a file, in its own folder too: last of all, so that nothing there
    takes the place of what is installed.
    """
    found = parse(name)
    _see_current_folder()
    try:
        module = _load_file(found.place) if found.is_file else importlib.import_module(found.place)
        function = functools.reduce(getattr, found.name.split("."), module)
    except (ImportError, AttributeError, OSError) as error:
        raise errors.not_importable(name, str(error)) from error
    except Exception as error:  # an external module may raise anything while it is imported
        raise errors.not_importable(name, f"{type(error).__name__}: {error}") from error
    if not callable(function):
        raise errors.not_importable(name, f"it is a {type(function).__name__}, which cannot be called")
    return function


def _see_current_folder() -> None:
    with contextlib.suppress(FileNotFoundError):  # of a current folder that is there no more
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


def _load_file(place: str) -> _File:
    path = os.path.abspath(place)
    name = f"{_MODULE_PREFIX}{_digest(path)}_{Path(path).stem}"
    known = sys.modules.get(name)
    if isinstance(known, _File):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a path that ends in .py has a loader"
    assert spec.loader is not None
    module = _File(name, path)
    module.__spec__ = spec
    sys.modules[name] = module
    try:
        with _folder_of(module):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _surroundings(name: str) -> contextlib.AbstractContextManager[None]:
    """In which a callable runs: that of a file may import what lies beside it."""
    found = parse(name)
    return _folder_of(_load_file(found.place)) if found.is_file else contextlib.nullcontext()


@contextlib.contextmanager
def _folder_of(file: _File) -> Iterator[None]:
    """In the block, imports find what lies beside a file, and not what lies under the same name beside another one."""
    assert file.__file__ is not None
    folder = Path(file.__file__).parent
    for other in [module for module in sys.modules.values() if isinstance(module, _File) and module is not file]:
        for name in other.beside:
            sys.modules.pop(name, None)
    sys.modules.update(file.beside)
    before, path = set(sys.modules), list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        new = {name: module for name, module in sys.modules.items() if name.partition(".")[0] not in before}
        file.beside |= {name: module for name, module in new.items() if _lies_in(folder, name)}


def _lies_in(folder: Path, module: str) -> bool:
    top = module.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top).is_dir()


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
