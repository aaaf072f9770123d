"""Fresh processes that answer one question each: forked from a server (`forks`) in hundredths of a second, or started.

The parent does not import torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lipbench import errors, traces
from lipbench.run import folders, forks
from lipbench.run.executor import StoppedError

STDERR_TAIL_BYTES = 8192
ANSWER_BYTES = 2**26
"""size of the largest answer that is read; a round with 100 000 samples takes a tenth of it"""
LONGEST_WAIT_S = 1e6
"""the operating system accepts no time-out of over 24 days"""
FORK, START = "fork", "start"
"""ways to create a fresh process"""


def usual_start() -> str:
    """`FORK` where processes can be forked and die with their parent, else `START`."""
    return FORK if sys.platform == "linux" and hasattr(os, "fork") else START


class Processes:
    """Creates a fresh process for each question, one at a time; a context manager, since a server may be running.

    After `renew()`, the next process comes from a new server.
    """

    def __init__(self, fresh: str = FORK) -> None:
        self.fresh = fresh
        self._servers: dict[int, forks.Server] = {}
        """by the number of threads of their children"""
        self._started: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.renew()

    def stop(self) -> None:
        """End the question of another thread, which raises `StoppedError`, and accept no more; callable from any thread."""
        self._stopped = True
        for server in tuple(self._servers.values()):
            server.kill()
        for process in tuple(self._started):
            _kill(process)

    def renew(self) -> None:
        """End all servers."""
        while self._servers:
            self._servers.popitem()[1].close()

    def ask(self, question: dict[str, Any], timeout_s: float, threads: int) -> Ending:
        """Put a question to a child with `threads` threads: a forked child, or a started one if no server is wanted or works.

        Raises `StoppedError` once stopped.
        """
        # Libraries read these once, when they are loaded; torch.set_num_threads is never called.
        settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        clock = time.monotonic()
        if self.fresh == FORK and not self._stopped:
            try:
                return self._ask_server(question, timeout_s, threads, settings)
            except forks.ServerEndedError:
                self.renew()
                timeout_s = max(0.0, timeout_s - (time.monotonic() - clock))
        if self._stopped:
            raise StoppedError
        ending = ask("lipbench.run.child", question, timeout_s, settings, self._started)
        if self._stopped:
            raise StoppedError
        return ending

    def _ask_server(self, question: dict[str, Any], timeout_s: float, threads: int, settings: dict[str, str]) -> Ending:
        clock = time.monotonic()
        if threads not in self._servers or self._servers[threads].is_closed:
            try:
                self._servers[threads] = forks.Server(settings)
            except forks.ServerEndedError:
                self.fresh = START  # a failed import will fail again: a started process reports why
                raise
        if self._stopped:
            raise StoppedError
        left_s = max(0.0, min(timeout_s, LONGEST_WAIT_S) - (time.monotonic() - clock))
        with _places() as (answer, errors_file, scratch), errors_file.open("x+b") as stderr:
            code, timed_out = self._servers[threads].ask(question, answer, errors_file, scratch, left_s)
            return Ending(code, timed_out, _read_answer(answer), _tail(stderr), FORK)


@dataclass(frozen=True)
class Ending:
    """Outcome of a child."""

    code: int
    """exit code; negative: the signal that ended it"""
    timed_out: bool
    answer: dict[str, Any] | None
    stderr: str
    """the end of what it printed there"""
    fresh: str = START
    """how the child was created"""

    def raise_refusal(self) -> None:
        """Raises the `LipbenchError` that the child raised, if it answered with one, with its traceback."""
        found = self.answer or {}
        if isinstance(found.get("error"), str):
            error = errors.LipbenchError(found["error"])
            error.traceback = str(found.get("traceback", ""))
            raise error

    @property
    def reason(self) -> str:
        """How a child without an answer ended, and the last line of its stderr."""
        how = f"ended by {_signal_name(-self.code)}" if self.code < 0 else f"ended with exit code {self.code} and no result"
        last = traces.last_line(self.stderr)
        return f"{how}: {last}" if last else how


def ask(
    module: str,
    question: dict[str, Any],
    timeout_s: float,
    settings: Mapping[str, str] | None = None,
    running: list[subprocess.Popen[bytes]] | None = None,
) -> Ending:
    """Put a question to a newly started process that runs `module`, with `settings` added to its environment.

    PYTHONSAFEPATH keeps modules in the current folder from shadowing installed packages. The process is in `running` while it
    runs.
    """
    with _places() as (answer, errors_file, scratch), errors_file.open("x+b") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(answer), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            env={**os.environ, **(settings or {}), "PYTHONSAFEPATH": "1", "TMPDIR": str(scratch)},
        )  # fmt: skip
        listed = [] if running is None else running
        listed.append(process)
        timed_out = False
        try:
            process.communicate(json.dumps(question).encode(), timeout=min(timeout_s, LONGEST_WAIT_S))
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            _kill(process)  # with what the child started, and also when the parent is interrupted
            listed.remove(process)
            process.wait()
        return Ending(process.returncode, timed_out, _read_answer(answer), _tail(stderr))


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _places() -> Iterator[tuple[Path, Path, Path]]:
    """Paths of a child's answer, of its stderr, and of a folder for temporary files such as compiled code.

    stderr is in another directory, since a faulty layer may empty any directory that it knows.
    """
    with folders.temporary() as folder:
        own, given = folder / "own", folder / os.urandom(8).hex()
        scratch = given / "scratch"
        own.mkdir()
        scratch.mkdir(parents=True)
        yield given / "answer.json", own / "stderr", scratch


def _tail(file: IO[bytes]) -> str:
    """The end of a file that is still open here, whatever has become of its path."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
    return file.read(STDERR_TAIL_BYTES).decode(errors="replace")


def _read_answer(path: Path) -> dict[str, Any] | None:
    """The object in a child's answer; None for everything that a layer may have put there instead.

    The child writes its answer atomically. Only a regular file of bounded size is read: a pipe would never end.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            content = file.read(ANSWER_BYTES + 1)
        values = json.loads(content) if len(content) <= ANSWER_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
