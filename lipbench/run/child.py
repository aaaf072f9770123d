"""The child process of a round: it reads one question, and writes its results so far before it starts each part.

The process is forked by `forks`, or started as `python -m lipbench.run.child ANSWER PARENT` with the question as JSON on stdin.
Other modules use `serve` to answer questions in their own processes.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lipbench import cases, errors, traces
from lipbench.cases import Case, Limits
from lipbench.cores import usable_cores
from lipbench.run import failures
from lipbench.run.executor import Wanted
from lipbench.store.records import round_to_dict
from lipbench.store.rounds import Part, Round, summed_up

Tell = Callable[[dict[str, Any]], None]
"""writes an answer atomically, replacing the previous one"""


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer the question on stdin; for a process that `processes.ask` started."""
    end_with(int(sys.argv[2]))
    writer(Path(sys.argv[1]))(answer(json.load(sys.stdin)))


def writer(path: Path) -> Tell:
    """A function that writes answers to a file, in place of whatever is there."""

    def tell(answer: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        with temporary.open("x") as file:
            json.dump(answer, file)
        temporary.replace(path)

    return tell


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, so that it cannot disturb a resumed run."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call above
        raise SystemExit("the parent has ended")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose parent ends, so that none outlives its round."""
    if sys.platform == "linux":
        PR_SET_CHILD_SUBREAPER = 36
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_first() -> None:
    """Have the kernel choose this process, not its parent, when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def set_imports_aside() -> None:
    """Exclude all present objects from garbage collection, once: what imports create is never freed."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def answer(question: dict[str, Any], tell: Tell) -> None:
    """Answer a question from `isolate`, a survey or a round, or one from `apart`, which names the module that answers it."""
    die_first()
    if "module" in question:
        tell(_answered(question))
    elif "methods" in question:
        tell(_survey(question))
    else:
        _measure(question, tell)


def _answered(question: dict[str, Any]) -> dict[str, Any]:
    """`{"answer": …}` from the function `answer` of a module.

    Or `{"error": …}` for a `LipbenchError`, and `{"failed": …}` for another exception, both with its traceback.
    """
    try:
        return {"answer": importlib.import_module(question["module"]).answer(question)}
    except errors.LipbenchError as error:
        return {"error": traces.message(error), "traceback": traces.of_cause(error)}
    except BaseException as error:  # an external layer may raise anything, SystemExit too
        return {"failed": traces.line(error), "traceback": traces.text(error)}


def _measure(question: dict[str, Any], tell: Tell) -> None:
    """Report `{"round": …, "doing": …, "left": […]}` before every part, and after the last one.

    `doing` is the part that starts, or None; `left` are the parts after it. An exception before the first part becomes the
    status of the whole round.
    """

    reported: list[tuple[Round, str | None, tuple[str, ...]]] = []

    def note(one: Round, doing: str | None, left: tuple[str, ...]) -> None:
        reported[:] = [(one, doing, left)]
        tell({"round": round_to_dict(one), "doing": doing, "left": left})

    try:
        case, limits = cases.from_dict(question["case"]), Limits(**question["limits"])
        if limits.memory_bytes is not None:
            _limit_memory(case, limits.memory_bytes)
        from lipbench.run import measure

        set_imports_aside()
        measure.measure(case, limits, question["parts"], note, question["failed"])
    except BaseException as error:  # an external layer may raise anything, SystemExit too
        failed = failures.of_exception(error)
        known, doing, left = reported[0] if reported else (_unbuilt(failed), None, ())
        if doing is not None:  # an error that `measure` did not assign to the part: keep the results so far
            known = summed_up(replace(known, parts={**known.parts, doing: failed}))
        note(known, None, left)


def _unbuilt(failed: Part) -> Round:
    return Round(failed.status, failed.reason, traceback=failed.traceback)


def _limit_memory(case: Case, memory_bytes: int) -> None:
    """Limit the address space on a CPU; on a GPU, where mapped addresses mean little, the memory of PyTorch's allocator."""
    if case.device == "cpu":
        taken = _address_space_bytes()
        if taken > memory_bytes:
            raise MemoryError(f"{taken} bytes are mapped before the layer is built; raise --memory-limit")
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        return
    import torch

    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total))


def _address_space_bytes() -> int:
    """Mapped bytes of this process; 0 where the system does not report them."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _survey(question: dict[str, Any]) -> dict[str, Any]:
    """`{"device": …, "gpu": …, "cores": …, "lacking": …}`, as in `executor.Place`; or `{"error": …}` with the line to print."""
    from lipbench import registry
    from lipbench.run import survey

    wanted = Wanted(**question)
    try:
        device, gpu = survey.find_device(wanted)
        lacking = registry.lacking(wanted.methods, wanted.implementations)
    except errors.LipbenchError as error:
        return {"error": traces.message(error), "traceback": traces.of_cause(error)}
    except BaseException as error:  # an external module may raise anything while it is imported, SystemExit too
        return {"error": str(errors.survey_failed(traces.line(error))), "traceback": traces.text(error)}
    return {"device": device, "gpu": gpu, "cores": usable_cores(), "lacking": lacking}


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    answer(json.load(sys.stdin), writer(Path(sys.argv[1])))
