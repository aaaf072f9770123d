"""Living storages against numbers worked out by hand, and against the profiler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from lipbench import registry
from lipbench.cases import Case, LayerSpec
from lipbench.meters import live, memory, scratch
from lipbench.meters import saved as saved_meter
from lipbench.meters.peaks import on_cpu
from lipbench.workload import Workload

pytestmark = pytest.mark.usefixtures("quick_collections")


KILO = 1000
"""bytes of `thousand()`"""


def thousand() -> Tensor:
    return torch.zeros(250)


def peaks(run: Callable[[], object], held: list[Tensor], **options: object) -> tuple[int, int]:
    """Total, and above the baseline."""
    found = live.peaks([("run", lambda: None, run)], held, **options)["run"]  # type: ignore[arg-type]
    return found.total_bytes, found.above_baseline_bytes


@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
def test_storages_count_while_they_live(fake: bool) -> None:
    def run() -> None:
        a = thousand() + 1  # two at once
        b = a.view(25, 10)  # none of its own
        del a
        c = b * 2
        del b, c
        thousand()

    with FakeTensorMode() if fake else torch.no_grad():
        x = thousand()
        tracker = live.LiveStorages()
        tracker.add([x, x.view(10, 25)])
        with tracker:
            run()
        assert tracker.in_use == KILO
        assert tracker.peak == 3 * KILO
        tracker.reset_peak()
        assert tracker.peak == KILO
        assert peaks(run, [x]) == (3 * KILO, 2 * KILO)


def test_what_is_resized_counts_as_it_is() -> None:
    tracker = live.LiveStorages()
    with tracker:
        x = thousand()
        x.resize_(500)
    assert tracker.in_use == 2 * KILO


def test_blocks_of_a_gpu_are_rounded_up() -> None:
    assert [live.cuda_blocks(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]
    assert peaks(thousand, [], rounding=live.cuda_blocks) == (1024, 1024)


def test_composite_operations_are_taken_apart_in_inference_mode() -> None:
    x = torch.zeros(1, 1, 10, 10)

    def run() -> None:
        with torch.inference_mode():
            functional.pad(x, (1,) * 4, mode="circular").sum()

    assert peaks(run, [x]) == (400 + 576 + 4, 576 + 4)


def measured_peak(run: Callable[[], object]) -> int:
    """By the profiler, above what was there before."""
    return on_cpu([("run", lambda: None, run)], 0)["run"].above_baseline_bytes


def backward_pass(kept: list[Tensor] | None) -> Callable[[], object]:
    """Of a tensor that is used three times, each gradient of `KILO`; the first may be kept by somebody who sees it."""
    x = thousand().requires_grad_()
    others = x * 2.0 + x * 3.0
    last = x * 4.0  # whose gradient comes first
    if kept is not None:
        last.grad_fn.register_hook(lambda inputs, _: kept.append(inputs[0]))  # type: ignore[union-attr]
    result = others + last
    gradient = torch.ones(250)
    return lambda: result.backward(gradient)


@pytest.mark.parametrize("keep", [False, True])
def test_gradients_are_summed_as_the_engine_does(keep: bool) -> None:
    """In place, so that two are in use at most; but not into one that somebody has, which is a third."""
    counted = peaks(backward_pass([] if keep else None), [])[1]
    assert counted == (3 if keep else 2) * KILO
    measured = measured_peak(backward_pass([] if keep else None))
    assert measured == pytest.approx(counted, abs=16)  # factors, as tensors


CONVOLUTIONS = {
    "onednn": (torch.float32, 4, 16, 3, False),
    "onednn transposed": (torch.float32, 4, 16, 3, True),
    "one image": (torch.float32, 1, 16, 3, False),
    "pointwise": (torch.float32, 4, 16, 1, False),
    "double": (torch.float64, 4, 16, 3, False),
    "double transposed": (torch.float64, 4, 16, 3, True),
    "odd channels": (torch.float32, 4, 24, 3, False),
    "few channels": (torch.float32, 4, 4, 3, False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_convolutions_hold_while_they_run(name: str) -> None:
    dtype, batch, channels, size, transposed = CONVOLUTIONS[name]

    def operands() -> tuple[Tensor, Tensor]:
        x = torch.randn(batch, channels, 12, 12, dtype=dtype, requires_grad=True)
        return x, torch.randn(channels, channels, size, size, dtype=dtype, requires_grad=True)

    def peak(measure: Callable[[Callable[[], object]], int]) -> tuple[int, int]:
        x, weight = operands()
        convolve = functional.conv_transpose2d if transposed else functional.conv2d
        results: list[Tensor] = []
        forward = measure(lambda: results.append(convolve(x, weight, padding=size // 2)))
        gradient = torch.randn_like(x)
        return forward, measure(lambda: results[0].backward(gradient))

    measured = peak(measured_peak)
    counted = peak(lambda run: peaks(run, [], scratch=scratch.CPU)[1])
    with FakeTensorMode():
        assert peak(lambda run: peaks(run, [], scratch=scratch.CPU)[1]) == counted
    assert counted == pytest.approx(measured, rel=0.05)


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "conjugated product": lambda x: torch.bmm(x.to(torch.complex64).mH, x.to(torch.complex64)),
    "mixed types": lambda x: x * (x > 0),
    "sum of truth values": lambda x: (x > 0).sum(2),
    "shuffle of a slice": lambda x: functional.pixel_unshuffle(x[None, :10], 2),
    "inverse": lambda x: torch.linalg.inv_ex(x).inverse,
    "inverse transform": lambda x: torch.fft.irfft2(torch.fft.rfft2(x)),
    "inverse transform, frequencies outside": lambda x: torch.fft.irfft2(
        torch.zeros(20, 11, 6, 7, dtype=torch.complex64).permute(2, 3, 0, 1), s=(20, 20)
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_other_operations_hold_while_they_run(name: str) -> None:
    x = torch.randn(20, 20, 20) + 20 * torch.eye(20)
    with torch.no_grad():
        OPERATIONS[name](x)  # libraries set themselves up
        measured = measured_peak(lambda: OPERATIONS[name](x))
        counted = peaks(lambda: OPERATIONS[name](x), [], scratch=scratch.CPU)[1]
    assert counted == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("method", ["standard", "cpl", "cayley"])
def test_the_tracker_and_the_hooks_see_the_same(method: str) -> None:
    case = Case(LayerSpec(method, channels=4, image_size=8), batch_size=4)
    workload = Workload.build(case, registry.build(case.spec))
    memory.make_optimizer_state(workload)
    found = memory.split(workload, "either")
    workload.prepare_training()
    tracker = live.LiveStorages()
    held = memory.held(workload)
    tracker.add(held)
    split = (found.parameter_bytes, found.buffer_bytes, found.optimizer_bytes, 2 * found.input_bytes)
    assert tracker.in_use == sum(split)
    with tracker:
        workload.forward()
        after_forward = tracker.in_use
        workload.backward()
        # What lives after the forward pass is what autograd keeps beside what was there, and the output where it is not kept.
    kept: list[Tensor] = []
    workload.prepare_training()
    with saved_meter._saved_tensors() as saved:
        kept.append(workload.forward())
    everything = saved_meter.bytes_of([*held, *saved, *kept])
    assert after_forward == pytest.approx(everything, abs=8 * 16)  # scalars in Python objects of the graph
