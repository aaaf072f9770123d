"""The most bytes in use during each phase, by the allocator's counters on a GPU and by its events on a CPU.

Totals are what is held before any phase begins, and what is in use above that. Workspaces that PyTorch keeps for cuBLAS are in
no total: they are of one size for every method that multiplies matrices, and come with the first product of a thread.
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
"""begins the names of the marks that divide a profile into phases"""

Preparation = Callable[[], object]
Stage = tuple[str, Preparation, Callable[[], object]]
"""phase, what comes before it and does not count, and the phase itself"""


# ------------------------------------------------------------------------------------------------------- peaks on a GPU


def on_cuda(stages: list[Stage], held_bytes: int, rest: Preparation) -> tuple[dict[str, Peak], int | None]:
    """By the counters of PyTorch's caching allocator, and the process's bytes by NVML; and the bytes of kept workspaces.

    Every phase runs once before, to load kernels and to make workspaces, so that none is made in a pass that is measured. The
    totals are `held_bytes` and what is in use above the state that `rest` leaves, which has those bytes and the workspaces.
    Unused blocks are given back before each phase. What cuDNN, cuFFT or cuSOLVER take for a call and free with it is part of
    the peak: the counters do not tell it from other temporary tensors.
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
    """Bytes in use once all work is done and all garbage is collected."""
    gc.collect()
    torch.cuda.synchronize()
    return int(torch.cuda.memory_allocated())


def _kept_workspace_bytes() -> int | None:
    """Bytes that PyTorch keeps as workspaces of cuBLAS and cuBLASLt; None where it cannot be told to let go of them.

    They are one per stream and handle, and each thread has a handle: the backward pass, in a thread of its own, makes a second
    one. Found as the bytes that come free; the next product makes them again. What is in use at rest beyond tensors that are
    known would count too what a module keeps outside its parameters and buffers, and what blocks have beyond what was asked
    for: large ones up to 1 MiB.
    """
    let_go: Callable[[], None] | None = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)  # private, and of CUDA alone
    if let_go is None:
        return None
    before = _settled_bytes()  # and nothing uses them any more
    let_go()
    return before - int(torch.cuda.memory_allocated())


# ------------------------------------------------------------------------------------------------------ peaks on a CPU


def on_cpu(stages: list[Stage], held_bytes: int) -> dict[str, Peak]:
    """By the allocator's own events, all phases in one profile.

    `held_bytes` is what lives before the profile begins. The profiler does not report the freeing of older blocks, so sums of
    its events count what is new since the beginning.
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
    changes.sort(key=lambda change: change[0])  # and no further: events of one moment are in their order already
    peaks = {}
    for event in events:
        if event.name().startswith(MARK):
            baseline, peak = _baseline_and_peak(changes, event.start_ns(), event.end_ns())
            peaks[event.name().removeprefix(MARK)] = Peak(held_bytes + peak, peak - baseline)
    return peaks


def _kineto_events(profiler: profile) -> list[Any]:
    """The raw events: only they have every allocation with its moment; the public summary adds them up per operation."""
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    return list(results.events())


def _is_cpu_allocation(event: Any) -> bool:
    return bool(event.name() == "[memory]" and str(event.device_type()).endswith("CPU"))


def _baseline_and_peak(changes: list[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Bytes in use when a phase began, and most bytes in use until it ended, both above what was there before the profile.

    `changes` are moments and bytes, in order of time; freed bytes are negative.
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
