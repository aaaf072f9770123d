"""Bytes handed out by the allocator: what holds them, what is saved for the backward pass, and the peak of each phase.

One quantity on every device. PyTorch's CUDA allocator rounds blocks up to 512 bytes; on a CPU the profiler reports every block
as it was asked for. Measured in passes of their own, never while anything is timed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from lipbench.meters import machine
from lipbench.quantities import Memory, Peak

SOURCES = {"cpu": "cpu allocator events", "cuda": "cuda allocator"}
MARK = "lipbench: "
"""begins the names of the marks that divide a profile into phases"""

Preparation = Callable[[], object]
Stage = tuple[str, Preparation, Callable[[], object]]
"""phase, what comes before it and does not count, and the phase itself"""


class Workload(Protocol):
    """What is needed of `lipbench.workload.Workload`."""

    module: nn.Module
    x: Tensor
    cotangent: Tensor
    optimizer: torch.optim.SGD

    @property
    def has_halves(self) -> bool: ...
    def prepare_training(self) -> None: ...
    def prepare_inference(self) -> None: ...
    def prepare_first_inference(self) -> None: ...
    def forward(self) -> Tensor: ...
    def backward(self) -> object: ...
    def step(self) -> object: ...
    def parametrize(self) -> object: ...
    def inference(self) -> object: ...
    def first_inference(self) -> object: ...
    def other_batch(self) -> Tensor: ...


def measure(workload: Workload, running: Workload | None = None) -> Memory:
    """The split of a workload's memory after a training step, and the peak of each phase, in bytes.

    `running` has the stages whose peaks are taken, if they are others than the workload's own: compiled ones, which keep for
    the backward pass what their compiler chose. So `saved_bytes` are theirs too, and how they divide is not known.

    Raises `torch.OutOfMemoryError` on a full GPU.
    """
    device = workload.x.device.type
    found = split(workload, SOURCES[device])
    if running is not None:
        running.prepare_training()
        saved = saved_bytes(running.forward)
        found = replace(found, saved_bytes=saved, saved_per_image_bytes=None, saved_constant_bytes=None)
    measured = stages(running or workload)
    peaks = _cuda_peaks(measured) if device == "cuda" else _cpu_peaks(measured, _bytes(held(workload)))
    return replace(found, peaks=peaks)


def split(workload: Workload, source: str) -> Memory:
    """What holds the bytes, without peaks. Works on fake tensors too. Leaves the workload ready for training, caches empty.

    Gradients are those of the parameters. `saved_bytes` is also taken at another batch size; the line through both has the
    input half for its slope and the parameter half for its intercept.
    """
    make_optimizer_state(workload)
    gradient_bytes = _bytes(p.grad for p in workload.module.parameters() if p.grad is not None)
    workload.prepare_training()
    saved = saved_bytes(workload.forward)
    workload.prepare_training()
    output_bytes = _bytes([workload.forward()])
    workload.prepare_training()
    slope = _saved_per_image(workload, saved)
    workload.prepare_first_inference()  # nor are effective parameters that an earlier evaluation left in a cache
    workload.prepare_training()
    return Memory(
        source=source,
        parameter_bytes=_bytes(workload.module.parameters()),
        buffer_bytes=_bytes(workload.module.buffers()),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=_bytes(_optimizer_state(workload.optimizer)),
        input_bytes=_bytes([workload.x]),
        output_bytes=output_bytes,
        saved_bytes=saved,
        saved_per_image_bytes=slope,
        saved_constant_bytes=saved - slope * len(workload.x),
    )


def make_optimizer_state(workload: Workload) -> None:
    """One step of training. It makes plans and workspaces too: what is there ever after is no part of a peak."""
    workload.prepare_training()
    workload.step()


def held(workload: Workload) -> list[Tensor]:
    """What lives before any phase begins: parameters, buffers, the optimizer's state, input and cotangent."""
    state = _optimizer_state(workload.optimizer)
    return [*workload.module.parameters(), *workload.module.buffers(), *state, workload.x, workload.cotangent]


def _saved_per_image(workload: Workload, saved: int) -> float:
    """Slope of the line through what is saved at the case's batch size and at another."""
    other = workload.other_batch()
    return (saved - saved_bytes(lambda: workload.module(other))) / (len(workload.x) - len(other))


def stages(workload: Workload) -> list[Stage]:
    """Every phase. After a preparation that does nothing, a phase begins where the one before it ended."""
    found: list[Stage] = [
        ("forward", workload.prepare_training, workload.forward),
        ("backward", lambda: None, workload.backward),
        ("step", workload.prepare_training, workload.step),
    ]
    if workload.has_halves:
        found += [
            ("parametrize", workload.prepare_training, workload.parametrize),
            ("first_inference", workload.prepare_first_inference, workload.first_inference),  # leaves the cache warm
        ]
    return [*found, ("inference", workload.prepare_inference, workload.inference)]


# ---------------------------------------------------------------------------------------------------------------- the split


def _storages(tensors: Iterable[Tensor]) -> list[torch.UntypedStorage]:
    """The distinct storages behind tensors, views and conjugates included."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return list({storage._cdata: storage for storage in storages}.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(storage.nbytes() for storage in _storages(tensors))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def _saved_tensors() -> Iterator[list[Tensor]]:
    """What autograd keeps inside, as tensors cut from their graphs; it stays alive as long as the list."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return saved[-1]  # not `tensor` itself: a graph that holds its own output would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def saved_bytes(run: Callable[[], object]) -> int:
    """Bytes of the distinct storages that `run()` has autograd keep for a backward pass, weights and inputs among them.

    What a custom `autograd.Function` hides in attributes of its context is not seen; `save_for_backward` is.
    """
    with _saved_tensors() as saved:
        run()
    return _bytes(saved)


def saved_elements(run: Callable[[], object]) -> int:
    """The same in real numbers: a complex element is two, an element of an index tensor is one."""
    with _saved_tensors() as saved:
        run()
    size = {tensor.untyped_storage()._cdata: _real_size(tensor) for tensor in saved}
    return sum(storage.nbytes() // size[storage._cdata] for storage in _storages(saved))


def _real_size(tensor: Tensor) -> int:
    return tensor.element_size() // (2 if tensor.is_complex() else 1)


# ------------------------------------------------------------------------------------------------------- peaks on a GPU


def _cuda_peaks(stages: list[Stage]) -> dict[str, Peak]:
    """By the counters of PyTorch's caching allocator, and the process's bytes by NVML.

    Every phase runs once before, to load kernels and make workspaces; unused blocks are given back before each.
    """
    for _, prepare, run in stages:
        prepare()
        run()
    peaks = {}
    for phase, prepare, run in stages:
        prepare()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        baseline = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        peaks[phase] = Peak(
            total_bytes=torch.cuda.max_memory_allocated(),
            above_baseline_bytes=torch.cuda.max_memory_allocated() - baseline,
            reserved_bytes=torch.cuda.max_memory_reserved(),
            process_bytes=machine.read_gpu_process_bytes(),
        )
    return peaks


# ------------------------------------------------------------------------------------------------------ peaks on a CPU


def _cpu_peaks(stages: list[Stage], held_bytes: int) -> dict[str, Peak]:
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
