"""Bytes handed out by the allocator: what holds them, what is saved for the backward pass, and the peak of each phase.

One quantity on every device: what is held, and what a phase adds to it. PyTorch's CUDA allocator rounds blocks up to 512 bytes;
on a CPU the profiler reports every block as it was asked for. The workspaces that PyTorch keeps for cuBLAS are in no peak and
are counted apart. Measured in passes of their own, never while anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from lipbench.meters import live, peaks
from lipbench.meters.peaks import Stage
from lipbench.quantities import PHASES, TRAINING_PHASES, Memory

SOURCES = {"cpu": "cpu allocator events", "cuda": "cuda allocator"}


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


def measure(workload: Workload, running: Workload | None = None, phases: Collection[str] | None = None) -> Memory:
    """The split of a workload's memory after a training step, and the peak of each phase, in bytes.

    `running` has the stages whose peaks are taken, if they are others than the workload's own: compiled ones, which keep for
    the backward pass what their compiler chose. So `saved_bytes` are theirs too, and how they divide is not known.
    `phases` are those to take, if not all: a caller leaves out what does not fit. Nothing else is run.

    Raises `torch.OutOfMemoryError` where a phase that is asked for does not fit on the GPU.
    """
    device = workload.x.device.type
    found = split(workload, SOURCES[device], phases)
    if running is not None and found.saved_bytes is not None:
        running.prepare_training()
        saved = saved_bytes(running.forward)
        found = replace(found, saved_bytes=saved, saved_per_image_bytes=None, saved_constant_bytes=None)
    chosen = running or workload
    measured = stages(chosen, phases)
    if device != "cuda":
        return replace(found, peaks=peaks.on_cpu(measured, _bytes(held(workload))))
    highest, workspace_bytes = peaks.on_cuda(measured, _block_bytes(held(workload)), lambda: _rest(chosen))
    return replace(found, peaks=highest, workspace_bytes=workspace_bytes)


def split(workload: Workload, source: str, phases: Collection[str] | None = None) -> Memory:
    """What holds the bytes, without peaks. Works on fake tensors too. Leaves the workload ready for training, caches empty.

    Gradients are those of the parameters. `saved_bytes` is also taken at another batch size; the line through both has the
    input half for its slope and the parameter half for its intercept.
    Where `phases` are given, only they are run: without a training phase nothing is known to be saved, without `backward` or
    `step` no gradient, without `step` no state of the optimizer, and such bytes are None.
    """
    wanted = set(PHASES if phases is None else phases)
    gradient_bytes = optimizer_bytes = None
    if "step" in wanted:
        make_optimizer_state(workload)
        optimizer_bytes = _bytes(_optimizer_state(workload.optimizer))
    elif "backward" in wanted:
        _prepare_backward(workload)
        workload.backward()
    if wanted & {"backward", "step"}:
        gradient_bytes = _bytes(p.grad for p in workload.module.parameters() if p.grad is not None)
    output_bytes = _bytes([workload.cotangent])  # which has its shape
    saved = slope = None
    if wanted.intersection(TRAINING_PHASES):
        workload.prepare_training()
        saved = saved_bytes(workload.forward)
        workload.prepare_training()
        output_bytes = _bytes([workload.forward()])
        workload.prepare_training()
        slope = _saved_per_image(workload, saved)
    _rest(workload)  # nor are effective parameters that an earlier evaluation left in a cache
    return Memory(
        source=source,
        parameter_bytes=_bytes(workload.module.parameters()),
        buffer_bytes=_bytes(workload.module.buffers()),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=optimizer_bytes,
        input_bytes=_bytes([workload.x]),
        output_bytes=output_bytes,
        saved_bytes=saved,
        saved_per_image_bytes=slope,
        saved_constant_bytes=None if saved is None or slope is None else saved - slope * len(workload.x),
    )


def make_optimizer_state(workload: Workload) -> None:
    """One step of training. It makes plans and workspaces too: what is there ever after is no part of a peak."""
    workload.prepare_training()
    workload.step()


def held(workload: Workload) -> list[Tensor]:
    """What lives before any phase begins: parameters, buffers, the optimizer's state, input and cotangent."""
    state = _optimizer_state(workload.optimizer)
    return [*workload.module.parameters(), *workload.module.buffers(), *state, workload.x, workload.cotangent]


def _rest(workload: Workload) -> None:
    """Leave nothing behind but what `held` names: no results, no gradients, and no effective parameters in caches."""
    workload.prepare_first_inference()
    workload.prepare_training()


def _saved_per_image(workload: Workload, saved: int) -> float | None:
    """Slope of the line through what is saved at the case's batch size and at another; None where that does not fit."""
    other = workload.other_batch()
    try:
        saved_of_other = saved_bytes(lambda: workload.module(other))
    except torch.OutOfMemoryError:
        return None  # two images, where the case has one
    return (saved - saved_of_other) / (len(workload.x) - len(other))


def stages(workload: Workload, phases: Collection[str] | None = None) -> list[Stage]:
    """Every phase, or those of `phases` that the workload has.

    After a preparation that does nothing, a phase begins where the one before it ended. Where that one is left out, it is part
    of the preparation.
    """
    wanted = set(PHASES if phases is None else phases)
    found: list[Stage] = [
        ("forward", workload.prepare_training, workload.forward),
        ("backward", (lambda: None) if "forward" in wanted else lambda: _prepare_backward(workload), workload.backward),
        ("step", workload.prepare_training, workload.step),
    ]
    cold = workload.has_halves and "first_inference" not in wanted
    if workload.has_halves:
        found += [
            ("parametrize", workload.prepare_training, workload.parametrize),
            ("first_inference", workload.prepare_first_inference, workload.first_inference),  # leaves the cache warm
        ]
    found.append(("inference", (lambda: _warm_cache(workload)) if cold else workload.prepare_inference, workload.inference))
    return [stage for stage in found if stage[0] in wanted]


def _prepare_backward(workload: Workload) -> None:
    workload.prepare_training()
    workload.forward()


def _warm_cache(workload: Workload) -> None:
    workload.prepare_inference()
    workload.inference()
    workload.prepare_inference()


# ---------------------------------------------------------------------------------------------------------------- the split


def _storages(tensors: Iterable[Tensor]) -> list[torch.UntypedStorage]:
    """The distinct storages behind tensors, views and conjugates included."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return list({storage._cdata: storage for storage in storages}.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(storage.nbytes() for storage in _storages(tensors))


def _block_bytes(tensors: Iterable[Tensor]) -> int:
    """The same on a GPU, where the allocator rounds every block up."""
    return sum(live.cuda_blocks(storage.nbytes()) for storage in _storages(tensors))


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
