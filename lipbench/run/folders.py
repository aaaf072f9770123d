"""Temporary folders that a later run removes if their process was killed.

All are in one folder per user below the system's temporary directory, which nobody else can enter. A folder in use is locked by
its process; the kernel releases the lock when the process ends, however it ends. So a folder that can be locked is an
abandoned one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A new, empty folder for the block, which is removed afterwards; abandoned ones are removed before."""
    parent = _parent()
    if parent is not None:
        _remove_abandoned(parent)
    lock, folder = _locked_folder(parent)
    try:
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _parent() -> Path | None:
    """This user's folder; None where another user could enter or replace it."""
    path = Path(tempfile.gettempdir(), f"lipbench-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    is_safe = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return path if is_safe else None


def _locked_folder(parent: Path | None) -> tuple[int, Path]:
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix="lipbench-", dir=parent))
        with contextlib.suppress(OSError):  # another process may remove the folder before it is locked
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(folder):
                return lock, folder
            os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    for entry in os.scandir(parent):
        with contextlib.suppress(OSError):  # locked, removed by another process, or no folder
            lock = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(Path(entry.path))
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder as far as possible, whatever a layer has put there; links are not followed."""
    with contextlib.suppress(OSError, RecursionError):  # the latter for folders nested a thousand deep
        shutil.rmtree(folder, ignore_errors=True)
