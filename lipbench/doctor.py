"""What this machine is like, what will spoil a measurement on it, and how to cure that."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import torch

from lipbench.answer import Answer
from lipbench.cores import usable_cores
from lipbench.meters import gpu, machine
from lipbench.quantities import Machine

WATCH_S = 1.0
"""time for which the load is watched"""
STEAL_LIMIT = 0.01
"""share of the cores that a hypervisor may take"""
LEAST_FREE = 0.1
"""share of the memory that should be available"""
SPOILING = {
    "TRITON_INTERPRET": "Triton kernels run in its interpreter, which gives no times",
    "CUDA_LAUNCH_BLOCKING": "every launch on a GPU waits for its end",
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "every tensor on a GPU is allocated anew",
    "OMP_PROC_BIND": "threads are bound to cores, which several processes may then share",
    "KMP_AFFINITY": "threads are bound to cores, which several processes may then share",
    "GOMP_CPU_AFFINITY": "threads are bound to cores, which several processes may then share",
}
"""environment variable, where it is set and not 0 → what it changes"""


@dataclass(frozen=True)
class Finding:
    """One fact about the machine, and what is wrong with it, if anything."""

    topic: str
    value: str
    problem: str = ""
    """how it spoils a measurement; "" where it does not"""
    cure: str = ""


@dataclass(frozen=True)
class Load:
    """Use of the machine while nothing was measured."""

    foreign_share: float
    """CPU time of other processes ÷ (wall time × cores)"""
    steal_share: float
    busiest: tuple[str, ...] = ()
    """names of the processes that used most, each with its process id and its share of a core"""


def answer() -> Answer:
    """One row per fact; the answer failed if anything will spoil a measurement."""
    has_gpu = torch.cuda.is_available()
    found = [
        *of_load(watch()), *of_cpu(), *of_memory(psutil.virtual_memory().available, psutil.virtual_memory().total),
        *of_settings(os.environ), *(of_gpu(gpu.read_state()) if has_gpu else [Finding("GPU", "none that PyTorch sees")]),
        *of_software(machine.describe("cuda" if has_gpu else "cpu", torch.get_num_threads())),
    ]  # fmt: skip
    frame = pd.DataFrame(
        [(one.topic, one.value, "spoils" if one.problem else "ok", one.problem, one.cure) for one in found],
        columns=["topic", "value", "verdict", "problem", "cure"],
    )
    wrong = [one for one in found if one.problem]
    remarks = [f"{one.topic}: {one.problem}; {one.cure}" for one in wrong] or ["nothing was found that spoils a measurement"]
    return Answer(frame, frame[["topic", "value", "verdict"]], tuple(remarks), failed=bool(wrong))


def watch(seconds: float = WATCH_S) -> Load:
    """Watch the machine for some time, in which this process sleeps."""
    processes = {one.pid: one for one in psutil.process_iter(["name"]) if one.pid != os.getpid()}
    before = {pid: used for pid, one in processes.items() if (used := _used_s(one)) is not None}
    steal = getattr(psutil.cpu_times(), "steal", 0.0)
    with machine.Watch("cpu", 1) as watched:
        time.sleep(seconds)
    stolen = (getattr(psutil.cpu_times(), "steal", 0.0) - steal) / (seconds * (psutil.cpu_count() or 1))
    shares = {pid: (used - before[pid]) / seconds for pid in before if (used := _used_s(processes[pid])) is not None}
    busiest = sorted((pid for pid, share in shares.items() if share > machine.FOREIGN_LIMIT), key=shares.__getitem__)[:-4:-1]
    named = tuple(f"{processes[pid].info['name']} ({pid}, {shares[pid]:.0%} of a core)" for pid in busiest)
    return Load(watched.contention.foreign_share, max(0.0, stolen), named)


def _used_s(process: psutil.Process) -> float | None:
    """CPU time of a process so far; None if it has ended or may not be asked."""
    try:
        used = process.cpu_times()
    except psutil.Error:
        return None
    return float(used.user + used.system)


def of_load(load: Load) -> Iterator[Finding]:
    """Other processes, and a hypervisor."""
    value = f"other processes use {load.foreign_share:.1%} of the cores"
    if load.foreign_share > machine.FOREIGN_LIMIT:
        who = f": {', '.join(load.busiest)}" if load.busiest else ", which cannot be seen from here"
        problem = f"phases above {machine.FOREIGN_LIMIT:.0%} count as contended and are not ranked{who}"
        yield Finding("load", value, problem, "stop them, or measure when they are done")
    else:
        yield Finding("load", value)
    if load.steal_share > STEAL_LIMIT:
        yield Finding("hypervisor", f"takes {load.steal_share:.1%} of the cores",
                      "other virtual machines disturb the times", "use a machine with cores of its own")  # fmt: skip


def of_cpu(sysfs: Path = Path("/sys/devices/system/cpu")) -> Iterator[Finding]:
    """Cores and the governor of their clocks."""
    cores, present = usable_cores(), os.cpu_count() or 1
    yield Finding("cores", f"{cores} of {present} usable")
    governors = set()
    for file in sysfs.glob("cpu[0-9]*/cpufreq/scaling_governor"):
        try:
            governors.add(file.read_text().strip())
        except OSError:
            continue
    value = ", ".join(sorted(governors)) or "unknown (a virtual machine, or a system without this file)"
    if governors <= {"performance"}:
        yield Finding("CPU governor", value)
    else:
        yield Finding("CPU governor", value, "clocks rise only after work has begun, and differ between rounds",
                      "sudo cpupower frequency-set -g performance")  # fmt: skip
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is not None and not battery.power_plugged:
        yield Finding("power", "battery", "clocks are lowered to save power", "connect the machine to power")


def of_memory(available: int, total: int) -> Iterator[Finding]:
    """Memory that is free for a measurement."""
    value = f"{available / 1e9:.1f} of {total / 1e9:.1f} GB available"
    if available < LEAST_FREE * total:
        yield Finding("memory", value, "pages may be swapped out while a phase is timed", "end programs that hold memory")
    else:
        yield Finding("memory", value)


def of_settings(variables: Mapping[str, str]) -> Iterator[Finding]:
    """Numbers of threads, and settings of the environment that change times."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        yield Finding(name, f"{variables.get(name, 'not set')} (each round sets its own: --threads)")
    for name, problem in SPOILING.items():
        if variables.get(name, "0") not in ("", "0", "false", "disabled"):
            yield Finding(name, variables[name], problem, f"unset {name}")


def of_gpu(state: gpu.State) -> Iterator[Finding]:
    """Driver, clocks and the reasons for them, power and other processes."""
    use = state.use
    yield Finding("GPU driver", state.driver or "unknown: NVML does not answer")
    reasons = ", ".join(use.clock_limited_by)
    clock = f"{_number(state.clock_mhz)} of {_number(state.most_clock_mhz)} MHz{f' ({reasons})' if reasons else ''}"
    slow = [reason for reason in use.clock_limited_by if reason in gpu.SLOWDOWNS]
    low = use.clock_share is not None and use.clock_share < gpu.CLOCK_LIMIT
    if slow:
        yield Finding("GPU clock", clock, f"the GPU lowers its clock: {', '.join(slow)}", "check its cooling and power supply")
    elif low and "application clocks" in use.clock_limited_by:
        yield Finding("GPU clock", clock, "the clock is set to less than the maximum, so times are valid for this setting only",
                      "sudo nvidia-smi -rac, or report the clock with the times")  # fmt: skip
    else:
        yield Finding("GPU clock", clock)
    power = f"{_number(state.power_w)} W, limited to {_number(state.power_limit_w)} of {_number(state.most_power_w)} W"
    if state.power_limit_w and state.most_power_w and state.power_limit_w < 0.99 * state.most_power_w:
        yield Finding("GPU power", power, "long products reach the lowered power limit, and the clock falls",
                      f"sudo nvidia-smi -pl {state.most_power_w:.0f}, or report the limit with the times")  # fmt: skip
    else:
        yield Finding("GPU power", power)
    yield Finding("GPU temperature", f"{_number(state.celsius)} °C")
    if use.processes:
        yield Finding("GPU processes", f"{use.processes} others", "they share its time and memory",
                      "stop them, or choose another GPU with CUDA_VISIBLE_DEVICES")  # fmt: skip
    else:
        yield Finding("GPU processes", "unknown" if use.processes is None else "no others")


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}"


def of_software(found: Machine) -> Iterator[Finding]:
    """Versions, and the libraries that compute linear algebra."""
    yield Finding("machine", f"{found.hostname}, {found.gpu or found.cpu}, {found.system}")
    versions = {"python": platform.python_version(), **found.packages, "cuda": found.cuda or "none"}
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))
    for name in machine.backends():
        yield Finding(name.replace("_", " "), found.flags[name])
