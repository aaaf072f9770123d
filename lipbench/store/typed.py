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
from collections.abc import Mapping, Sequence
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


def from_json(kind: Any, value: Any, where: str = "") -> Any:
    """Convert JSON values to the annotated type: dataclasses, tuples, dicts, literals, optional and plain values.

    `where` is the place of the value in its file, which also is the name of its field if no dataclass is around it. Control
    characters in texts become visible. Raises `TypeError` or `ValueError` for unknown keys, values of another type, and values
    outside the bounds.
    """
    return _read(kind, value, where, where)


def _read(kind: Any, value: Any, where: str, name: str) -> Any:
    """Convert a value in the field `name`, which chooses the bounds."""
    if kind in _PLAIN:
        return _PLAIN[kind](value, where, name)
    origin, arguments = _taken_apart(kind)
    if origin in (types.UnionType, typing.Union):
        inner = next(one for one in arguments if one is not types.NoneType)
        return None if value is None else _read(inner, value, where, name)
    if origin is typing.Literal:
        return _choice(arguments, value, where)
    if origin is tuple:
        _expect(list | tuple, value, where)
        if not value and name in AT_LEAST_ONE:
            raise ValueError(f"{_at(where)}empty")
        if arguments[0] is float and all(type(entry) is float and SHORTEST_S <= entry <= LARGEST_FLOAT for entry in value):
            return tuple(value)  # samples: most of what a run holds, so that their places are not written out one by one
        return tuple(_read(arguments[0], entry, f"{where}[{index}]", name) for index, entry in enumerate(value))
    if origin is dict:
        _expect(dict, value, where)
        return {_read(arguments[0], key, f"a key of {where}", ""): _read(arguments[1], entry, f"{where}[{short(key)}]", name)
                for key, entry in value.items()}  # fmt: skip
    if kind in REPEATED:
        with contextlib.suppress(TypeError, ValueError, LipbenchError):  # raised again below, with the place in the file
            return _once(kind, json.dumps(value))
    return _object(kind, value, where)


@functools.lru_cache(maxsize=64)
def _once(kind: Any, text: str) -> Any:
    return _object(kind, json.loads(text), "")


@functools.cache
def _taken_apart(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """The origin and the arguments of an annotation."""
    return typing.get_origin(kind), typing.get_args(kind)


def _choice(known: Sequence[Any], value: Any, where: str) -> Any:
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


def _object(kind: Any, value: Any, where: str) -> Any:
    _expect(dict, value, where)
    hints, prefix = _hints(kind), f"{where}." if where else ""
    if unknown := sorted(set(value) - set(hints)):
        raise ValueError(f"{_at(where)}unknown key {short(unknown[0])}")
    if missing := [name for name in _needed(kind) if name not in value]:
        raise ValueError(f"{prefix}{missing[0]} is missing")
    return kind(**{
        name: entry if is_dataclass(entry) else _read(hints[name], entry, f"{prefix}{name}", name)
        for name, entry in value.items()
    })  # fmt: skip


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    """Field → its annotation."""
    known = {one.name for one in fields(kind)}
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if name in known}


@functools.cache
def _needed(kind: Any) -> tuple[str, ...]:
    """Fields without a default."""
    return tuple(one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING)


def _integer(value: Any, where: str, name: str) -> int:
    _expect(int, value, where)
    largest = LARGEST.get(name, LARGEST_INTEGER)
    _within(value, -largest if name in SIGNED else int(name in AT_LEAST_ONE), largest, where)
    return int(value)


def _float(value: Any, where: str, name: str) -> float:
    if type(value) is float and SHORTEST_S <= value <= LARGEST_FLOAT:
        return value  # within all bounds, as nearly all are
    _expect(float | int, value, where)
    if isinstance(value, float) and name in UNLIMITED and not value < 0:
        return value
    _within(value, -LARGEST_FLOAT if name in SIGNED else 0.0, LARGEST_FLOAT, where)
    if name.endswith("_s") and 0 < value < SHORTEST_S:
        raise ValueError(f"{_at(where)}{value!r}, a time too short to be one")
    return float(value)


def _text(value: Any, where: str, name: str) -> str:
    _expect(str, value, where)
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{_at(where)}a text of {len(value)} characters, more than {LONGEST_TEXT}")
    if value and name in DATES:
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{_at(where)}{short(value)}, which is no date and time") from None
    return visible(value)


def _truth(value: Any, where: str, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{_at(where)}{short(value)} instead of bool")
    return value


_PLAIN = {int: _integer, float: _float, str: _text, bool: _truth}


def _within(value: float, least: float, most: float, where: str) -> None:
    if not least <= value <= most:  # also for a value that is not a number
        raise ValueError(f"{_at(where)}{short(value)}, which is not in {least:g} … {most:g}")


def _expect(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        name = {dict: "an object", list | tuple: "a list"}.get(kind, getattr(kind, "__name__", "a number"))
        raise TypeError(f"{_at(where)}{short(value)} instead of {name}")
    return value


def _at(where: str) -> str:
    return f"{where} is " if where else ""


def short(value: object) -> str:
    """A value in a message, cut to some characters."""
    return reprlib.repr(value)


def said(error: Exception) -> str:
    """What a damaged file is lacking, from one of `files.DAMAGED`."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) if isinstance(error, TypeError | ValueError | LipbenchError) else f"{type(error).__name__}: {error}"
