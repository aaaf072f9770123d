"""The machine that a round runs on, and its use by other processes during the round."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from lipbench import errors
from lipbench.meters import gpu, heap
from lipbench.quantities import FREED_MEMORY, Contention, Machine

FOREIGN_LIMIT = 0.05
"""largest share of all cores that other processes may use while a phase is timed"""
_backends: Any = torch.backends  # attributes are made when torch is imported, so type checkers do not see them
_cudnn: Any = torch.backends.cudnn
PACKAGES = ("lipbench", "numpy", "torch", "triton", "fvcore", "nvidia-ml-py")


# ----------------------------------------------------------------------------------------------------------------- the use


@dataclass(frozen=True)
class CpuTimes:
    """Busy seconds of all cores together since the machine started."""

    busy_s: float
    cores: int
    resolution_s: float


def read_cpu_times(path: Path = Path("/proc/stat")) -> CpuTimes:
    """CPU time of all processes, from `/proc/stat`, or from psutil where there is no such file.

    Guest time is not added, since user time includes it, nor is time spent waiting for disks, since the core is idle then.
    """
    resolution_s = 1 / os.sysconf("SC_CLK_TCK")
    try:
        lines = path.read_text().splitlines()
    except OSError:
        times = psutil.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return CpuTimes(busy, psutil.cpu_count() or 1, resolution_s)
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in lines[0].split()[1:9])
    cores = sum(line.startswith("cpu") for line in lines) - 1
    return CpuTimes((user + nice + system + irq + softirq + steal) * resolution_s, cores, resolution_s)


@dataclass(frozen=True)
class OwnUse:
    """CPU time and context switches of this process so far, all its threads together."""

    cpu_s: float
    involuntary_switches: int


def read_own_use() -> OwnUse:
    """CPU time and involuntary context switches of this process."""
    use = resource.getrusage(resource.RUSAGE_SELF)
    return OwnUse(use.ru_utime + use.ru_stime, use.ru_nivcsw)


class Watch:
    """Context manager that records the use of the machine within its block; `contention` has the result after the block.

    `Contention.contended` says that a limit was exceeded in this attempt; the meter of time makes a second attempt.
    The operating system counts in ticks, so the first tick does not count as time of other processes.
    """

    contention: Contention

    def __init__(
        self,
        device: str,
        threads: int,
        read_cpu: Callable[[], CpuTimes] = read_cpu_times,
        read_own: Callable[[], OwnUse] = read_own_use,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._threads = device, threads
        self._read_cpu, self._read_own, self._clock = read_cpu, read_own, clock

    def __enter__(self) -> Watch:
        self._start = self._clock(), self._read_cpu(), self._read_own()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        wall_start, cpu_start, own_start = self._start
        # The GPU is read first, since its clock falls soon after the work has ended.
        on_gpu = gpu.read_use() if self._device == "cuda" else gpu.Use()
        own, cpu, wall = self._read_own(), self._read_cpu(), self._clock()
        wall_s = max(wall - wall_start, 1e-9)
        own_s = own.cpu_s - own_start.cpu_s
        foreign_s = max(0.0, cpu.busy_s - cpu_start.busy_s - own_s - cpu.resolution_s)
        foreign_share = foreign_s / (wall_s * cpu.cores)
        self.contention = Contention(
            own_share=own_s / (wall_s * self._threads),
            foreign_share=foreign_share,
            involuntary_switches=own.involuntary_switches - own_start.involuntary_switches,
            gpu_processes=on_gpu.processes,
            gpu_clock_share=on_gpu.clock_share,
            gpu_clock_limited_by=on_gpu.clock_limited_by,
            contended=foreign_share > FOREIGN_LIMIT or on_gpu.shows_others,
        )


# ------------------------------------------------------------------------------------------------------------ the machine


def set_precision(precision: str) -> None:
    """Set the precision of PyTorch's float32 matrix products and convolutions on a GPU: tf32 for 'tf32', else ieee."""
    allowed = precision == "tf32"  # only Triton kernels have tf32x3
    # These are the older settings, which also set the newer ones (fp32_precision). After a write to the newer ones, the older
    # ones cannot be read any more, and the autotuning of torch's compiler reads them.
    _backends.fp32_precision = "none" if allowed else "ieee"  # the default for everything that the other settings leave open
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _tf32_allowed() -> tuple[bool, bool]:
    """Whether matrix products and convolutions may now use tf32; by the newer settings, which can always be read."""
    return torch.backends.cuda.matmul.fp32_precision == "tf32", _cudnn.conv.fp32_precision == "tf32"


@contextmanager
def exact_products() -> Iterator[None]:
    """Within the block, PyTorch's float32 products are ieee, for any setting: bounds do not hold in tf32."""
    before, rest = _tf32_allowed(), _backends.fp32_precision
    set_precision("ieee")
    try:
        yield
    finally:
        _backends.fp32_precision = rest
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def device_of(name: str) -> str:
    """The device, 'cpu' or 'cuda', that 'auto', 'cpu' or 'cuda' means here.

    Raises `LipbenchError` for a GPU where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise errors.no_cuda()
    return ("cuda" if has_gpu else "cpu") if name == "auto" else name


def describe(device: str, threads: int) -> Machine:
    """Hardware, software and active flags. `device` is 'cpu' or 'cuda'; unknown values are None or ''."""
    interpreter = {"triton": "interpreter"} if os.environ.get("TRITON_INTERPRET") == "1" else {}
    return Machine(
        hostname=platform.node(),
        system=f"{platform.system()} {platform.release()}",
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        python=platform.python_version(),
        torch=torch.__version__,
        packages=_versions(),
        commit=_commit(),
        flags=_flags(threads) | interpreter | ({} if device == "cuda" else {FREED_MEMORY: heap.freed_memory()}),
        **(_describe_gpu() if device == "cuda" else {}),
    )


def _describe_gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "gpu": properties.name,
        "gpu_memory_bytes": properties.total_memory,
        "gpu_l2_bytes": getattr(properties, "L2_cache_size", None),  # not in every build
        "gpu_uuid": gpu.read_uuid(),
        "driver": gpu.read_driver(),
        "cuda": torch.version.cuda,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Commit of the checkout that this code runs from, followed by '+' if files were changed; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True).stdout
        command = [*git, "status", "--porcelain", "--untracked-files=no"]
        changes = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")


def _flags(threads: int) -> dict[str, str]:
    """Settings that affect speed or precision, as text."""
    matmul, convolution = ("tf32" if allowed else "ieee" for allowed in _tf32_allowed())
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "threads": str(threads),
        "torch_threads": str(torch.get_num_threads()),
        "affinity_cores": str(affinity),
        "matmul_precision": matmul,
        "convolution_precision": convolution,
        "cudnn_benchmark": str(torch.backends.cudnn.benchmark),
        "cudnn_deterministic": str(torch.backends.cudnn.deterministic),
        "deterministic_algorithms": str(torch.are_deterministic_algorithms_enabled()),
        **backends(),
    }


def backends() -> dict[str, str]:
    """The libraries that compute linear algebra: on a CPU, and on a GPU where this PyTorch has been built for one."""
    built = dict(re.findall(r"\b(BLAS_INFO|LAPACK_INFO)=(\w+)", torch.__config__.show()))
    found = {
        "blas": built.get("BLAS_INFO", "unknown"), "lapack": built.get("LAPACK_INFO", "unknown"),
        "onednn": "yes" if _backends.mkldnn.is_available() else "no",
    }  # fmt: skip
    if torch.version.cuda:
        found["magma"] = "yes" if torch.cuda.has_magma else "no"
        preferred = torch.backends.cuda.preferred_linalg_library()
        found["gpu_linear_algebra"] = str(preferred).rpartition(".")[2].lower()  # default, cusolver or magma
    return found
