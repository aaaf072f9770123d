"""Bytes allocated by the allocator: their use, the bytes saved for the backward pass, and the peak of each phase.

The quantity is the same on every device: the bytes held before, and those that a phase adds. PyTorch's CUDA allocator rounds
blocks up to 512 bytes; on a CPU, the profiler reports every block in the requested size. The workspaces that PyTorch keeps for
cuBLAS are in no peak and are counted separately. Memory is measured in separate passes, never during timing.
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
    """The part of `lipbench.workload.Workload` that this module uses."""

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
    def apply(self, x: Tensor) -> Tensor: ...


def measure(workload: Workload, running: Workload | None = None, phases: Collection[str] | None = None) -> Memory:
    """A workload's memory by use after a training step, and the peak of each phase, in bytes.

    `running` is a compiled workload whose stages are measured instead of the workload's own. Its compiler chooses what is kept
    for the backward pass, so `saved_bytes` is that of `running`, without slope and intercept. `phases` are the phases to
    measure, if not all: a caller leaves out those that do not fit into memory. No other phase is run.

    Raises `torch.OutOfMemoryError` if a requested phase does not fit into the GPU's memory.
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
    """Bytes by use, without peaks. Works on fake tensors too. Leaves the workload ready for training, with empty caches.

    Gradients are those of the parameters. `saved_bytes` is also measured at another batch size; the slope of the line through
    both is the input half, its intercept the parameter half.
    If `phases` are given, only they are run. Then `saved_bytes` is None without a training phase, `gradient_bytes` without
    `backward` or `step`, and `optimizer_bytes` without `step`.
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
    output_bytes = _bytes([workload.cotangent])  # has the output's shape
    saved = slope = None
    if wanted.intersection(TRAINING_PHASES):
        workload.prepare_training()
        saved = saved_bytes(workload.forward)
        workload.prepare_training()
        output_bytes = _bytes([workload.forward()])
        workload.prepare_training()
        slope = _saved_per_image(workload, saved)
    _rest(workload)  # also drops effective parameters that an earlier evaluation left in a cache
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
    """Run one training step. It also makes plans and workspaces, which stay allocated and so are in no peak."""
    workload.prepare_training()
    workload.step()


def held(workload: Workload) -> list[Tensor]:
    """Tensors that exist before any phase begins: parameters, buffers, the optimizer's state, input and cotangent."""
    state = _optimizer_state(workload.optimizer)
    return [*workload.module.parameters(), *workload.module.buffers(), *state, workload.x, workload.cotangent]


def _rest(workload: Workload) -> None:
    """Drop all tensors except those of `held`: results, gradients, and effective parameters in caches."""
    workload.prepare_first_inference()
    workload.prepare_training()


def _saved_per_image(workload: Workload, saved: int) -> float | None:
    """Slope of saved bytes between the case's batch size and another; None where the other does not fit into memory."""
    other = workload.other_batch()
    try:
        saved_of_other = saved_bytes(lambda: workload.apply(other))
    except torch.OutOfMemoryError:
        return None  # can happen with two images, where the case has one
    return (saved - saved_of_other) / (len(workload.x) - len(other))


def stages(workload: Workload, phases: Collection[str] | None = None) -> list[Stage]:
    """The stages of all phases, or of those in `phases` that the workload has.

    A phase whose preparation does nothing needs the phase before it. If that phase is left out, the preparation runs it.
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
    """Bytes of the distinct storages on a GPU, where the allocator rounds every block up."""
    return sum(live.cuda_blocks(storage.nbytes()) for storage in _storages(tensors))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


@contextmanager
def _saved_tensors() -> Iterator[list[Tensor]]:
    """Tensors that autograd saves within the block, detached from their graphs; the list keeps them alive."""
    saved: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.detach())
        return saved[-1]  # not `tensor` itself: a graph that holds its own output would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def saved_bytes(run: Callable[[], object]) -> int:
    """Bytes of the distinct storages that autograd saves for the backward pass during `run()`, with weights and inputs.

    Tensors that a custom `autograd.Function` keeps as attributes of its context are not seen; those of `save_for_backward` are.
    """
    with _saved_tensors() as saved:
        run()
    return _bytes(saved)


def saved_elements(run: Callable[[], object]) -> int:
    """The same in elements: a complex element counts as two, an element of an index tensor as one."""
    with _saved_tensors() as saved:
        run()
    size = {tensor.untyped_storage()._cdata: _real_size(tensor) for tensor in saved}
    return sum(storage.nbytes() // size[storage._cdata] for storage in _storages(saved))


def _real_size(tensor: Tensor) -> int:
    return tensor.element_size() // (2 if tensor.is_complex() else 1)
