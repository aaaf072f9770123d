"""Atomic files: written under another name and renamed, changed under a lock, and read where they are regular files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lipbench import errors

Complaint = Callable[[object, str], errors.LipbenchError]
"""(path, why) → the error to raise"""
DAMAGED = (TypeError, KeyError, ValueError, AttributeError, errors.LipbenchError)
"""errors raised by contents that are valid JSON but not what lipbench wrote"""
MOST_BYTES = 128 * 2**20
"""size limit of a file that is read"""
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
    # Opened to read and write without blocking, because a pipe of this name would wait for another process.
    lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
        yield
    finally:
        os.close(lock)


def is_own_trace(name: str) -> bool:
    """Whether a file of this name is a lock, or a temporary file of a killed `write_file`."""
    return name == LOCK or (name.startswith(".") and name.endswith(".tmp"))


# ---------------------------------------------------------------------------------------------------------------- reading


def read_regular(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The contents of a regular file, also behind a link. Raises `OSError` for anything else, and for a file over `most_bytes`.

    Nothing else is opened: a pipe would wait for ever, and a device may give bytes without end or act when it is opened.
    """
    _require_regular(path.stat(), most_bytes)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor), most_bytes)  # again, since the path may have been replaced
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes} bytes")
    return content


def _require_regular(found: os.stat_result, most_bytes: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a directory instead of a file")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "a pipe, device or socket instead of a file")
    if found.st_size > most_bytes:
        raise OSError(errno.EFBIG, f"{found.st_size} bytes, more than {most_bytes}")


def load_json(path: Path, complaint: Complaint = errors.unreadable_file, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Load the object in a JSON file. Raises the `LipbenchError` made by `complaint` where the file holds no complete object or
    a key twice, and `NotOursError` where it is no regular file, cannot be opened, or is larger than `most_bytes`."""
    try:
        content = read_regular(path, most_bytes)
    except OSError as error:
        raise errors.unreachable_file(path, error.strerror or str(error)) from error
    except ValueError as error:  # a path with a null character
        raise errors.unreachable_file(path, str(error)) from error
    try:
        text = content.decode()
    except ValueError as error:
        raise complaint(path, "not text") from error
    try:
        values = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise complaint(path, str(error) if text.strip() else "empty") from error
    if not isinstance(values, dict):
        raise complaint(path, f"a JSON {type(values).__name__} instead of an object")
    return values


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.80} occurs twice")
    return found


def load_versioned(path: Path, newest: int, complaint: Complaint) -> dict[str, Any]:
    """Load the object in a JSON file that has a schema version. Raises as `load_json` does; also the error of `complaint`
    without a version, and `NotOursError` for a version after the `newest`."""
    values = load_json(path, complaint)
    schema = values.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise complaint(path, "no schema version")
    if schema > newest:
        raise errors.newer_schema(path, schema, newest)
    return values
