"""JSON values as typed data: every field is checked when it is read, by its annotation and by the bounds of this module.

The bounds hold for everything that is read from disk or from a child, since either may hold anything. A field without a rule of
its own is at least 0, finite and not huge. This reader is used in place of a library: it needs the annotations that the data
has anyway, and a library would need the same rules for what it does not know (dates, sizes, terminal escapes).
"""

from __future__ import annotations

import contextlib
import functools
import json
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from typing import Any

from lipbench.cases import KINDS, Case
from lipbench.errors import LipbenchError, visible
from lipbench.quantities import Machine

LARGEST_INTEGER, LARGEST_FLOAT = 10**18, 1e18
SHORTEST_S = 1e-15
"""a time in seconds is 0 or at least this, so that its reciprocal is finite"""
LONGEST_TEXT = 1_000_000
"""characters"""
LARGEST = {
    "channels": 10**6, "image_size": 10**6, "kernel_size": 999, "batch_size": 10**6, "classes": 10**6, "threads": 10**6,
    "rounds": 10**6, "rounds_wanted": 10**6, "schema": 10**6, "exponents": 16,
}  # fmt: skip
"""largest integers of these fields"""
SIGNED = frozenset({"per_image", "constant", "saved_per_image_bytes", "saved_constant_bytes", "numerator", "exponents"})
"""fields that may be negative: ends of fitted lines, and terms of formulas"""
UNLIMITED = frozenset({"largest", "smallest", "residual", "uncertainty"})
"""floats that may be infinite, not a number or huge: bounds of layers that are not Lipschitz"""
AT_LEAST_ONE = frozenset({"samples_s", "calls_per_sample", "denominator"})
"""lists that must not be empty, and integers that must not be 0"""
REPEATED = (Machine,)
"""objects that most rounds of a run repeat word for word, and that are read once"""
DATES = frozenset({"started"})
"""texts that are a date and time as in ISO 8601, or empty"""


Place = str | tuple["Place", "str | int | tuple[str] | None"]
"""where a value stands in its file: a text, or a place with a field, an index, a key of a dict as a tuple, or None for the key
itself. It is written out only for an error."""
Reader = Callable[[Any, Place], Any]
"""converts a JSON value at a place, or raises"""


def from_json(kind: Any, value: Any, where: str = "") -> Any:
    """Convert JSON values to the annotated type: dataclasses, tuples, dicts, literals, optional and plain values.

    `where` is the place of the value in its file, which also is the name of its field if no dataclass is around it. Control
    characters in texts become visible. Objects that are of their type already are left as they are. Raises `TypeError` or
    `ValueError` for unknown keys, values of another type, and values outside the bounds.
    """
    return _reader(kind, where if "[" not in where else "")(value, where)


@functools.cache
def _reader(kind: Any, name: str) -> Reader:
    """What reads values of an annotated type in the field `name`, which chooses the bounds."""
    if kind in _PLAIN:
        return _PLAIN[kind](name)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _optional(arguments, name)
    if origin is typing.Literal:
        return lambda value, where: _choice(arguments, value, where)
    if origin is tuple:
        return _tuple(arguments[0], name)
    if origin is dict:
        return _dict(arguments[0], arguments[1], name)
    return _repeated(kind) if kind in REPEATED else functools.partial(_object, kind)


def _optional(arguments: tuple[Any, ...], name: str) -> Reader:
    inner = _reader(next(one for one in arguments if one is not types.NoneType), name)
    objects: tuple[type, ...] = tuple(filter(is_dataclass, arguments))
    return lambda value, where: value if value is None or isinstance(value, objects) else inner(value, where)


def _tuple(kind: Any, name: str) -> Reader:
    entry = _reader(kind, name)

    def read(value: Any, where: Place) -> tuple[Any, ...]:
        _expect(list | tuple, value, where)
        if not value and name in AT_LEAST_ONE:
            raise ValueError(f"{_at(where)}empty")
        return tuple([entry(one, (where, index)) for index, one in enumerate(value)])

    def read_floats(value: Any, where: Place) -> tuple[Any, ...]:
        if value and type(value) is list and all(type(one) is float and SHORTEST_S <= one <= LARGEST_FLOAT for one in value):
            return tuple(value)  # samples: most of what a run holds
        return read(value, where)

    return read_floats if kind is float else read


def _dict(key_kind: Any, kind: Any, name: str) -> Reader:
    key_reader, entry = _reader(key_kind, ""), _reader(kind, name)

    def read(value: Any, where: Place) -> dict[Any, Any]:
        _expect(dict, value, where)
        return {key_reader(key, (where, None)): entry(one, (where, (key,))) for key, one in value.items()}

    return read


def _repeated(kind: Any) -> Reader:
    def read(value: Any, where: Place) -> Any:
        with contextlib.suppress(TypeError, ValueError, LipbenchError):  # raised again below, with the place in the file
            return _once(kind, json.dumps(value))
        return _object(kind, value, where)

    return read


@functools.lru_cache(maxsize=64)
def _once(kind: Any, text: str) -> Any:
    return _object(kind, json.loads(text), "")


def _choice(known: Sequence[Any], value: Any, where: Place) -> Any:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{_at(where)}the unknown {short(value)}; known are {', '.join(map(repr, known))}")
    return value


def case_from_json(value: Any, where: str = "case") -> Case:
    """The case that `cases.to_dict` wrote. Raises as `from_json` does, and `LipbenchError` for values that no case can have."""
    values = dict(_expect(dict, value, where))
    kind = from_json(str, values.pop("kind", None), f"{where}.kind")
    _choice(tuple(KINDS), kind, f"{where}.kind")
    found: Case = _object(Case, {**values, "spec": from_json(KINDS[kind], values.get("spec"), f"{where}.spec")}, where)
    return found


def _object(kind: Any, value: Any, where: Place) -> Any:
    if isinstance(value, kind):
        return value
    _expect(dict, value, where)
    readers = _readers(kind)
    if unknown := sorted(value.keys() - readers.keys()):
        raise ValueError(f"{_at(where)}unknown key {short(unknown[0])}")
    if missing := [name for name in _needed(kind) if name not in value]:
        raise ValueError(f"{_written((where, missing[0]))} is missing")
    return kind(**{name: readers[name](entry, (where, name)) for name, entry in value.items()})


@functools.cache
def _readers(kind: Any) -> Mapping[str, Reader]:
    """Field → what reads it."""
    known = {one.name for one in fields(kind)}
    return {name: _reader(hint, name) for name, hint in typing.get_type_hints(kind).items() if name in known}


@functools.cache
def _needed(kind: Any) -> tuple[str, ...]:
    """Fields without a default."""
    return tuple(one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING)


def _integer(name: str) -> Reader:
    most = LARGEST.get(name, LARGEST_INTEGER)
    least = -most if name in SIGNED else int(name in AT_LEAST_ONE)

    def read(value: Any, where: Place) -> int:
        _expect(int, value, where)
        _within(value, least, most, where)
        return int(value)

    return read


def _float(name: str) -> Reader:
    least = -LARGEST_FLOAT if name in SIGNED else 0.0

    def read(value: Any, where: Place) -> float:
        if type(value) is float and SHORTEST_S <= value <= LARGEST_FLOAT:
            return value  # within all bounds, as nearly all are
        _expect(float | int, value, where)
        if isinstance(value, float) and name in UNLIMITED and not value < 0:
            return value
        _within(value, least, LARGEST_FLOAT, where)
        if name.endswith("_s") and 0 < value < SHORTEST_S:
            raise ValueError(f"{_at(where)}{value!r}, a time too short to be one")
        return float(value)

    return read


def _text(name: str) -> Reader:
    def read(value: Any, where: Place) -> str:
        _expect(str, value, where)
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"{_at(where)}a text of {len(value)} characters, more than {LONGEST_TEXT}")
        if value and name in DATES:
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(f"{_at(where)}{short(value)}, which is no date and time") from None
        return visible(value)

    return read


def _truth(name: str) -> Reader:
    def read(value: Any, where: Place) -> bool:
        if not isinstance(value, bool):
            raise TypeError(f"{_at(where)}{short(value)} instead of bool")
        return value

    return read


_PLAIN: Mapping[Any, Callable[[str], Reader]] = {int: _integer, float: _float, str: _text, bool: _truth}


def _within(value: float, least: float, most: float, where: Place) -> None:
    if not least <= value <= most:  # also for a value that is not a number
        raise ValueError(f"{_at(where)}{short(value)}, which is not in {least:g} … {most:g}")


def _expect(kind: Any, value: Any, where: Place) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {dict: "an object", list | tuple: "a list"}.get(kind, getattr(kind, "__name__", "a number"))
        raise TypeError(f"{_at(where)}{short(value)} instead of {name}")
    return value


def _at(where: Place) -> str:
    written = _written(where)
    return f"{written} is " if written else ""


def _written(where: Place) -> str:
    if isinstance(where, str):
        return where
    outer, inner = _written(where[0]), where[1]
    if inner is None:
        return f"a key of {outer}"
    if isinstance(inner, str):
        return f"{outer}.{inner}" if outer else inner
    return f"{outer}[{inner if isinstance(inner, int) else short(inner[0])}]"


def short(value: object) -> str:
    """A value in a message, cut to some characters."""
    return reprlib.repr(value)


def said(error: Exception) -> str:
    """What a damaged file is lacking, from one of `files.DAMAGED`."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) if isinstance(error, TypeError | ValueError | LipbenchError) else f"{type(error).__name__}: {error}"
