"""Bytes allocated by the allocator: their use, the bytes saved for the backward pass, and the peak of each phase.

The quantity is the same on every device: the bytes held before, and those that a phase adds. PyTorch's CUDA allocator rounds
blocks up to 512 bytes; on a CPU, the profiler reports every block in the requested size. The workspaces that PyTorch keeps for
cuBLAS are in no peak and are counted separately. Memory is measured in separate passes, never during timing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from lipbench.meters import attempts, live, peaks
from lipbench.meters.attempts import Attempts
from lipbench.meters.peaks import Stage
from lipbench.meters.saved import bytes_of, saved_bytes, storages, unseen_bytes
from lipbench.quantities import PHASES, TRAINING_PHASES, Caution, Memory

SOURCES = {"cpu": "cpu allocator events", "cuda": "cuda allocator"}


class Workload(Protocol):
    """The part of `lipbench.workload.Workload` that this module uses."""

    module: nn.Module
    x: Tensor
    cotangent: Tensor
    optimizer: torch.optim.SGD
    output: Tensor | None

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

    What raises is left out, with its reason in `failures`. Raises `torch.OutOfMemoryError` if a requested phase does not fit
    into the GPU's memory, and the first error if every requested phase raised.
    """
    device = workload.x.device.type
    found = split(workload, SOURCES[device], phases)
    tried = Attempts()
    if running is not None and found.saved_bytes is not None:
        running.prepare_training()
        saved = tried("saved", lambda: saved_bytes(running.forward))
        found = replace(found, saved_bytes=saved, saved_per_image_bytes=None, saved_constant_bytes=None, unseen_bytes=0)
    chosen = running or workload
    measured = guarded(stages(chosen, phases), tried)
    workspace_bytes = None
    if device != "cuda":
        highest = peaks.on_cpu(measured, bytes_of(held(workload)))
    else:
        highest, workspace_bytes = peaks.on_cuda(measured, _block_bytes(held(workload)), lambda: _rest(chosen))
    whole = {phase: peak for phase, peak in highest.items() if phase not in tried.failures}
    if not whole:
        tried.raise_first()
    return replace(found, peaks=whole, workspace_bytes=workspace_bytes, failures={**found.failures, **tried.failures})


def guarded(stages: Iterable[Stage], tried: Attempts) -> list[Stage]:
    """The same stages, of which one that raises does not end the measurement: it is among `tried.failures` afterwards."""

    def prepare(phase: str, first: Callable[[], object]) -> object:
        if phase == "backward" and "forward" in tried.failures:
            tried.failures["backward"] = "the forward pass failed"
        return tried(phase, first)

    def run(phase: str, call: Callable[[], object]) -> object:
        return None if phase in tried.failures else tried(phase, call)

    return [(phase, partial(prepare, phase, first), partial(run, phase, call)) for phase, first, call in stages]


def split(workload: Workload, source: str, phases: Collection[str] | None = None) -> Memory:
    """Bytes by use, without peaks. Works on fake tensors too. Leaves the workload ready for training, with empty caches.

    Gradients are those of the parameters. `saved_bytes` is also measured at another batch size; the slope of the line through
    both is the input half, its intercept the parameter half.
    If `phases` are given, only they are run. Then `saved_bytes` is None without a training phase, `gradient_bytes` without
    `backward` or `step`, and `optimizer_bytes` without `step`. So is what raises, with its reason in `failures`.
    """
    wanted = set(PHASES if phases is None else phases)
    tried = Attempts()
    gradient_bytes = optimizer_bytes = saved = slope = None
    unseen = 0
    if "step" in wanted and tried("step", lambda: _stepped(workload)):
        optimizer_bytes = bytes_of(_optimizer_state(workload.optimizer))
    elif wanted & {"backward", "step"}:
        tried("backward", lambda: _backward(workload))
    if wanted & {"backward", "step"} and "backward" not in tried.failures:
        gradient_bytes = bytes_of(p.grad for p in workload.module.parameters() if p.grad is not None)
    output_bytes = bytes_of([workload.cotangent])  # has the output's shape
    if wanted.intersection(TRAINING_PHASES):
        workload.prepare_training()
        saved = tried("saved", lambda: saved_bytes(workload.forward))
        if saved is not None:
            output_bytes = bytes_of([workload.output] if workload.output is not None else [])
            workload.prepare_training()
            slope = tried("other batch size", lambda: _saved_per_image(workload, saved))
            unseen = tried("unseen", lambda: unseen_bytes(workload.module, workload.x)) or 0
    _rest(workload)  # also drops effective parameters that an earlier evaluation left in a cache
    return Memory(
        source=source,
        parameter_bytes=bytes_of(workload.module.parameters()),
        buffer_bytes=bytes_of(workload.module.buffers()),
        gradient_bytes=gradient_bytes,
        optimizer_bytes=optimizer_bytes,
        input_bytes=bytes_of([workload.x]),
        output_bytes=output_bytes,
        saved_bytes=saved,
        saved_per_image_bytes=slope,
        saved_constant_bytes=None if saved is None or slope is None else saved - slope * len(workload.x),
        unseen_bytes=unseen,
        failures=tried.failures,
    )


def _backward(workload: Workload) -> None:
    _prepare_backward(workload)
    workload.backward()


def _stepped(workload: Workload) -> bool:
    make_optimizer_state(workload)
    return True


def make_optimizer_state(workload: Workload) -> None:
    """Run one training step. It also makes plans and workspaces, which stay allocated and so are in no peak."""
    workload.prepare_training()
    workload.step()


def give_optimizer_state(workload: Workload) -> None:
    """Give the optimizer the state that `make_optimizer_state` makes, if a step gives every parameter a gradient."""
    for parameter in workload.module.parameters():
        workload.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter)


def has_all_gradients(workload: Workload) -> bool:
    """Whether the last step gave every parameter a gradient."""
    return all(parameter.grad is not None for parameter in workload.module.parameters())


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


def _block_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages on a GPU, where the allocator rounds every block up."""
    return sum(live.cuda_blocks(storage.nbytes()) for storage in storages(tensors))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def warnings(found: Memory) -> Iterator[Caution]:
    """What makes the bytes doubtful."""
    yield from attempts.warnings("memory", found.failures)
    if found.unseen_bytes:
        text = (
            f"{found.unseen_bytes} bytes outlive the forward pass, but autograd does not know of them, so they are not among "
            "the saved bytes; give them to save_for_backward, or read the peaks, which contain them"
        )
        yield Caution("unseen_memory", TRAINING_PHASES, text)
