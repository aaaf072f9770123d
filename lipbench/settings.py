"""Further arguments of an external layer: text such as `bias=False, stride=2`, and the values that it stands for.

The text is part of the layer's name, as in `package.module:Layer(bias=False, stride=2)`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping

from lipbench import errors

LONGEST = 500
"""characters of a text"""


def read(text: str) -> dict[str, object]:
    """The values by name. They are Python literals: numbers, True, False, None, strings, and tuples of these.

    A bare word is a string. Raises `LipbenchError` for anything else, and for a name that occurs twice.
    """
    if not text.strip():
        return {}
    try:
        if len(text) > LONGEST:
            raise ValueError
        call = ast.parse(f"call({text}\n)", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError
        pairs = [(one.arg, _value(one.value)) for one in call.keywords]
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        raise errors.not_settings(text[:LONGEST]) from None
    names = [name for name, _ in pairs]
    if None in names or len(set(names)) < len(names):
        raise errors.not_settings(text)
    return {name: value for name, value in pairs if name is not None}


def write(values: Mapping[str, object]) -> str:
    """The text of values: sorted by name, so that equal settings have equal texts. Raises `LipbenchError` as `read` does."""
    text = ", ".join(f"{name}={values[name]!r}" for name in sorted(values))
    read(text)
    return text


def joined(*texts: str) -> str:
    """One text of all settings. Raises `LipbenchError` as `read` does."""
    return write(read(", ".join(part for part in texts if part.strip())))


def _value(node: ast.expr) -> object:
    value = node.id if isinstance(node, ast.Name) else _plain(ast.literal_eval(node))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError
