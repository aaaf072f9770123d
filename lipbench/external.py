"""External layers and networks: the meaning of a name, and how its callable is loaded; `calling` calls it.

There are two kinds of external names. `package.module:name` is any callable that can be imported, also from the current folder.
`file.py:name` is a callable in a file, such as an adapter, a function of (channels, image_size, kernel_size). If the part
before the colon ends in `.py`, it is a file. `calling` says which arguments they get. A name may end in further arguments, as
in `package.module:name(bias=False, stride=2)`: two such names with different arguments are two layers.

Nothing here imports torch: the process that plans reads names too, but loads none of them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lipbench import errors, settings, traces

EXPORT = "export"
"""name of an adapter's function that gives the exported form of a module"""
_MODULE_PREFIX = "lipbench_external_"
"""prefix of the module names of files"""
_WITH_SETTINGS = re.compile(r"(.*?):([^:()]+)\((.*)\)", re.DOTALL)
_SLUG_CHARACTERS = 40


# --------------------------------------------------------------------------------------------------------------- the names


@dataclass(frozen=True)
class External:
    """The parts of an external name."""

    place: str
    """dotted name of a module, or path of a file"""
    name: str
    """name of the callable; dotted, if it is an attribute of a class"""
    settings: str = ""
    """further arguments, as text of `settings.write`"""

    @property
    def is_file(self) -> bool:
        return self.place.endswith(".py")


def is_external(name: str) -> bool:
    """Whether a name is external, not that of a registered method."""
    return ":" in name


def parse(name: str) -> External:
    """The parts of an external name."""
    if found := _WITH_SETTINGS.fullmatch(name):
        return External(*found.groups())
    place, _, plain = name.rpartition(":")
    return External(place, plain)


def absolute(name: str, further: str = "") -> str:
    """The name with the whole path of its file and all its settings, also `further` ones, so that it means the same everywhere.

    Raises `LipbenchError` for settings that cannot be read.
    """
    if not is_external(name):
        return name
    found = parse(name)
    place = os.path.abspath(found.place) if found.is_file else found.place
    return f"{place}:{found.name}{_in_brackets(settings.joined(found.settings, further))}"


def code(name: str) -> str:
    """The name with the whole path of its file and without settings: whose code it runs."""
    found = parse(name)
    return absolute(f"{found.place}:{found.name}") if is_external(name) else name


def _in_brackets(text: str) -> str:
    return f"({text})" if text else ""


def check_options(names: Iterable[str], further: str, claim: float) -> None:
    """Raises `LipbenchError` for settings or a claimed constant where no name is external: other layers have neither."""
    given = [option for option, value in (("--with", further), ("--lipschitz", claim != 1)) if value]
    if given and not any(map(is_external, names)):
        raise errors.only_external(given[0])


def title(name: str) -> str:
    """Title in tables: `name` for a package, `file.py:name` for a file, with the settings. Nothing is loaded."""
    found = parse(name)
    plain = f"{Path(found.place).name}:{found.name}" if found.is_file else found.name
    return plain + _in_brackets(found.settings)


def shown(name: str) -> str:
    """Title of an external name; a method's name as it is, where the registry is not imported."""
    return title(name) if is_external(name) else name


def titles(names: Iterable[str]) -> dict[str, str]:
    """Titles of external names, all different: names that would share a title keep their full name as title."""
    found = {name: title(name) for name in names if is_external(name)}
    shared = list(found.values())
    return {name: own if shared.count(own) == 1 else name for name, own in found.items()}


def slug(name: str) -> str:
    """The name for case ids; for a file, with a hash of its path, since files in other folders may have the same name.

    Settings are cut, with a hash of all of them.
    """
    if not is_external(name):
        return name
    found = parse(name)
    plain = f"{found.place}:{found.name}"
    if found.is_file:
        plain = f"{Path(found.place).name}-{found.name}-{_digest(found.place)}"
    return f"{plain}-{found.settings[:_SLUG_CHARACTERS]}-{_digest(found.settings)}" if found.settings else plain


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:6]


# ------------------------------------------------------------------------------------------------------------- the loading


class _File(ModuleType):
    """A file as a module, with a name that no other file has."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.__file__ = path
        self.beside: dict[str, ModuleType] = {}
        """modules of the file's folder that the file has imported"""


def load(name: str) -> Callable[..., Any]:
    """The callable of an external name. Raises `LipbenchError` if there is none.

    Modules are searched in the current folder too and, for a file, in its own folder: both come last, so that nothing in them
    hides an installed module.
    """
    found = parse(name)
    _see_current_folder()
    try:
        module = _load_file(found.place) if found.is_file else importlib.import_module(found.place)
        function = functools.reduce(getattr, found.name.split("."), module)
    except (ImportError, AttributeError, OSError) as error:
        raise errors.not_importable(name, traces.placed(traces.message(error), error)) from error
    except Exception as error:  # an external module may raise anything while it is imported
        raise errors.not_importable(name, traces.line(error)) from error
    if not callable(function):
        raise errors.not_importable(name, f"it is a {type(function).__name__}, which cannot be called")
    return function


def load_export(name: str) -> Callable[..., Any] | None:
    """The function `export` in an adapter's file, beside the one of this name; None where there is none."""
    found = parse(name)
    if not (is_external(name) and found.is_file):
        return None
    function = getattr(_load_file(found.place), EXPORT, None)
    return function if callable(function) else None


def _see_current_folder() -> None:
    with contextlib.suppress(FileNotFoundError):  # if the current folder was deleted
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


def surroundings(name: str) -> contextlib.AbstractContextManager[None]:
    """The context in which a callable runs: the callable of a file may import modules from the file's folder."""
    found = parse(name)
    return _folder_of(_load_file(found.place)) if found.is_file else contextlib.nullcontext()


@contextlib.contextmanager
def _folder_of(file: _File) -> Iterator[None]:
    """In the block, imports find modules of the file's folder, and no modules of the same name from another file's folder."""
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
