"""Predicted times: the operations that they are made of, held against the meter of MACs, and floors by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lipbench import errors, registry
from lipbench.cases import Case, LayerSpec
from lipbench.meters import macs
from lipbench.prediction import operations, rates, time
from lipbench.prediction.operations import Operation
from lipbench.prediction.rates import Rates
from lipbench.workload import Workload

CHANNELS, IMAGE_SIZE, BATCH = 8, 6, 4
SIMPLE = Rates(
    "simple", "", "cuda", {"float32": 1e9, "float64": 1e8, "half": 4e9, "tf32": 2e9, "tf32x3": 0.5e9}, bytes_per_s=1e9
)
"""a device on which times can be added up by hand"""


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        raise NotImplementedError("no gradient is known")


class WithoutGradient(nn.Module):
    """A layer whose backward pass raises."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _NoGradient.apply(self.convolution(x))
        return y


def of(method: str, **conditions: object) -> dict[str, tuple[Operation, ...]]:
    """The operations of the phases of a small layer."""
    return operations.of_case(Case(LayerSpec(method, CHANNELS, IMAGE_SIZE), BATCH, **conditions))[0]  # type: ignore[arg-type]


def by_name(found: Sequence[Operation], name: str) -> Operation:
    (one,) = (one for one in found if one.name == name)
    return one


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_operations_have_the_macs_that_the_meter_counts(method: str) -> None:
    case = Case(LayerSpec(method, CHANNELS, IMAGE_SIZE), BATCH)
    found, failures = operations.of_case(case)
    torch.manual_seed(0)
    counted = macs.measure(Workload.build(case, registry.build(case.spec)))
    assert not failures
    assert found.keys() == {"forward", "backward", "step", "parametrize", "inference"}
    for phase, seen in found.items():
        assert sum(one.macs for one in seen) == pytest.approx(counted.phases[phase], abs=1.5)  # the meter rounds, FFTs do not


def test_bytes_of_a_convolution_by_hand() -> None:
    forward, backward = of("standard")["forward"], of("standard")["backward"]
    padded, weight = BATCH * CHANNELS * (IMAGE_SIZE + 2) ** 2, CHANNELS**2 * 9
    result = BATCH * CHANNELS * IMAGE_SIZE**2
    one = by_name(forward, "convolution")
    assert (one.kind, one.dtype, one.macs) == ("convolution", "float32", result * CHANNELS * 9)
    assert (one.read_bytes, one.written_bytes) == (4 * (padded + weight + CHANNELS), 4 * result)
    both = by_name(backward, "convolution_backward")
    assert both.macs == 2 * one.macs
    assert (both.read_bytes, both.written_bytes) == (4 * (result + padded + weight), 4 * (padded + weight + CHANNELS))


def test_what_moves_no_data_costs_nothing() -> None:
    with operations._Recorder() as seen:
        x = torch.zeros(3, 4)
        torch.empty(5)
        x.T.reshape(2, 6)[0].expand(7, 6)
    named = {one.name: one for one in seen.operations}
    assert (named["zeros"].read_bytes, named["zeros"].written_bytes) == (0, 48)
    assert {one.kind for name, one in named.items() if name not in ("zeros", "clone")} == {"view"}
    assert all(one.bytes == 0 and not one.is_launched for one in seen.operations if one.kind == "view")


@pytest.mark.parametrize(
    ("run", "read", "written"),
    [
        (lambda x, y: x + y, 96, 48),
        (lambda x, y: x * x, 48, 48),
        (lambda x, y: x.add_(y), 96, 48),
        (lambda x, y: x.copy_(y), 48, 48),
        (lambda x, y: x.zero_(), 0, 48),
        (lambda x, y: torch.add(x, y, out=y.new_empty(3, 4)), 96, 48),
        (lambda x, y: x + y[:, :1].expand(3, 4), 60, 48),
        (lambda x, y: x.sum(), 48, 4),
    ],
    ids=["add", "square", "in place", "copy", "zero", "out", "expanded", "sum"],
)
def test_traffic_of_an_operation(run: object, read: int, written: int) -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    with operations._Recorder() as seen:
        run(x, y)  # type: ignore[operator]
    last = seen.operations[-1]
    assert (last.read_bytes, last.written_bytes) == (read, written)


def test_a_floor_by_hand() -> None:
    """Each operation takes the longer of both; the largest sum bounds the phase."""
    found = [
        Operation("mm", "product", 4e6, 1000, 1000, "float32"),
        Operation("add", "elementwise", 0, 2_000_000, 1_000_000, "float32"),
        Operation("view", "view", 0, 0, 0, "float32"),
        Operation("cummax", "unknown", 0, 500_000, 500_000, "float32"),
    ]
    one = time.floor("forward", found, SIMPLE, "ieee")
    assert (one.phase, one.kind, one.bound) == ("forward", "floor", "compute (product)")
    assert one.seconds == pytest.approx(4e-3 + 3e-3 + 1e-3)
    assert (one.macs, one.bytes, one.launches, one.unknown) == (4e6, 4_002_000, 3, ("cummax",))
    assert time.floor("forward", found[1:], SIMPLE, "ieee").bound == "memory (elementwise)"
    assert time.floor("forward", [], SIMPLE, "ieee").bound == ""


@pytest.mark.parametrize(
    ("kind", "dtype", "precision", "seconds"),
    [
        ("product", "float32", "ieee", 1.0), ("product", "float32", "tf32", 0.5), ("transform", "float32", "tf32", 1.0),
        ("product", "complex64", "tf32", 0.5), ("product", "float64", "tf32", 10.0), ("product", "complex128", "ieee", 10.0),
        ("convolution", "bfloat16", "bf16", 0.25), ("product", "float32", "tf32x3", 1.0), ("kernel", "float32", "tf32x3", 2.0),
    ],
)  # fmt: skip
def test_each_operation_has_the_peak_of_its_numbers(kind: operations.Kind, dtype: str, precision: str, seconds: float) -> None:
    one = Operation("name", kind, 1e9, 0, 0, dtype)
    assert time.floor("forward", [one], SIMPLE, precision).seconds == pytest.approx(seconds)


def test_a_step_is_forward_backward_and_update() -> None:
    found = {one.phase: one for one in time.predicted(Case(LayerSpec("aol", CHANNELS, IMAGE_SIZE), BATCH), SIMPLE)}
    assert list(found) == ["forward", "backward", "step", "parametrize", "inference"]
    update_s = found["step"].seconds - found["forward"].seconds - found["backward"].seconds
    parameters = CHANNELS**2 * 9 + CHANNELS
    # two products of momentum and the sum, on weight and bias: 2 + 3 + 3 numbers of 4 bytes moved for each parameter
    assert update_s == pytest.approx(8 * 4 * parameters / SIMPLE.bytes_per_s)
    assert found["parametrize"].seconds < found["forward"].seconds
    assert found["inference"].seconds < found["forward"].seconds


def test_more_work_takes_no_less_time() -> None:
    def of_batch(batch: int) -> dict[str, float]:
        case = Case(LayerSpec("cayley", CHANNELS, IMAGE_SIZE), batch)
        return {one.phase: one.seconds for one in time.predicted(case, rates.named("H100"))}

    small, large = of_batch(2), of_batch(64)
    assert all(small[phase] <= large[phase] for phase in small)
    assert small["parametrize"] == large["parametrize"]


def test_autocast_uses_the_half_peak() -> None:
    names = {one.dtype for one in of("standard", precision="bf16")["forward"] if one.kind == "convolution"}
    assert names == {"bfloat16"}


def test_a_phase_that_fails_loses_itself_and_what_contains_it() -> None:
    found, failures = operations.of_case(Case(LayerSpec(f"{__name__}:WithoutGradient", CHANNELS, IMAGE_SIZE), BATCH))
    assert found.keys() == {"forward", "inference"}
    assert failures.keys() == {"backward", "step"}
    assert "no gradient is known" in failures["backward"]


def test_compiled_cases_are_refused() -> None:
    with pytest.raises(errors.LipbenchError, match="compile"):
        time.predicted(Case(LayerSpec("aol", CHANNELS, IMAGE_SIZE), BATCH, compile=True), SIMPLE)


@pytest.mark.parametrize("name", ["RTX 4090", "rtx4090", "RTX-4090"])
def test_a_gpu_by_the_ways_it_is_written(name: str) -> None:
    found = rates.named(name)
    assert (found.name, found.device, found.macs_per_s["float32"]) == ("RTX 4090", "cuda", 41.3e12)
    assert "whitepaper" in found.source


def test_an_unknown_gpu_lists_the_known_ones() -> None:
    with pytest.raises(errors.LipbenchError, match="unknown GPU: got 'V9'; choose from A100, B200, H100"):
        rates.named("V9")
