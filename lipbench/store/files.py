"""Atomic files: written under another name and renamed, changed under a lock, and read as JSON of a known type."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from lipbench import errors

Complaint = Callable[[object, str], errors.LipbenchError]
"""(path, why) → the error to raise"""
DAMAGED = (TypeError, KeyError, ValueError, AttributeError, errors.LipbenchError)
"""errors raised by contents that are valid JSON but not what lipbench wrote"""
LOCK = ".lock"
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""error codes of file systems without locks"""

# ---------------------------------------------------------------------------------------------------------------- writing


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically: under another name in the same directory, then renamed.

    The other name is random, since processes of two hosts that share the directory may have the same id. Links are followed. A
    path that is not a regular file, such as a pipe or /dev/null, is written to directly: renaming would replace it by a file.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    path = path.resolve()
    temporary = path.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON with `write_file`."""
    write_file(path, json.dumps(values, indent=1) + "\n")


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raises `LipbenchError` for an `OSError` of the block, which writes to this file or directory."""
    try:
        yield
    except OSError as error:
        raise errors.not_writable(path, error.strerror or str(error)) from error


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on the directory for the block, across all hosts that share it.

    Where the file system does not support locks there is no exclusion; a single writer is not affected.
    """
    with (directory / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield


def is_own_trace(name: str) -> bool:
    """Whether a file of this name is a lock, or a temporary file of a killed `write_file`."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


# ---------------------------------------------------------------------------------------------------------------- reading


def load_json(path: Path, complaint: Complaint = errors.unreadable_file) -> dict[str, Any]:
    """Load the object in a JSON file. Raises the `LipbenchError` made by `complaint` where the file holds no complete object,
    and `NotOursError` where it cannot be opened."""
    try:
        text = path.read_text()
    except OSError as error:
        raise errors.unreachable_file(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise complaint(path, "not text") from error
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise complaint(path, str(error) if text.strip() else "empty") from error
    if not isinstance(values, dict):
        raise complaint(path, f"a JSON {type(values).__name__} instead of an object")
    return values


def load_versioned(path: Path, newest: int, complaint: Complaint) -> dict[str, Any]:
    """Load the object in a JSON file that has a schema version. Raises as `load_json` does; also the error of `complaint`
    without a version, and `NotOursError` for a version after the `newest`."""
    values = load_json(path, complaint)
    schema = values.get("schema")
    if not isinstance(schema, int):
        raise complaint(path, "no schema version")
    if schema > newest:
        raise errors.newer_schema(path, schema, newest)
    return values


def from_json(kind: Any, value: Any) -> Any:
    """Convert JSON values to the annotated type: dataclasses, tuples, dicts, literals, optional and plain values.

    Unknown keys and values of another type are errors, so that a damaged file is detected when it is read.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else from_json(next(one for one in arguments if one is not types.NoneType), value)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} instead of an object")
        hints = typing.get_type_hints(kind)
        known = {one.name for one in fields(kind)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"unknown key {unknown[0]!r}")
        return kind(**{name: from_json(hints[name], entry) for name, entry in value.items()})  # type: ignore[operator]  # a class
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"unknown {value!r}; known are {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        return tuple(from_json(arguments[0], entry) for entry in _expect(list | tuple, value))
    if origin is dict:
        return {key: from_json(arguments[1], entry) for key, entry in _expect(dict, value).items()}
    return _expect(float | int if kind is float else kind, value)


def _expect(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r} instead of {getattr(kind, '__name__', kind)}")
    return value
