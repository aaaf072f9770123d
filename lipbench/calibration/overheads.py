"""What every operation and every phase costs beside the work itself: dispatch, autograd, Python. Measured on tiny tensors."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lipbench.calibration.sweep import median_s
from lipbench.cases import Case, LayerSpec
from lipbench.layers.base import LipschitzConv2d
from lipbench.meters.clocks import CpuSampler
from lipbench.workload import Workload

CHAIN = (10, 110)
"""lengths of two chains of operations, whose difference is that of their number"""
SAMPLES = 30
PARAMETERS = 2


class Nothing(LipschitzConv2d):
    """A layer that computes nothing: its output is a view of its input."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, image_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, image_size)
        self.weight, self.bias = (torch.nn.Parameter(torch.ones(1)) for _ in range(PARAMETERS))

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        return (self.weight,)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return x.view_as(x)


def measure() -> dict[str, float]:
    """Seconds by name.

    Of an operation: `call`, that of a view, `record` for its node in a graph, and `node` for its turn in a backward pass. Of a
    phase of a layer that computes nothing: by the phase's name, and `update` for the optimizer.
    """
    x, y = torch.ones(4), torch.ones(4, requires_grad=True)
    call_s = median_s(lambda: x * 1.5)
    short, long = (_chain_s(length) for length in CHAIN)
    per_node = {stage: (long[stage] - short[stage]) / (CHAIN[1] - CHAIN[0]) for stage in short}
    layer = _phases()
    return {
        "call": call_s,
        "view": median_s(lambda: x.view(2, 2)),
        "record": max(0.0, median_s(lambda: y * 1.5) - call_s),
        "node": per_node["backward"],
        **layer,
        "update": max(0.0, _update_s() - 3 * PARAMETERS * call_s),
    }


def _chain_s(length: int) -> Mapping[str, float]:
    """Seconds of the forward and the backward pass through so many products by a number."""
    x = torch.ones(4, requires_grad=True)
    state: list[Tensor] = []

    def forward() -> None:
        y = x
        for _ in range(length):
            y = y * 1.5
        state[:] = [y]

    def backward() -> None:
        state[0].backward(torch.ones(4))  # type: ignore[no-untyped-call]  # torch gives it no types

    def prepare() -> None:
        state.clear()
        x.grad = None

    return _stages_s({"forward": forward, "backward": backward}, prepare)


def _phases() -> dict[str, float]:
    """Seconds of the phases of a layer that computes nothing."""
    case = Case(LayerSpec("standard", channels=1, image_size=1, kernel_size=1), batch_size=1)
    x = torch.ones(1, 1, 1, 1, requires_grad=True)
    workload = Workload(case, Nothing(1, 1, 1, 1), x, torch.ones(1, 1, 1, 1))
    found: dict[str, float] = {}
    for group in workload.groups():
        if group.name in ("training", "parametrize", "inference"):
            found |= _stages_s(group.stages, group.prepare)
    return found


def _update_s() -> float:
    """Seconds of an update of two tiny parameters, as `Workload` does it."""
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(PARAMETERS)]
    optimizer = torch.optim.SGD(parameters, lr=1e-8, momentum=0.9)
    for one in parameters:
        one.grad = torch.ones(1)
    optimizer.step()
    return median_s(optimizer.step)


def _stages_s(stages: Mapping[str, Callable[[], object]], prepare: Callable[[], object]) -> dict[str, float]:
    """Median seconds of stages that run one after another."""
    sampler = CpuSampler(stages, prepare)
    sampler.first_call()
    for _ in range(SAMPLES):
        sampler.take()
    sampler.clear()
    for _ in range(SAMPLES):
        sampler.take()
    return {name: statistics.median(samples) for name, samples in sampler.samples.items()}
