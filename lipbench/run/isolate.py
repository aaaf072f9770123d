"""One case and round, fresh processes: whatever happens to them becomes a `Round`, and the program goes on.

The parent imports no torch. Children are forked from a server (`forks`), which takes hundredths of a second, or started anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case, Limits
from lipbench.quantities import PARTS
from lipbench.run import failures, forks
from lipbench.store.files import load_json
from lipbench.store.records import round_from_dict
from lipbench.store.rounds import Part, Round, summed_up

STDERR_TAIL_BYTES = 8192
SURVEY_TIMEOUT_S = 300.0
LONGEST_WAIT_S = 1e6
"""the operating system takes no time-out of over 24 days"""
FORK, START = "fork", "start"
"""how a fresh process is made"""


def usual_start() -> str:
    """`FORK` where processes can be forked and ended with their parent, else `START`."""
    return FORK if sys.platform == "linux" and hasattr(os, "fork") else START


class Processes:
    """Fresh processes for rounds; a context manager, since a server may wait for the next question.

    One question at a time. `renew()` has the next one answered by a process of another server.
    """

    def __init__(self, fresh: str = FORK) -> None:
        self.fresh = fresh
        self._servers: dict[str, forks.Server] = {}
        """by the settings of their environments"""
        self._started: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.renew()

    def stop(self) -> None:
        """Have another thread's question end now, by `StoppedError`, and answer no other; to be called from any thread."""
        self._stopped = True
        for server in tuple(self._servers.values()):
            server.kill()
        for process in tuple(self._started):
            _kill(process)

    def renew(self) -> None:
        """End all servers."""
        while self._servers:
            self._servers.popitem()[1].close()

    def run_round(self, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
        """Measure parts of a case, all in one fresh process, or, after one that died, the rest in another.

        What is known to have `failed` is left out where it would be part of something else: training, of the memory taken.
        Never raises for what happens there: each part has a status of its own.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        found, left = Round("ok"), tuple(parts)
        while left:
            remaining_s = limits.timeout_s - (time.monotonic() - clock)
            if remaining_s <= 0:
                late = {name: Part("timeout", _late(limits, "not begun")) for name in left}
                found = summed_up(replace(found, parts={**found.parts, **late}))
                break
            bad = {*failed, *(name for name, part in found.parts.items() if part.status != "ok")}
            question = {"case": cases.to_dict(case), "limits": asdict(limits), "parts": left, "failed": sorted(bad)}
            killed_before = _killed_for_memory()
            ending = self._ask(question, remaining_s, _threads(case.threads))
            one, rest = judge(ending, limits, _killed_for_memory() > killed_before)
            if one.machine:
                one = replace(one, machine=replace(one.machine, flags={**one.machine.flags, "process": ending.fresh}))
            found = _joined(found, one)
            if not one.parts or len(rest) >= len(left):  # nothing could be begun, and nothing more would be
                found = _without_answer(found, one, left)
                break
            left = rest
        return replace(found, started=started.isoformat(timespec="seconds"), duration_s=round(time.monotonic() - clock, 3))

    def survey(
        self,
        methods: Sequence[str],
        implementations: Sequence[str],
        device: str,
        threads: int = 1,
        networks: Sequence[str] = (),
    ) -> Place:
        """Whether the names exist, and which device 'auto' means.

        `networks` are external ones. Raises `LipbenchError` for a method or implementation that nobody has, an external layer
        or network that cannot be loaded or called, and for 'cuda' where there is none.
        """
        question = {"methods": list(methods), "implementations": list(implementations), "device": device,
                    "networks": list(networks)}  # fmt: skip
        ending = self._ask(question, SURVEY_TIMEOUT_S, _threads(threads))
        if ending.answer is None:
            raise errors.survey_failed(ending.reason)
        if "error" in ending.answer:
            raise errors.LipbenchError(ending.answer["error"])
        return Place(str(ending.answer["device"]), ending.answer.get("gpu"))

    def _ask(self, question: dict[str, Any], timeout_s: float, settings: dict[str, str]) -> Ending:
        """Of a forked child; of a started one where that is asked for, or where no server can be had."""
        clock = time.monotonic()
        if self.fresh == FORK and not self._stopped:
            try:
                return self._ask_server(question, timeout_s, settings)
            except forks.ServerEndedError:
                self.renew()
                timeout_s = max(0.0, timeout_s - (time.monotonic() - clock))
        if self._stopped:
            raise StoppedError
        ending = ask("lipbench.run.child", question, timeout_s, settings, self._started)
        if self._stopped:
            raise StoppedError
        return ending

    def _ask_server(self, question: dict[str, Any], timeout_s: float, settings: dict[str, str]) -> Ending:
        key = json.dumps(settings, sort_keys=True)
        clock = time.monotonic()
        if key not in self._servers or self._servers[key].is_closed:
            try:
                self._servers[key] = forks.Server(settings)
            except forks.ServerEndedError:
                self.fresh = START  # what cannot be imported now cannot be later: started processes say why
                raise
        if self._stopped:
            raise StoppedError
        left_s = max(0.0, min(timeout_s, LONGEST_WAIT_S) - (time.monotonic() - clock))
        with _places() as places:
            places[1].touch()  # a child may end before it makes it
            code, timed_out = self._servers[key].ask(question, *places, left_s)
            return Ending(code, timed_out, _read_answer(places[0]), _tail(places[1]), FORK)


class StoppedError(RuntimeError):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Place:
    """Where a run is measured."""

    device: str
    """'cpu' or 'cuda'"""
    gpu: str | None = None
    """its name; None on a CPU"""


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    code: int
    """exit code; negative: the signal that ended it"""
    timed_out: bool
    answer: dict[str, Any] | None
    stderr: str
    """its last lines"""
    fresh: str = START
    """how it came to be"""

    @property
    def reason(self) -> str:
        """How a child without an answer ended, and the last line that it said."""
        how = f"ended by {_signal_name(-self.code)}" if self.code < 0 else f"ended with exit code {self.code} and no result"
        last = failures.last_line(self.stderr)
        return f"{how}: {last}" if last else how


def _threads(threads: int) -> dict[str, str]:
    # Read once by the libraries, when they are loaded; torch.set_num_threads is never called.
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def ask(
    module: str,
    question: dict[str, Any],
    timeout_s: float,
    settings: Mapping[str, str] | None = None,
    running: list[subprocess.Popen[bytes]] | None = None,
) -> Ending:
    """Put a question to a newly started process that runs `module`; `settings` add to its environment.

    No folder is put before the installed packages (PYTHONSAFEPATH): what lies in the current one shadows nothing. The process
    is in `running` while it runs.
    """
    with _places() as (answer, errors_file, scratch), errors_file.open("wb") as stderr:
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
            _kill(process)  # also what the child started itself, and also when the parent is interrupted
            listed.remove(process)
            process.wait()
        return Ending(process.returncode, timed_out, _read_answer(answer), _tail(errors_file))


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _places() -> Iterator[tuple[Path, Path, Path]]:
    """Files for a child's answer and its errors, and a folder for what it leaves behind, compiled code for one.

    Apart from each other, since a layer gone wrong may empty any directory that it finds.
    """
    with tempfile.TemporaryDirectory(prefix="lipbench-") as own, tempfile.TemporaryDirectory(prefix="lipbench-") as given:
        scratch = Path(given, "scratch")
        scratch.mkdir()
        yield Path(given, "answer.json"), Path(own, "stderr"), scratch


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
        return file.read().decode(errors="replace")


def _read_answer(path: Path) -> dict[str, Any] | None:
    # Written whole or not at all by the child; anything else that is found there was written by a layer.
    try:
        return load_json(path)
    except errors.LipbenchError:
        return None


def judge(ending: Ending, limits: Limits, killed_for_memory: bool) -> tuple[Round, tuple[str, ...]]:
    """What a child found, the part that it died of included, and the parts that are left for another."""
    told = _told(ending.answer)
    if told is None:
        failed = _death(ending, limits, killed_for_memory)
        return Round(failed.status, failed.reason), ()
    one, doing, left = told
    if doing is not None:
        one = summed_up(replace(one, parts={**one.parts, doing: _death(ending, limits, killed_for_memory)}))
    return one, left


def _told(answer: dict[str, Any] | None) -> tuple[Round, str | None, tuple[str, ...]] | None:
    """What `child` wrote; None for anything else, which a layer may have put in its place."""
    if answer is None or set(answer) != {"round", "doing", "left"}:
        return None
    doing, left = answer["doing"], answer["left"]
    if not (doing is None or doing in PARTS) or not isinstance(left, list) or not set(left) <= set(PARTS):
        return None
    with contextlib.suppress(TypeError, ValueError):
        return round_from_dict(answer["round"]), doing, tuple(left)
    return None


def _death(ending: Ending, limits: Limits, killed_for_memory: bool) -> Part:
    """Status and reason of a child that did not come to its end."""
    if ending.timed_out:
        return Part("timeout", _late(limits, "no result"))
    if ending.code == -signal.SIGKILL and killed_for_memory:
        return Part("out_of_memory", "killed by the kernel, which had no memory left")
    status = "crashed" if ending.code < 0 else "raised"
    return Part("out_of_memory" if failures.is_out_of_memory(ending.stderr) else status, ending.reason)


def _late(limits: Limits, what: str) -> str:
    return f"{what} within {limits.timeout_s:g} s; allow more by --timeout"


def _without_answer(found: Round, last: Round, left: Collection[str]) -> Round:
    """A round whose `left` parts have the status of a last child, which did not get as far as any of them."""
    if not found.parts or last.parts:
        return found
    return summed_up(replace(found, parts={**found.parts, **dict.fromkeys(left, Part(last.status, last.reason))}))


def _joined(one: Round, other: Round) -> Round:
    """What two children found of one case, each other parts; of a second, only if the first died."""
    if not one.parts and one.status == "ok":
        return other
    if not other.parts and other.status != "ok":
        return one  # the case could be built once
    phases = {**(one.phases or {}), **(other.phases or {})}
    return summed_up(replace(
        one, parts={**one.parts, **other.parts}, phases=phases or None, memory=one.memory or other.memory,
        macs=one.macs or other.macs, certificate=one.certificate or other.certificate, tuned={**one.tuned, **other.tuned},
        warnings=tuple(dict.fromkeys((*one.warnings, *other.warnings))), machine=one.machine or other.machine,
    ))  # fmt: skip


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _killed_for_memory() -> int:
    """How many processes the kernel has killed for want of memory, machine and control group together."""
    files = [Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")]
    files += _own_group_files()
    killed = 0
    for file in files:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        killed += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return killed


def _own_group_files() -> list[Path]:
    """Where the kernel counts for this process's control group: version 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = [line.split(":", 2) for line in lines]
    return [
        Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control") if controllers == "memory" else
        Path(f"/sys/fs/cgroup{path}/memory.events")
        for _, controllers, path in groups if controllers in ("memory", "") and path != "/"
    ]  # fmt: skip
