"""One case and round, one fresh process: whatever happens to it becomes a `Round`, and the program goes on.

The parent imports no torch. Run as `python -m lipbench.isolate ANSWER PARENT`, this module is the child: it takes one question
as JSON on stdin and writes the answer to the file ANSWER, unless the process PARENT has ended. Other modules put questions to
children of their own by `ask` and `serve`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case, Limits
from lipbench.files import load_json, write_file
from lipbench.records import Round, round_from_dict, round_to_dict

STDERR_TAIL_BYTES = 8192
REASON_CHARACTERS = 500
OUT_OF_MEMORY_SIGNS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "outofmemoryerror", "memoryerror", "bad_alloc",
    "failed to map segment", "alloc_failed", "thread creation failed", "unable to allocate",
)  # fmt: skip
"""How PyTorch, CUDA libraries, the dynamic loader and the C++ runtime say that memory is used up."""
SURVEY_TIMEOUT_S = 300.0
LONGEST_WAIT_S = 1e6
"""the operating system takes no time-out of over 24 days"""


# ------------------------------------------------------------------------------------------------------------- the parent


def run_round(case: Case, limits: Limits, first: bool) -> Round:
    """Measure one round of a case in a fresh process. Never raises for what happens there: that is the round's status."""
    started, clock = datetime.now(UTC), time.monotonic()
    question = {"case": cases.to_dict(case), "limits": asdict(limits), "first": first}
    killed_before = _killed_for_memory()
    ending = ask("lipbench.isolate", question, limits.timeout_s, _threads(case.threads))
    one = judge(ending, limits, _killed_for_memory() > killed_before)
    return replace(one, started=started.isoformat(timespec="seconds"), duration_s=round(time.monotonic() - clock, 3))


def survey(methods: Sequence[str], implementations: Sequence[str], device: str) -> str:
    """Whether the names exist, and which device 'auto' means: 'cpu' or 'cuda'; asked in a process of its own.

    Raises `LipbenchError` for a method or implementation that nobody has, a class that cannot be imported, and for 'cuda'
    where there is none.
    """
    question = {"methods": list(methods), "implementations": list(implementations), "device": device}
    ending = ask("lipbench.isolate", question, SURVEY_TIMEOUT_S)
    if ending.answer is None:
        raise errors.survey_failed(ending.reason)
    if "error" in ending.answer:
        raise errors.LipbenchError(ending.answer["error"])
    return str(ending.answer["device"])


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    code: int
    """exit code; negative: the signal that ended it"""
    timed_out: bool
    answer: dict[str, Any] | None
    stderr: str
    """its last lines"""

    @property
    def reason(self) -> str:
        """How a child without an answer ended, and the last line that it said."""
        how = f"ended by {_signal_name(-self.code)}" if self.code < 0 else f"ended with exit code {self.code} and no result"
        last = _last_line(self.stderr)
        return f"{how}: {last}" if last else how


def _threads(threads: int) -> dict[str, str]:
    # Read once by the libraries, when they are loaded; torch.set_num_threads is never called.
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def ask(module: str, question: dict[str, Any], timeout_s: float, settings: Mapping[str, str] | None = None) -> Ending:
    """Put a question to a fresh process that runs `module`, whose `__main__` calls `serve`; `settings` add to its environment.

    No folder is put before the installed packages (PYTHONSAFEPATH): what lies in the current one shadows nothing.
    """
    with tempfile.TemporaryDirectory(prefix="lipbench-") as directory, tempfile.TemporaryFile() as stderr:
        # Read through what is open here: a layer gone wrong may empty any directory it finds.
        answer, scratch = Path(directory, "answer.json"), Path(directory, "scratch")
        scratch.mkdir()  # what a child leaves in its temporary folder, compiled code for one, goes when this ends
        child = subprocess.Popen(
            [sys.executable, "-m", module, str(answer), str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            env={**os.environ, **(settings or {}), "PYTHONSAFEPATH": "1", "TMPDIR": str(scratch)},
        )  # fmt: skip
        timed_out = False
        try:
            child.communicate(json.dumps(question).encode(), timeout=min(timeout_s, LONGEST_WAIT_S))
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            # Also what the child started itself, and also when the parent is interrupted.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - STDERR_TAIL_BYTES))
        return Ending(child.returncode, timed_out, _read_answer(answer), stderr.read().decode(errors="replace"))


def _read_answer(path: Path) -> dict[str, Any] | None:
    # Written whole or not at all by `serve`; anything else that is found there was written by a layer.
    try:
        return load_json(path)
    except errors.LipbenchError:
        return None


def judge(ending: Ending, limits: Limits, killed_for_memory: bool) -> Round:
    """The status of a child, from how it ended."""
    if ending.timed_out:
        return Round("timeout", f"no result within {limits.timeout_s:g} s; allow more by --timeout")
    if ending.answer is not None:
        with contextlib.suppress(TypeError, ValueError):  # what is no round was not answered by `serve`
            return round_from_dict(ending.answer)
    if ending.code == -signal.SIGKILL and killed_for_memory:
        return Round("out_of_memory", "killed by the kernel, which had no memory left")
    status = "crashed" if ending.code < 0 else "raised"
    return Round("out_of_memory" if _is_out_of_memory(ending.stderr) else status, ending.reason)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    return lines[-1][:REASON_CHARACTERS] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_out_of_memory(text: str) -> bool:
    lowered = text.lower()
    return any(sign in lowered for sign in OUT_OF_MEMORY_SIGNS)


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


# -------------------------------------------------------------------------------------------------------------- the child


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The child: answer one question and end."""
    _end_with_parent(int(sys.argv[2]))
    write_file(Path(sys.argv[1]), json.dumps(answer(json.load(sys.stdin))))


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    return _survey(question) if "methods" in question else round_to_dict(_measure(question))


def _end_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent dies, so that none is left to disturb a resumed run."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # before that was asked of the kernel
        raise SystemExit("the parent has ended")


def _measure(question: dict[str, Any]) -> Round:
    """The round; what is raised on the way becomes its status."""
    try:
        case, limits = cases.from_dict(question["case"]), Limits(**question["limits"])
        if limits.memory_bytes is not None:
            _limit_memory(case.device, limits.memory_bytes)
        from lipbench import measure

        return measure.measure(case, limits, question["first"])
    except errors.LipbenchError as error:
        return Round("unsupported", str(error))
    except BaseException as error:  # a layer of somebody else's may raise anything, SystemExit too
        text = f"{type(error).__name__}: {_last_line(str(error))}".removesuffix(": ")
        return Round("out_of_memory" if _is_out_of_memory(f"{type(error).__name__}: {error}") else "raised", text)


def _limit_memory(device: str, memory_bytes: int) -> None:
    """Address space on a CPU; on a GPU, where mapped addresses say nothing, what PyTorch's allocator may hand out."""
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        return
    import torch

    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total))


def _survey(question: dict[str, Any]) -> dict[str, str]:
    """`{"device": …}`, or `{"error": …}` with the line to print."""
    import torch

    from lipbench import registry

    try:
        for name in question["methods"]:
            registry.title(name)  # raises for a name that nobody has
        known = [registry.find(name) for name in question["methods"] if not registry.is_external(name)]
        offered = {"paper", *(implementation for method in known for implementation in method.implementations)}
        for implementation in question["implementations"]:
            if implementation not in offered:
                raise errors.unknown_choice("implementation", implementation, offered)
        device = question["device"]
        if device == "cuda" and not torch.cuda.is_available():
            raise errors.no_cuda()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        for implementation in question["implementations"]:
            registry.check_device(implementation, device)
    except errors.LipbenchError as error:
        return {"error": str(error)}
    return {"device": device}


if __name__ == "__main__":
    serve(_answer)
