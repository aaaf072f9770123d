"""Measures one round of a case in fresh processes. Crashes and time-outs there become statuses of the `Round`."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lipbench import cases, errors
from lipbench.cases import Case, Limits
from lipbench.cores import usable_cores
from lipbench.quantities import ESTIMATED, PARTS
from lipbench.run import failures
from lipbench.run.executor import Place, Wanted
from lipbench.run.processes import Ending, Processes
from lipbench.store.records import round_from_dict
from lipbench.store.rounds import Part, Round, not_ok, summed_up

SURVEY_TIMEOUT_S = 300.0


def run_round(processes: Processes, case: Case, limits: Limits, parts: Sequence[str], failed: Collection[str] = ()) -> Round:
    """Measure parts of a case in one fresh process; if it dies, measure the remaining parts in another.

    Parts that have `failed` before are left out of other parts: memory is measured without failed training. Never raises for
    failures in the child: they become statuses of parts.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    found, left = Round("ok"), tuple(parts)
    while left:
        remaining_s = limits.timeout_s - (time.monotonic() - clock)
        if remaining_s <= 0:
            late = {name: Part("timeout", _late(limits.timeout_s, "not started")) for name in left}
            found = summed_up(replace(found, parts={**found.parts, **late}))
            break
        bad = {*failed, *not_ok(found.parts)}
        question = {"case": cases.to_dict(case), "limits": asdict(limits), "parts": left, "failed": sorted(bad)}
        killed_before = killed_for_memory()
        ending = processes.ask(question, remaining_s, case.threads)
        one, rest = judge(ending, limits, killed_for_memory() > killed_before)
        if one.machine:
            one = replace(one, machine=replace(one.machine, flags={**one.machine.flags, "process": ending.fresh}))
        found = _joined(found, one)
        if not one.parts or len(rest) >= len(left):  # no part could start, and another child would not change that
            found = _without_answer(found, one, left)
            break
        left = rest
    return replace(found, started=started.isoformat(timespec="seconds"), duration_s=round(time.monotonic() - clock, 3))


def survey(processes: Processes, wanted: Wanted) -> Place:
    """Survey this machine from a fresh process with the threads of the cases, if known; see `Executor.survey`."""
    ending = processes.ask(asdict(wanted), SURVEY_TIMEOUT_S, wanted.threads or usable_cores())
    ending.raise_refusal()
    found = ending.answer or {}
    device, gpu, cores = found.get("device"), found.get("gpu"), found.get("cores")
    if device not in ("cpu", "cuda") or not isinstance(gpu, str | None) or not isinstance(cores, int):
        raise errors.survey_failed(_late(SURVEY_TIMEOUT_S, "no result") if ending.timed_out else ending.reason)
    lacking = tuple((str(method), str(name)) for method, name in found.get("lacking", ()))
    return Place(device, gpu, cores, processes.fresh, lacking)


def judge(ending: Ending, limits: Limits, for_memory: bool) -> tuple[Round, tuple[str, ...]]:
    """The results of a child, including a status for the part that killed it, and the parts left for another child."""
    reported = _reported(ending.answer)
    if reported is None:
        failed = death(ending, limits.timeout_s, for_memory)
        return Round(failed.status, failed.reason, traceback=failed.traceback), ()
    one, doing, left = reported
    if doing is not None:
        one = summed_up(replace(one, parts={**one.parts, doing: death(ending, limits.timeout_s, for_memory)}))
    return one, left


def _reported(answer: dict[str, Any] | None) -> tuple[Round, str | None, tuple[str, ...]] | None:
    """The answer that `child` wrote; None for anything else, which a layer may have written instead."""
    if answer is None or set(answer) != {"round", "doing", "left"}:
        return None
    doing, left = answer["doing"], answer["left"]
    known = (*PARTS, *ESTIMATED)
    if not (doing is None or doing in known) or not isinstance(left, list) or not all(name in known for name in left):
        return None
    with contextlib.suppress(TypeError, ValueError):
        return round_from_dict(answer["round"]), doing, tuple(left)
    return None


def death(ending: Ending, timeout_s: float, for_memory: bool) -> Part:
    """Status and reason of a child that did not finish; `for_memory`: the kernel has killed some process to free memory."""
    if ending.timed_out:
        return Part("timeout", _late(timeout_s, "no result"))
    if ending.code == -signal.SIGKILL and for_memory:
        return Part("out_of_memory", "killed by the kernel because memory ran out")
    status = "crashed" if ending.code < 0 else "raised"
    return Part("out_of_memory" if failures.is_out_of_memory(ending.stderr) else status, ending.reason)


def _late(timeout_s: float, what: str) -> str:
    return f"{what} within {timeout_s:g} s; raise --timeout"


def _without_answer(found: Round, last: Round, left: Collection[str]) -> Round:
    """A round whose `left` parts get the status of the last child, which reached none of them."""
    if not found.parts or last.parts:
        return found
    ended = Part(last.status, last.reason, last.traceback)
    return summed_up(replace(found, parts={**found.parts, **dict.fromkeys(left, ended)}))


def _joined(one: Round, other: Round) -> Round:
    """The combined results of two children, which measured different parts of one case; the second ran after the first died."""
    if not one.parts and one.status == "ok":
        return other
    if not other.parts and other.status != "ok":
        return one  # the first child could build the case
    phases = {**(one.phases or {}), **(other.phases or {})}
    return summed_up(replace(
        one, parts={**one.parts, **other.parts}, phases=phases or None, memory=one.memory or other.memory,
        macs=one.macs or other.macs, certificate=one.certificate or other.certificate, tuned={**one.tuned, **other.tuned},
        estimate=one.estimate or other.estimate,
        warnings=tuple(dict.fromkeys((*one.warnings, *other.warnings))), machine=one.machine or other.machine,
    ))  # fmt: skip


def killed_for_memory() -> int:
    """Number of processes that the kernel has killed for lack of memory: the sum of the machine's and the cgroup's counters."""
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
    """Files with the kernel's out-of-memory counters of this process's control group, for cgroup versions 1 and 2."""
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
