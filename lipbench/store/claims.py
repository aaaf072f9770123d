"""Claims on cases: a worker claims a case in the run directory while it works on it, and other workers skip that case.

A claim is a file `claims/<case id>.json` that names its owner: machine, process and expiry time. It is created exclusively, so
that only one of two workers gets it. It is replaced or removed under the lock of the directory. A claim is a file rather than a
held lock because on some network file systems locks outlive their process, and the holder of a lock cannot be seen.

A claim of a dead worker expires. On its owner's machine, a claim is in force exactly as long as the owner's process lives.
Other machines cannot see that process; for them it is in force until its expiry time: `GRACE_S` after the time-out of the
measurement, by the clocks of both machines. Work without a time-out, such as a training, renews its claim. A worker that is
killed before it removes its claim therefore delays the case on other machines until then. A user who knows that the worker is
dead may delete the file.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from lipbench import errors
from lipbench.store.files import load_json, locked, write_json
from lipbench.store.typed import from_json

FOLDER = "claims"
MOST_BYTES = 2**16
"""size limit of a claim"""
GRACE_S = 400.0
"""added to the time-out of a round, for a server that starts late and for clocks that differ"""


class HasId(Protocol):
    """What can be claimed: a case of any kind."""

    @property
    def id(self) -> str:
        """The same on every machine, and part of a file name."""


@dataclass(frozen=True)
class Owner:
    """The owner of a claim, and the claim's expiry time."""

    machine: str
    process_id: int
    process_started: str
    """start time as the kernel reports it; "" where it does not"""
    until: float
    """seconds since 1970"""

    @property
    def is_here(self) -> bool:
        """Whether the owner runs on this machine."""
        return self.machine == _machine()

    @property
    def is_alive(self) -> bool:
        """Whether the claim is in force."""
        if self.is_here:
            return _is_running(self.process_id) and _process_started(self.process_id) == self.process_started
        return time.time() < self.until

    def is_same(self, other: Owner) -> bool:
        """Whether both are the same process, whatever the expiry times of their claims."""
        return replace(self, until=other.until) == other


@contextlib.contextmanager
def claimed(directory: Path, case: HasId, timeout_s: float) -> Iterator[bool]:
    """Claim a case for the block, which takes at most `timeout_s` unless it calls `renew`. Yields False where another worker
    has claimed it.

    Raises `OSError` where the directory is not writable.
    """
    path = _path(directory, case)
    own = _own(timeout_s)
    is_own = _made(directory, path, own)
    try:
        yield is_own
    finally:
        if is_own:
            _removed(directory, path, own)


def renew(directory: Path, case: HasId, timeout_s: float) -> None:
    """Put off the expiry of this process's claim until `timeout_s` from now; nothing where another worker has taken it over."""
    path, own = _path(directory, case), _own(timeout_s)
    with locked(directory):
        standing = _owner(path)
        if standing and standing.is_same(own):
            write_json(path, asdict(own))


def holders(directory: Path) -> tuple[Owner, ...]:
    """The owners of the claims in force in a run directory."""
    found = (_owner(path) for path in (directory / FOLDER).glob("*.json"))
    return tuple(owner for owner in found if owner and owner.is_alive)


def _path(directory: Path, case: HasId) -> Path:
    return directory / FOLDER / f"{case.id}.json"


def _own(timeout_s: float) -> Owner:
    """This process as the owner of a claim."""
    return Owner(_machine(), os.getpid(), _process_started(os.getpid()), time.time() + timeout_s + GRACE_S)


def _made(directory: Path, path: Path, own: Owner) -> bool:
    """Write a claim unless one is in force; whether it was written."""
    with locked(directory):
        standing = _owner(path)
        if standing and standing.is_alive:
            return False
        path.parent.mkdir(exist_ok=True)
        if standing:
            path.unlink(missing_ok=True)
        try:
            with path.open("x") as file:  # exclusive even where the file system does not support locks
                file.write(json.dumps(asdict(own)) + "\n")
        except FileExistsError:
            return False
        return True


def _removed(directory: Path, path: Path, own: Owner) -> None:
    """Remove a claim unless another worker has taken it over; remove the folder with the last claim."""
    with contextlib.suppress(OSError), locked(directory):
        standing = _owner(path)
        if standing and standing.is_same(own):
            path.unlink()
        path.parent.rmdir()


def _owner(path: Path) -> Owner | None:
    """The owner of the claim in a file; None without a file. An incomplete file is in force for `GRACE_S`: its process is
    still writing it, or died."""
    try:
        owner: Owner = from_json(Owner, load_json(path, most_bytes=MOST_BYTES))
        return owner
    except (errors.LipbenchError, TypeError, ValueError):
        pass
    try:
        return Owner("", 0, "", path.stat().st_mtime + GRACE_S)
    except OSError:  # no file, or a link in a circle
        return None


@functools.cache
def _machine() -> str:
    """Identifier of this machine. Two containers on one host count as two machines, since their processes are not visible to
    each other."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):  # the second: a number that no process can have
        return False
    except PermissionError:  # the process belongs to another user
        pass
    return True


def _process_started(process_id: int) -> str:
    """Start time of a process in ticks since boot, which distinguishes it from a later process with the same id.

    "" where the system does not report it; "ended" for a process that has ended and that its parent has not reaped yet.
    """
    try:
        state, *rest = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else rest[18]
