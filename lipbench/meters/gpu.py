"""What NVML says of the GPU: who else computes on it, how fast it is clocked and why, and how much memory a process has.

A virtual or partitioned GPU, a container and an older driver may each refuse any question. The answer is None then, and nothing
is raised: a measurement does not fail because nobody could look on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from lipbench.quantities import Caution, Contention

CLOCK_LIMIT = 0.75
"""smallest share of its maximum that the GPU's clock may have, unless the GPU itself is why it has less"""
CLOCK_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power limit", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "temperature", 0x40: "temperature", 0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
"""bit of NVML's clocks event reasons (nvml.h, `nvmlClocksEventReason…`, of older drivers `…ThrottleReason…`) → what it says"""
HARDWARE_SLOWDOWN, HARDWARE_CAUSES = 0x8, 0x40 | 0x80
"""a reason, and those that say what it comes from"""
SLOWDOWNS = ("temperature", "hardware slowdown", "power brake")
"""nobody else's doing, but no state of the card in which to measure"""
OWN_LIMITS = ("application clocks", "power limit", *SLOWDOWNS)
"""of this card alone; in the others the work has ended, or another GPU or a display sets the clock"""
NOT_AVAILABLE = 2**64 - 1
"""what NVML gives for a number of bytes that it does not know"""

Question = Callable[[Any, Any], Any]
"""asked of `pynvml` and the GPU's handle"""


def _ask_nvml(*questions: Question) -> list[Any]:
    """The answer to each question about PyTorch's current GPU, in order; None where NVML or the answer is missing.

    The device is found by its UUID, because `CUDA_VISIBLE_DEVICES` renumbers devices for CUDA but not for NVML.
    """
    unknown = [None] * len(questions)
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or a driver that is not NVIDIA's
        return unknown
    try:
        handle = _handle(pynvml)
        return [_answer(question, pynvml, handle) for question in questions] if handle is not None else unknown
    finally:
        with suppress(Exception):
            pynvml.nvmlShutdown()


def _handle(nvml: Any) -> Any:
    """Of PyTorch's current GPU; None where it is unknown. CUDA gives a whole GPU and a part of one (MIG) without the prefix."""
    uuid = read_uuid()
    for name in (f"GPU-{uuid}", f"MIG-{uuid}", uuid) if uuid else ():
        with suppress(Exception):
            return nvml.nvmlDeviceGetHandleByUUID(name)
    return None


def _answer(question: Question, nvml: Any, handle: Any) -> Any:
    try:
        return question(nvml, handle)
    except Exception:  # a virtual or partitioned GPU may refuse any question, and an older library or driver may not know it
        return None


@dataclass(frozen=True)
class Use:
    """Who else computes on the GPU, and how fast it is clocked; None where NVML cannot tell."""

    processes: int | None = None
    """others than this one"""
    clock_share: float | None = None
    """SM clock ÷ its maximum"""
    clock_limited_by: tuple[str, ...] = ()
    """values of `CLOCK_REASONS`"""

    @property
    def shows_others(self) -> bool:
        """Whether somebody else computes there, or the clock is low and nothing that the GPU says of itself is why."""
        low = self.clock_share is not None and self.clock_share < CLOCK_LIMIT
        return (self.processes or 0) > 0 or (low and not {"idle", *OWN_LIMITS}.intersection(self.clock_limited_by))


def read_use() -> Use:
    """What NVML says of the GPU now."""
    # The clock first: it falls soon after the work has ended.
    share, reasons, processes = _ask_nvml(_clock_share, _clock_reasons, _other_processes)
    return Use(processes, share, reasons or ())


def _clock_share(nvml: Any, handle: Any) -> float:
    now = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
    return float(now) / float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))


def _clock_reasons(nvml: Any, handle: Any) -> tuple[str, ...]:
    """Each once, in the order of `CLOCK_REASONS`. Drivers before 535 know the question by its older name alone."""
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        with suppress(Exception):
            found = int(getattr(nvml, name)(handle))
            if found & HARDWARE_CAUSES:
                found &= ~HARDWARE_SLOWDOWN
            return tuple(dict.fromkeys(text for bit, text in CLOCK_REASONS.items() if found & bit))
    return ()


def _other_processes(nvml: Any, handle: Any) -> int | None:
    """Those that compute. What only draws is not counted: the display of a workstation is always there.

    In a container NVML gives process ids of the host, so this process cannot always be told by its id. It has a context on
    the device, so where any process is listed, one of them is this one; where none is, NVML does not see into the container.
    """
    listed = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return listed - 1 if listed else None


def clock_warnings(seen: Mapping[str, Contention | None]) -> Iterator[Caution]:
    """What the GPU's own reasons for a low clock make of the times of phases, a warning for each reason; phase → `Contention`.

    A slowdown by temperature is worth a line at any clock, the others where the clock is below `CLOCK_LIMIT`. A clock that
    falls because the work has ended says nothing of the work.
    """
    shares: dict[str, dict[str, float]] = {}
    for phase, found in seen.items():
        if found is None or found.gpu_clock_share is None:
            continue
        for reason in found.gpu_clock_limited_by:
            if reason == "temperature" or (reason in OWN_LIMITS and found.gpu_clock_share < CLOCK_LIMIT):
                shares.setdefault(reason, {})[phase] = found.gpu_clock_share
    for reason, by_phase in shares.items():
        state = f"the GPU's {reason} held its clock at {min(by_phase.values()):.0%} of the maximum during {', '.join(by_phase)}"
        if reason in SLOWDOWNS:
            do = "see to its cooling and power, and measure again"
        else:
            do = "the times hold for this setting of the card alone"
        yield Caution("low_clock", tuple(by_phase), f"{state}; {do}")


def read_process_bytes() -> int | None:
    """GPU memory of this process by NVML, what PyTorch's allocator does not see included; None where NVML cannot tell."""
    answer: int | None = _ask_nvml(_own_bytes)[0]
    return answer


def _own_bytes(nvml: Any, handle: Any) -> int | None:
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    own = [process for process in processes if process.pid == os.getpid()]
    if not own and len(processes) == 1:
        own = processes  # in a container, under the host's process id
    used = own[0].usedGpuMemory if own else None
    return None if used is None or used >= NOT_AVAILABLE else int(used)


def read_driver() -> str | None:
    """Version of the driver; None where NVML cannot tell."""
    found = _ask_nvml(lambda nvml, handle: nvml.nvmlSystemGetDriverVersion())[0]
    return found.decode() if isinstance(found, bytes) else found


def read_uuid() -> str | None:
    """Of PyTorch's current GPU; None where PyTorch does not give it."""
    try:
        return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) or None
    except (AssertionError, AttributeError, RuntimeError):  # no GPU, or none that says so
        return None
