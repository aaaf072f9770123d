"""GPU state from NVML: other processes that compute, the clock and the reasons for it, and the memory of a process.

A virtual or partitioned GPU, a container and an older driver may each refuse any query. The answer is then None, and nothing is
raised: a measurement does not fail because this information is missing.
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
"""smallest allowed ratio of the GPU's clock to its maximum, unless the GPU itself lowered the clock"""
CLOCK_REASONS = {
    0x1: "idle", 0x2: "application clocks", 0x4: "power limit", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "temperature", 0x40: "temperature", 0x80: "power brake", 0x100: "display clocks",
}  # fmt: skip
"""bit of NVML's clocks event reasons (nvml.h, `nvmlClocksEventReason…`, in older drivers `…ThrottleReason…`) → its meaning"""
HARDWARE_SLOWDOWN, HARDWARE_CAUSES = 0x8, 0x40 | 0x80
"""the bit of a hardware slowdown, and the bits that give its cause"""
SLOWDOWNS = ("temperature", "hardware slowdown", "power brake")
"""reasons that no other process causes, but with which the GPU should not be measured"""
OWN_LIMITS = ("application clocks", "power limit", *SLOWDOWNS)
"""reasons of this GPU alone; with the other reasons, the work has ended, or another GPU or a display sets the clock"""
NOT_AVAILABLE = 2**64 - 1
"""NVML's value for an unknown number of bytes"""

Question = Callable[[Any, Any], Any]
"""a query; its arguments are `pynvml` and the GPU's handle"""


def _ask_nvml(*questions: Question) -> list[Any]:
    """The answers to queries about PyTorch's current GPU, in order; None where NVML or the answer is missing.

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
    """Handle of PyTorch's current GPU; None where it is unknown. CUDA omits the prefix of the UUID: GPU, or MIG for a part."""
    uuid = read_uuid()
    for name in (f"GPU-{uuid}", f"MIG-{uuid}", uuid) if uuid else ():
        with suppress(Exception):
            return nvml.nvmlDeviceGetHandleByUUID(name)
    return None


def _answer(question: Question, nvml: Any, handle: Any) -> Any:
    try:
        return question(nvml, handle)
    except Exception:  # a virtual or partitioned GPU may refuse any query, and an older library or driver may not know it
        return None


@dataclass(frozen=True)
class Use:
    """Other processes on the GPU, and its clock; None where NVML does not report a value."""

    processes: int | None = None
    """number of other processes that compute"""
    clock_share: float | None = None
    """SM clock ÷ its maximum"""
    clock_limited_by: tuple[str, ...] = ()
    """values of `CLOCK_REASONS`"""

    @property
    def shows_others(self) -> bool:
        """Whether another process computes there, or the clock is low and the GPU reports no reason of its own for that."""
        low = self.clock_share is not None and self.clock_share < CLOCK_LIMIT
        return (self.processes or 0) > 0 or (low and not {"idle", *OWN_LIMITS}.intersection(self.clock_limited_by))


def read_use() -> Use:
    """The present use of the GPU by NVML."""
    # The clock is read first, since it falls soon after the work has ended.
    share, reasons, processes = _ask_nvml(_clock_share, _clock_reasons, _other_processes)
    return Use(processes, share, reasons or ())


def _clock_share(nvml: Any, handle: Any) -> float:
    now = nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)
    return float(now) / float(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))


def _clock_reasons(nvml: Any, handle: Any) -> tuple[str, ...]:
    """Reasons for the clock, each once, in the order of `CLOCK_REASONS`. Drivers before 535 know only the older function."""
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        with suppress(Exception):
            found = int(getattr(nvml, name)(handle))
            if found & HARDWARE_CAUSES:
                found &= ~HARDWARE_SLOWDOWN
            return tuple(dict.fromkeys(text for bit, text in CLOCK_REASONS.items() if found & bit))
    return ()


def _other_processes(nvml: Any, handle: Any) -> int | None:
    """Number of other processes that compute. Graphics processes do not count: the display of a workstation is always there.

    In a container, NVML reports process ids of the host, so this process cannot always be found by its id. It has a context on
    the device: if any processes are listed, it is one of them; if none is listed, NVML does not see into the container.
    """
    listed = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return listed - 1 if listed else None


def clock_warnings(seen: Mapping[str, Contention | None]) -> Iterator[Caution]:
    """Warnings about phases during which the GPU lowered its clock, one for each reason; `seen` maps phase → `Contention`.

    A slowdown by temperature gives a warning at any clock, the other reasons only if the clock is below `CLOCK_LIMIT`. A clock
    that falls because the work has ended does not affect the times.
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
            do = "check its cooling and power, and measure again"
        else:
            do = "the times are valid only for this setting of the GPU"
        yield Caution("low_clock", tuple(by_phase), f"{state}; {do}")


def read_process_bytes() -> int | None:
    """GPU memory of this process, with memory that PyTorch's allocator does not see; None where NVML does not report it."""
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
    """Version of the driver; None where NVML does not report it."""
    found = _ask_nvml(lambda nvml, handle: nvml.nvmlSystemGetDriverVersion())[0]
    return found.decode() if isinstance(found, bytes) else found


@dataclass(frozen=True)
class State:
    """Present state of the GPU by NVML; None where that does not report a value."""

    driver: str | None
    clock_mhz: int | None
    most_clock_mhz: int | None
    power_w: float | None
    power_limit_w: float | None
    most_power_w: float | None
    """the limit that the GPU was made for"""
    celsius: int | None
    use: Use


def read_state() -> State:
    """The present state of the GPU by NVML."""
    clock, most_clock, power, limit, most_power, celsius = _ask_nvml(
        lambda nvml, handle: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        lambda nvml, handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        lambda nvml, handle: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        lambda nvml, handle: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        lambda nvml, handle: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1000,
        lambda nvml, handle: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    )
    return State(read_driver(), clock, most_clock, power, limit, most_power, celsius, read_use())


def read_uuid() -> str | None:
    """UUID of PyTorch's current GPU; None where PyTorch does not report it."""
    try:
        return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) or None
    except (AssertionError, AttributeError, RuntimeError):  # no GPU, or a GPU without a UUID
        return None
