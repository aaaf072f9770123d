"""Peak bytes of each phase, from the allocator's counters on a GPU and from its events on a CPU.

A total is the bytes held before any phase begins plus the bytes in use above them. Workspaces that PyTorch keeps for cuBLAS are
in no total: their size is the same for every method that multiplies matrices, and a thread's first product allocates them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from lipbench.meters import gpu
from lipbench.quantities import Peak

MARK = "lipbench: "
"""prefix of the marks that divide a profile into phases"""

Preparation = Callable[[], object]
Stage = tuple[str, Preparation, Callable[[], object]]
"""phase, its preparation, which does not count, and its call"""


# ------------------------------------------------------------------------------------------------------- peaks on a GPU


def on_cuda(stages: list[Stage], held_bytes: int, rest: Preparation) -> tuple[dict[str, Peak], int | None]:
    """Peaks from the counters of PyTorch's caching allocator, with the process's bytes by NVML; and bytes of kept workspaces.

    Every phase runs once before, to load kernels and to make workspaces, so that no measured pass makes them. A total is
    `held_bytes` plus the bytes in use above the state that `rest` leaves, in which the held bytes and the workspaces are in
    use. Unused blocks are released before each phase. Memory that cuDNN, cuFFT or cuSOLVER allocate and free within a call is
    part of the peak: the counters cannot separate it from other temporary tensors.
    """
    for _, prepare, run in stages:
        prepare()
        run()
    rest()
    at_rest_bytes = _settled_bytes()
    peaks = {}
    for phase, prepare, run in stages:
        prepare()
        baseline_bytes = _settled_bytes()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        highest_bytes = torch.cuda.max_memory_allocated()
        peaks[phase] = Peak(
            total_bytes=held_bytes + highest_bytes - at_rest_bytes,
            above_baseline_bytes=highest_bytes - baseline_bytes,
            reserved_bytes=torch.cuda.max_memory_reserved(),
            process_bytes=gpu.read_process_bytes(),
        )
    rest()
    return peaks, _kept_workspace_bytes()


def _settled_bytes() -> int:
    """Bytes in use after all work is done and garbage is collected."""
    gc.collect()
    torch.cuda.synchronize()
    return int(torch.cuda.memory_allocated())


def _kept_workspace_bytes() -> int | None:
    """Bytes that PyTorch keeps as workspaces of cuBLAS and cuBLASLt; None where PyTorch cannot free them on request.

    There is one workspace per stream and handle, and each thread has a handle: the backward pass, in its own thread, makes a
    second one. Their size is the bytes that freeing them releases; the next product makes them again. The difference between
    bytes in use and known tensors would be too large: it includes what a module keeps outside its parameters and buffers, and
    the unused rest of blocks, up to 1 MiB for large ones.
    """
    free: Callable[[], None] | None = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)  # private, and only with CUDA
    if free is None:
        return None
    before = _settled_bytes()  # after this, nothing uses the workspaces
    free()
    return before - int(torch.cuda.memory_allocated())


# ------------------------------------------------------------------------------------------------------ peaks on a CPU


def on_cpu(stages: list[Stage], held_bytes: int) -> dict[str, Peak]:
    """Peaks from the allocator's events, with all phases in one profile.

    `held_bytes` are the bytes in use before the profile begins. The profiler does not report that older blocks are freed, so
    sums of its events count only new blocks.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for phase, prepare, run in stages:
            prepare()
            gc.collect()
            with record_function(MARK + phase):
                run()
    events = _kineto_events(profiler)
    changes = [(event.start_ns(), event.nbytes()) for event in events if _is_cpu_allocation(event)]
    changes.sort(key=lambda change: change[0])  # by time only: events of the same time are already in order
    peaks = {}
    for event in events:
        if event.name().startswith(MARK):
            baseline, peak = _baseline_and_peak(changes, event.start_ns(), event.end_ns())
            peaks[event.name().removeprefix(MARK)] = Peak(held_bytes + peak, peak - baseline)
    return peaks


def _kineto_events(profiler: profile) -> list[Any]:
    """The raw events: only they have every allocation with its time; the public summary adds them up per operation."""
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    return list(results.events())


def _is_cpu_allocation(event: Any) -> bool:
    return bool(event.name() == "[memory]" and str(event.device_type()).endswith("CPU"))


def _baseline_and_peak(changes: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Bytes in use when a phase began, and peak bytes in use until it ended, both above the bytes before the profile.

    `changes` are times and bytes, in order of time; freed bytes are negative.
    """
    in_use = 0
    baseline = peak = None
    for moment, change in changes:
        if moment > end:
            break
        if moment >= start and baseline is None:
            baseline = peak = in_use
        in_use += change
        if peak is not None:
            peak = max(peak, in_use)
    if baseline is None or peak is None:
        return in_use, in_use  # nothing was allocated
    return baseline, peak
