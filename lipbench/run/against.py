"""Two versions measured in alternating rounds: the head, which is this interpreter's, and a base.

Each turn runs `lipbench profile --resume --rounds N` once per version, in the order base, head, then head, base, and so on, so
that a drift of the machine affects both alike. Both are run directories: OUT/base and OUT/head. Round N of both belongs to
turn N, so contended rounds are not repeated by one version alone: further turns are added for them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lipbench import errors, traces
from lipbench.store.files import is_own_trace
from lipbench.store.records import Run, load_run
from lipbench.store.rounds import HARMLESS, is_quiet

ROUNDS = 11
"""default number of turns"""
LEAST_PAIRS = 7
"""pairs of quiet rounds without which a time is UNCLEAR"""
PROBE_S = 120
WRONG_USE, INTERRUPTED, FAILED = 2, 130, 3
"""exit codes of the command line"""
END_S = 60
"""time in which an interrupted version must end"""

Shown = Callable[[int, int, str], None]
"""(turn, number of turns, name of the version)"""


@dataclass(frozen=True)
class Side:
    """One of the two versions."""

    name: str
    """"base" or "head" """
    directory: Path
    """its run directory"""
    arguments: tuple[str, ...]
    """options of `profile` that both versions get"""
    python: str = sys.executable
    folder: Path = Path()
    """its current folder"""
    environment: Mapping[str, str] | None = None
    """None: as of this process"""

    def command(self, *arguments: str) -> list[str]:
        """The command line of this version's `lipbench`."""
        return [self.python, "-m", "lipbench.cli", *arguments]

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its processes; a module in the current folder shadows no installed one."""
        return {**(os.environ if self.environment is None else self.environment), "PYTHONSAFEPATH": "1", "COLUMNS": "200"}

    def run(self) -> Run | None:
        """What is stored; None before the first turn."""
        return load_run(self.directory) if (self.directory / "run.json").exists() else None

    def has(self, turn: int) -> bool:
        """Whether all cases have that many rounds, or can have no more, and all examinations are done."""
        found = self.run()
        if found is None or found.unreadable or found.unfinished or found.unexamined:
            return False
        return all(replace(record, rounds_wanted=turn).finished for record in found.records)

    def is_disturbed(self, turn: int) -> bool:
        """Whether the round of that turn was contended in any case."""
        found = self.run()
        return found is not None and any(
            not is_quiet(one) for record in found.records for one in record.rounds[turn - 1 : turn]
        )


@dataclass(frozen=True)
class Order:
    """What is requested of both versions."""

    rounds: int = ROUNDS
    retries: int = 0
    """largest number of turns added for contended ones"""
    deadline: float | None = None
    """`time.monotonic()` at which both versions stop"""


@dataclass(frozen=True)
class Alternated:
    """Both runs, and how far they came."""

    base: Run
    head: Run
    turns: int
    """turns that both versions finished"""
    wanted: int

    @property
    def failed(self) -> bool:
        """Whether a case of the head failed."""
        return any(record.status not in HARMLESS for record in self.head.records)


def alternate(base: Side, head: Side, order: Order, show: Shown = lambda *_: None) -> Alternated:
    """Measure both versions in turns, and continue where stored runs ended.

    Raises `LipbenchError` where a version cannot measure what is requested, or writes what this version cannot read.
    """
    known = _known_options(base)
    turn, done, wanted = 1, 0, order.rounds
    while turn <= wanted:
        for side in (base, head) if turn % 2 else (head, base):
            if side.has(turn):
                continue
            if order.deadline is not None and order.deadline <= time.monotonic():
                return _finished(base, head, done, wanted)
            show(turn, wanted, side.name)
            _measure(side, turn, order.deadline, ("--retries", "0") if "--retries" in known or side is head else ())
        is_late = order.deadline is not None and order.deadline <= time.monotonic()
        if is_late and not (base.has(turn) and head.has(turn)):
            break
        done = turn
        is_disturbed = base.is_disturbed(turn) or head.is_disturbed(turn)
        wanted = min(wanted + is_disturbed, order.rounds + order.retries)
        turn += 1
    return _finished(base, head, done, wanted)


def _finished(base: Side, head: Side, done: int, wanted: int) -> Alternated:
    before, after = base.run(), head.run()
    if before is None or after is None:
        raise errors.no_turn_in_time()
    return Alternated(before, after, done, wanted)


def _known_options(side: Side) -> set[str]:
    """The options of its `profile`. Raises `LipbenchError` where there is no lipbench, or one without a requested option."""
    try:
        done = subprocess.run(
            side.command("profile", "--help"), cwd=side.folder, env=side.variables, capture_output=True, text=True,
            timeout=PROBE_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise errors.no_other_version(side.python, str(error)) from error
    if done.returncode:
        raise errors.no_other_version(side.python, traces.last_line(done.stderr) or f"exit code {done.returncode}")
    known = set(re.findall(r"--[a-z][a-z-]*", done.stdout))
    wanted = [*(one.partition("=")[0] for one in side.arguments if one.startswith("--")), "--resume", "--rounds", "--out"]
    if missing := [option for option in wanted if option not in known]:
        raise errors.option_of_one_version(side.name, side.python, missing)
    return known


def _measure(side: Side, turn: int, deadline: float | None, further: Sequence[str]) -> None:
    """Measure one round of all cases of a version, with what else is missing in its run."""
    left = () if deadline is None else ("--deadline", f"{max(0.001, deadline - time.monotonic()):.3f}")
    command = side.command(
        "profile", *side.arguments, "--resume", "--out", str(side.directory), "--rounds", str(turn), *further, *left
    )
    # In a session of its own, so that it gets Ctrl-C once: from here.
    process = subprocess.Popen(
        command, cwd=side.folder, env=side.variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True, preexec_fn=_end_with_parent(),
    )  # fmt: skip
    try:
        stderr = process.communicate()[1]
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if process.returncode not in (0, FAILED):
        said = traces.last_line(stderr) if process.returncode > 0 else ""  # a killed one may have told its progress
        raise errors.version_failed(side.name, said or f"exit code {process.returncode}")
    found = side.run()
    if found is not None and found.unreadable:
        raise errors.unreadable_version(side.name, found.unreadable[0])


def _end_with_parent() -> Callable[[], object] | None:
    """What the new process calls first, so that it stops as after Ctrl-C when this process is killed."""
    if sys.platform != "linux":
        return None
    PR_SET_PDEATHSIG = 1
    return functools.partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGINT)


# ------------------------------------------------------------------------------------------------------------- the options


def kept(arguments: Sequence[str], dropped: Mapping[str, int]) -> tuple[str, ...]:
    """The arguments of a command line without some options: name → number of values."""
    found, left = [], iter(arguments)
    for one in left:
        name, joined, _ = one.partition("=")
        if name not in dropped:
            found.append(one)
        elif dropped[name] and not joined:
            next(left, None)
    return tuple(found)


def new_folder(out: Path, *, resume: bool) -> Path:
    """The folder of both runs, as an absolute path. Raises `LipbenchError` for one that is not empty, unless resumed."""
    path = Path(os.path.abspath(out))
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not resume and any(not is_own_trace(entry.name) for entry in path.iterdir()):
            raise errors.run_exists(out)
    except OSError as error:
        raise errors.not_writable(out, error.strerror or str(error)) from error
    return path


def other_interpreter(python: str) -> str:
    """The path of an interpreter. Raises `LipbenchError` if there is none."""
    found = shutil.which(python)
    if found is None:
        raise errors.no_other_version(python, "no such program")
    return os.path.abspath(found)  # links stay: that of a virtual environment says which one it is


def without_python_path(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of another interpreter, which has packages of its own."""
    return {name: value for name, value in variables.items() if name not in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")}


def told(turns: int, wanted: int) -> Iterator[str]:
    """A line where the deadline ended the last turns."""
    if turns < wanted:
        yield f"{turns} of {wanted} turns measured at the deadline; continue with the same command and --resume"
