"""Bytes against numbers worked out by hand."""

from __future__ import annotations

import types

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lipbench import registry
from lipbench.cases import Case, LayerSpec
from lipbench.meters import machine, memory
from lipbench.quantities import Memory
from lipbench.workload import Workload

BATCH, CHANNELS, SIZE = 4, 4, 16
MAP = BATCH * CHANNELS * SIZE**2 * 4
"""bytes of one activation in float32"""


class Halve(torch.autograd.Function):
    """Saves one tensor, its input, and returns half of it."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x / 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient / 2 + 0 * x


class Known(nn.Module):
    """Of which every allocation is known: (b, 4, s, s) → (b, 4, s, s)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(out_channels, 1, 1))
        self.register_buffer("offset", torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        scratch = x + 1  # M
        y = scratch * self.scale  # saves M, of `scratch`, and the scale; 2 M in use
        del scratch
        if not torch.is_grad_enabled():
            return y
        return y.exp()  # saves its result, 3 M in use; then `y` is freed


@pytest.fixture(scope="module")
def known() -> Memory:
    case = Case(LayerSpec("elsewhere:Known", CHANNELS, SIZE), BATCH)
    return memory.measure(Workload.build(case, Known(CHANNELS, CHANNELS, 3)))


def test_split_of_a_known_module(known: Memory) -> None:
    assert known.source == "cpu allocator events"
    assert known.parameter_bytes == known.gradient_bytes == known.optimizer_bytes == CHANNELS * 4
    assert known.buffer_bytes == 7 * 4
    assert known.input_bytes == known.output_bytes == MAP


def test_saved_bytes_of_a_known_module_and_their_line(known: Memory) -> None:
    assert known.saved_bytes == 2 * MAP + CHANNELS * 4
    assert known.saved_per_image_bytes == 2 * MAP / BATCH
    assert known.saved_constant_bytes == CHANNELS * 4


def test_peaks_of_a_known_module(known: Memory) -> None:
    # Input and cotangent, parameter, momentum and buffer live throughout.
    held = 2 * MAP + 2 * CHANNELS * 4 + 7 * 4
    small = 200  # scalars of 4 or 8 bytes, and gradients of the size of a parameter
    assert set(known.peaks) == {"forward", "backward", "step", "inference"}
    forward = known.peaks["forward"]
    assert 3 * MAP <= forward.above_baseline_bytes <= 3 * MAP + small
    assert forward.total_bytes == held + forward.above_baseline_bytes
    inference = known.peaks["inference"]
    assert 2 * MAP <= inference.above_baseline_bytes <= 2 * MAP + small
    # exp'(y): the first product; then those for scale and input, while the graph's two maps are still there.
    backward = known.peaks["backward"]
    assert backward.total_bytes == held + 2 * MAP + backward.above_baseline_bytes
    assert known.peaks["step"].total_bytes >= max(forward.total_bytes, backward.total_bytes)
    assert forward.reserved_bytes is None


def test_views_are_counted_once_and_constants_not_at_all() -> None:
    x, weight = torch.randn(10, 6, requires_grad=True), torch.randn(6, 6, requires_grad=True)

    def run() -> Tensor:
        return (x @ weight.T) * 2 + x.T.T @ weight  # saves x and the weight, twice each as views

    assert memory.saved_bytes(run) == (60 + 36) * 4
    assert memory.saved_elements(run) == 60 + 36


def test_complex_elements_are_two_and_indices_one() -> None:
    z = torch.randn(5, 5, dtype=torch.complex64, requires_grad=True)
    assert memory.saved_elements(lambda: z @ z) == 2 * 25
    x = torch.randn(8, 3, requires_grad=True)
    assert memory.saved_bytes(lambda: x.max(dim=1)) == 8 * 8  # the positions, in int64
    assert memory.saved_elements(lambda: x.max(dim=1)) == 8


def test_custom_functions_are_seen() -> None:
    x = torch.randn(10, requires_grad=True)
    assert memory.saved_bytes(lambda: Halve.apply(x)) == 40


def test_a_backward_pass_still_works_and_nothing_leaks() -> None:
    x = torch.randn(10, requires_grad=True)
    with memory._saved_tensors():
        y = x.exp()
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, x.exp())


def test_without_gradients_nothing_is_saved() -> None:
    x = torch.randn(10, requires_grad=True)
    with torch.no_grad():
        assert memory.saved_bytes(lambda: x.exp()) == 0


def test_sizes_are_counted_without_computing() -> None:
    with FakeTensorMode():
        x = torch.empty(2**20, 2**10, requires_grad=True)  # 4 GiB, of which nothing is allocated
        assert memory.saved_bytes(lambda: x.exp()) == 2**32


def test_peak_between_two_moments() -> None:
    changes = [(1, 100), (2, 50), (3, -50), (5, 10), (6, 30), (6, -30), (7, 5), (9, 1000)]
    assert memory._baseline_and_peak(changes, 4, 8) == (100, 140)
    assert memory._baseline_and_peak(changes, 8, 8) == (115, 115)  # nothing allocated inside
    assert memory._baseline_and_peak([], 4, 8) == (0, 0)
    assert memory._baseline_and_peak([(5, -70), (6, 20)], 4, 8) == (0, 0)  # frees what is older


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_every_method_is_measured_whole(method: str) -> None:
    case = Case(LayerSpec(method, channels=4, image_size=8), batch_size=4)
    workload = Workload.build(case, registry.build(case.spec))
    found = memory.measure(workload)
    assert set(found.peaks) == {"forward", "backward", "step", "parametrize", "inference", "first_inference"}
    assert found.parameter_bytes == 4 * sum(parameter.numel() for parameter in workload.module.parameters())
    assert found.optimizer_bytes == found.gradient_bytes == found.parameter_bytes
    # A line: what is saved per image does not depend on how many there are.
    assert found.saved_per_image_bytes is not None
    assert found.saved_constant_bytes is not None
    x = workload.x.detach()[:1].requires_grad_()
    workload.prepare_training()
    one_image = memory.saved_bytes(lambda: workload.module(x))
    assert one_image == pytest.approx(found.saved_constant_bytes + found.saved_per_image_bytes)
    held = found.parameter_bytes + found.optimizer_bytes + found.buffer_bytes + 2 * found.input_bytes
    for peak in found.peaks.values():
        assert peak.total_bytes >= held + peak.above_baseline_bytes
        assert peak.above_baseline_bytes >= 0
    assert found.peaks["step"].total_bytes >= found.peaks["backward"].total_bytes
    # Evaluation with an empty cache makes what evaluation with a full one already holds.
    assert found.peaks["first_inference"].above_baseline_bytes >= found.peaks["inference"].above_baseline_bytes


def test_peaks_on_a_gpu_come_from_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    state = types.SimpleNamespace(now=1000, peak=5000)

    def allocate(peak: int, after: int) -> None:
        state.peak = max(state.peak, state.now + peak)
        state.now += after

    def reset() -> None:
        log.append("reset")
        state.peak = state.now

    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: log.append(name))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: state.now)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: state.peak)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2 * state.peak)
    monkeypatch.setattr(machine, "read_gpu_process_bytes", lambda: 7)

    def prepare() -> None:
        state.now = 1000

    stages = [
        ("forward", prepare, lambda: allocate(300, 200)),
        ("backward", lambda: None, lambda: allocate(500, -200)),
    ]
    peaks = memory._cuda_peaks(stages)
    assert peaks["forward"].total_bytes == 1300
    assert peaks["forward"].above_baseline_bytes == 300
    assert peaks["forward"].reserved_bytes == 2600
    assert peaks["forward"].process_bytes == 7
    assert peaks["backward"].total_bytes == 1700
    assert peaks["backward"].above_baseline_bytes == 500
    assert log == ["synchronize", "empty_cache", "reset", "synchronize"] * 2
