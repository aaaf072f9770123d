"""Claims on cases: a worker that measures one says so in the run directory, and the others leave it alone meanwhile.

A claim is a file `claims/<case id>.json` that names its owner: machine, process and a time at which it runs out. It is made
exclusively, so that one of two workers gets it, and taken over or away under the lock of the directory. It is a file, and not a
lock that is held, because locks do not vanish with their process on all network file systems, and nobody sees who holds them.

A claim of a worker that died blocks nobody for ever. On the machine of its owner, it is in force as long as the owner's process
lives, and no longer. On other machines, which cannot see that process, it is in force until it runs out: `GRACE_S` after the
time-out of what it was made for, by the clocks of both machines. So a worker on another machine that is killed before it can
take its claim away delays its case until then. Whoever knows that it is dead may delete the file.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lipbench import errors
from lipbench.cases import Case
from lipbench.store.files import from_json, load_json, locked

FOLDER = "claims"
GRACE_S = 400.0
"""for what the time-out of a round leaves out: a server that starts late, and clocks that differ"""


@dataclass(frozen=True)
class Owner:
    """Who holds a claim, and until when."""

    machine: str
    process_id: int
    process_started: str
    """in the kernel's terms; "" where it does not say"""
    until: float
    """seconds since 1970"""

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.machine == _machine()

    @property
    def is_alive(self) -> bool:
        """Whether the claim is in force."""
        if self.is_here:
            return _is_running(self.process_id) and _process_started(self.process_id) == self.process_started
        return time.time() < self.until


@contextlib.contextmanager
def claimed(directory: Path, case: Case, timeout_s: float) -> Iterator[bool]:
    """Claim a case for the block, which measures it for at most `timeout_s`; False where another worker holds a claim on it.

    Raises `OSError` where the directory cannot be written to.
    """
    path = directory / FOLDER / f"{case.id}.json"
    own = Owner(_machine(), os.getpid(), _process_started(os.getpid()), time.time() + timeout_s + GRACE_S)
    is_own = _made(directory, path, own)
    try:
        yield is_own
    finally:
        if is_own:
            _removed(directory, path, own)


def holders(directory: Path) -> tuple[Owner, ...]:
    """Whose claims are in force in a run directory."""
    found = (_owner(path) for path in (directory / FOLDER).glob("*.json"))
    return tuple(owner for owner in found if owner and owner.is_alive)


def _made(directory: Path, path: Path, own: Owner) -> bool:
    """Write a claim where none is in force."""
    with locked(directory):
        standing = _owner(path)
        if standing and standing.is_alive:
            return False
        path.parent.mkdir(exist_ok=True)
        if standing:
            path.unlink(missing_ok=True)
        try:
            with path.open("x") as file:  # exclusive even where the file system knows no locks
                file.write(json.dumps(asdict(own)) + "\n")
        except FileExistsError:
            return False
        return True


def _removed(directory: Path, path: Path, own: Owner) -> None:
    """Take a claim away, unless another worker has taken it over, and the folder with the last one."""
    with contextlib.suppress(OSError), locked(directory):
        if _owner(path) == own:
            path.unlink()
        path.parent.rmdir()


def _owner(path: Path) -> Owner | None:
    """Whose claim a file is; None where there is none. Half a file was written by a process that is about to write the rest,
    or died before: it is in force for `GRACE_S`."""
    try:
        owner: Owner = from_json(Owner, load_json(path))
        return owner
    except (errors.LipbenchError, TypeError, ValueError):
        pass
    try:
        return Owner("", 0, "", path.stat().st_mtime + GRACE_S)
    except FileNotFoundError:
        return None


@functools.cache
def _machine() -> str:
    """This machine as processes see it: two containers on one host are two, since neither sees the processes of the other."""
    found = [socket.gethostname()]
    with contextlib.suppress(OSError):
        found += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(found)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _process_started(process_id: int) -> str:
    """When a process began, in ticks since boot, so that another one under its number is told from it; "" if nobody says so.

    Of one that has ended, and whose parent has not noticed yet, "ended".
    """
    try:
        state, *rest = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else rest[18]
