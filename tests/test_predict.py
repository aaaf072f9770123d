"""Predictions, compared with the profiler, and the verb `predict`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lipbench import errors, registry
from lipbench.cases import Case, LayerSpec, NetworkSpec
from lipbench.cli import main as cli
from lipbench.meters import live, scratch
from lipbench.meters import memory as memory_meter
from lipbench.prediction import memory as predict
from lipbench.workload import Workload

pytestmark = pytest.mark.usefixtures("quick_collections")

CHANNELS, IMAGE_SIZE, BATCH = 16, 8, 8


class AsksForAValue(nn.Module):
    """A layer that branches on data, which needs tensors with values."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale if self.scale.item() > 0 else x


class Plain(nn.Module):
    """An external layer whose constant is not a buffer."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.constant = torch.full((), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.constant * torch.tanh(self.convolution(x))  # type: ignore[no-any-return]


def measured(case: Case) -> memory_meter.Memory:
    torch.manual_seed(0)
    return memory_meter.measure(Workload.build(case, registry.build(case.spec)))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", registry.METHODS)
def test_the_peak_of_a_step_alone_is_that_among_all_phases(method: str, device: str) -> None:
    case = Case(LayerSpec(method, 4, 6), 3, device=device)
    assert predict.step_peak(case) == predict.training_peak(predict.memory(case))


@pytest.mark.parametrize("method", [*sorted(registry.METHODS), f"{__name__}:Plain"])
def test_prediction_agrees_with_the_measurement(method: str) -> None:
    case = Case(LayerSpec(method, CHANNELS, IMAGE_SIZE), BATCH)
    found, expected = predict.memory(case), measured(case)
    assert found.source == "fake tensors"
    for name in (
        "parameter",
        "buffer",
        "gradient",
        "optimizer",
        "input",
        "output",
        "saved",
        "saved_per_image",
        "saved_constant",
    ):
        assert getattr(found, f"{name}_bytes") == getattr(expected, f"{name}_bytes"), name
    assert list(found.peaks) == list(expected.peaks)
    for phase, peak in expected.peaks.items():
        assert found.peaks[phase].total_bytes == pytest.approx(peak.total_bytes, rel=0.02), phase
        assert found.peaks[phase].above_baseline_bytes == pytest.approx(peak.above_baseline_bytes, rel=0.05), phase


@pytest.mark.parametrize("method", ["standard", "sll"])
def test_double_precision_takes_other_kernels(method: str) -> None:
    case = Case(LayerSpec(method, CHANNELS, IMAGE_SIZE), BATCH, dtype="float64")
    found, expected = predict.memory(case), measured(case)
    assert found.saved_bytes == expected.saved_bytes
    for phase, peak in expected.peaks.items():
        assert found.peaks[phase].total_bytes == pytest.approx(peak.total_bytes, rel=0.02), phase


@pytest.mark.parametrize("layer", ["Spectral", "HiddenInContext", "NoParameters"])
def test_layers_of_others_are_predicted(layer: str) -> None:
    case = Case(LayerSpec(f"counted_layers:{layer}", CHANNELS, IMAGE_SIZE), BATCH)
    found, expected = predict.memory(case), measured(case)
    assert (found.saved_bytes, found.saved_per_image_bytes) == (expected.saved_bytes, expected.saved_per_image_bytes)
    assert (found.failures, found.unseen_bytes) == ({}, 0)
    assert found.peaks["forward"].total_bytes == pytest.approx(expected.peaks["forward"].total_bytes, rel=0.02)


def test_what_a_prediction_lacks_stands_in_its_row() -> None:
    names = ("Pointwise", "NoBackward", "HiddenInHook")
    frame, problems = predict.table([Case(LayerSpec(f"counted_layers:{name}", 16, 8), 8) for name in names], limit_bytes=10**9)
    assert problems == []
    assert frame["fits"].tolist() == ["training", "unknown", "training"]
    assert frame["training_peak_bytes"].isna().tolist() == [False, True, False]
    whole, failed, unseen = frame["remark"]
    assert whole == ""
    assert "step is unknown (NotImplementedError: no backward pass)" in failed
    assert "32.8 kB outlive the forward pass unseen by autograd" in unseen
    assert predict.readable(frame)["training peak"].tolist()[1] == "?"


def test_a_scratch_formula_that_raises_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise KeyError("of this formula")

    case = Case(LayerSpec("standard", CHANNELS, IMAGE_SIZE), BATCH)
    whole = predict.memory(case)
    monkeypatch.setitem(scratch.CPU, torch.ops.aten.convolution, broken)
    found = predict.memory(case)
    assert found.peaks["backward"] == whole.peaks["backward"]
    assert [*found.failures] == ["temporary memory of aten.convolution.default"]


@pytest.mark.parametrize(
    "run",
    [
        lambda x: torch.mul(x, x, out=torch.empty_like(x)),
        lambda x: torch.add(x, x.double(), alpha=2, out=torch.empty(8, 8, dtype=torch.float64)),
        lambda x: 2.0 * x + (1 - x) / 3,
        lambda x: torch.div(other=x, input=x, rounding_mode="floor").add_(x.double()),
        lambda x: torch.sum(x, 0, dtype=torch.float64, out=torch.empty(8, dtype=torch.float64)),
        lambda x: torch.sum(input=x > 0, dim=0, keepdim=True),
        lambda x: torch.bmm(x[None], mat2=x[None], out=torch.empty(1, 8, 8)),
        lambda x: torch.baddbmm(x[None], x[None], x[None], beta=2, alpha=3),
        lambda x: torch.linalg.inv_ex(x, check_errors=False, out=(torch.empty(8, 8), torch.empty((), dtype=torch.int32))),
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 8), out=torch.empty(8, 8)),
        lambda x: torch.ops.aten.pixel_shuffle.out(x.view(1, 4, 4, 4), 2, out=torch.empty(1, 1, 8, 8)),
        lambda x: torch.ops.aten.convolution(
            input=x[None, None], weight=x[None, None, :3, :3], bias=None, stride=[1, 1], padding=[0, 0], dilation=[1, 1],
            transposed=False, output_padding=[0, 0], groups=1,
        ),
    ],
)  # fmt: skip
def test_scratch_formulas_take_every_form_of_their_operations(run: Callable[[Tensor], object]) -> None:
    tracker = live.LiveStorages(scratch=scratch.CPU)
    with tracker:
        run(torch.eye(8))
    assert tracker.assumed == {}
    assert tracker.peak >= 8 * 8 * 4


def test_results_that_existed_before_allocate_nothing() -> None:
    x, result = torch.ones(1000), torch.empty(1000)
    tracker = live.LiveStorages(scratch=scratch.CPU)
    with tracker:
        torch.mul(x, x, out=result)
    assert tracker.peak == 0


def test_a_network_is_predicted_whole() -> None:
    case = Case(NetworkSpec("standard", "XS"), batch_size=2)
    found = predict.memory(case)
    assert found.parameter_bytes == 4 * sum(parameter.numel() for parameter in registry.build(case.spec).parameters())
    assert found.peaks["step"].total_bytes >= found.saved_bytes + found.optimizer_bytes


def test_what_no_machine_could_hold() -> None:
    found = predict.memory(Case(LayerSpec("aol", 64, 32), batch_size=2**16))
    assert found.input_bytes == 2**16 * 64 * 32**2 * 4
    assert found.peaks["step"].total_bytes > 5 * found.input_bytes


def test_a_gpu_rounds_blocks_and_is_not_needed() -> None:
    spec = LayerSpec("soc", 8, 6)
    found = predict.memory(Case(spec, batch_size=3, device="cuda"))
    assert all(peak.total_bytes % 512 == 0 for peak in found.peaks.values())
    assert found.input_bytes == 3 * 8 * 36 * 4  # the split is not rounded


def test_peaks_of_several_cases_name_what_cannot_be_predicted() -> None:
    plain = Case(LayerSpec("standard", 4, 8), 2)
    impossible = [Case(LayerSpec("cayley", 4, 3, 5), 2), Case(LayerSpec(f"{__name__}:AsksForAValue", 4, 8), 2)]
    frame, problems = predict.peaks([plain, *impossible])
    assert set(frame["case"]) == {plain.id}
    peaks = predict.memory(plain).peaks
    assert dict(zip(frame["phase"], frame["predicted_peak_bytes"])) == {name: peak.total_bytes for name, peak in peaks.items()}
    assert [case.id in line for case, line in zip(impossible, problems, strict=True)] == [True, True]
    assert list(predict.peaks([])[0].columns) == ["case", "phase", "predicted_peak_bytes"]


def test_peaks_are_predicted_within_a_time_and_the_rest_is_counted() -> None:
    cases = [Case(LayerSpec("standard", channels, 8), 2) for channels in (4, 8, 16)]
    frame, problems = predict.peaks(cases, limit_s=-1)
    assert frame.empty
    assert len(problems) == 1
    assert "3 of 3 cases" in problems[0]


def test_a_bug_of_our_own_does_not_pass_for_a_layer_that_asks_for_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, object]:
        raise TypeError("ours")

    monkeypatch.setattr(predict, "_peaks", broken)
    with pytest.raises(TypeError, match="ours"):
        predict.peaks([Case(LayerSpec("standard", 4, 8), 2)])


def test_a_layer_that_asks_for_values_is_named() -> None:
    with pytest.raises(errors.LipbenchError, match=r"AsksForAValue.*without values.*item"):
        predict.memory(Case(LayerSpec(f"{__name__}:AsksForAValue", 4, 8), 2))


def test_sizes_for_people() -> None:
    assert [predict.with_unit(size) for size in (0, 999, 999.6, 12_345, 3.4e9, 2e15)] == [
        "0 B", "999 B", "1 kB", "12.3 kB", "3.4 GB", "2e+03 TB",
    ]  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", *arguments])
    return int(str(caught.value.code)), *capsys.readouterr()


SMALL = ("--method", "standard,aol", "--channels", "8", "--image-size", "8", "--batch-size", "4")


def test_the_verb_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *SMALL)
    assert (code, err) == (0, "")
    assert "training peak" in out
    assert out.splitlines()[2].split()[:9] == ["standard", "8", "8", "×", "8", "3", "×", "3", "4"]
    assert "kB" in out
    assert "allocator" in out


def test_the_verb_prints_bytes_and_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *SMALL, "--format", "json", "--memory", "1")
    assert code == 0
    rows = json.loads(out)
    assert [row["fits"] for row in rows] == ["nothing", "nothing"]
    case = Case(LayerSpec("standard", 8, 8), 4)
    assert rows[0]["training_peak_bytes"] == predict.memory(case).peaks["step"].total_bytes
    training, inference = rows[0]["training_peak_bytes"], rows[0]["inference_peak_bytes"]
    for limit, fits in ((training, "training"), (training - 1, "inference"), (inference - 1, "nothing")):
        _, out, _ = run(capsys, *SMALL, "--format", "csv", "--memory", str(limit))
        assert next(csv.DictReader(out.splitlines()))["fits"] == fits


def test_the_verb_names_what_it_cannot_predict(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--method", "cayley", "--channels", "4", "--image-size", "3,8", "--kernel-size", "5")
    assert code == 3
    assert "8 × 8" in out
    assert "3 × 3" not in out
    assert "s3-k5" in err
    assert err.count("\n") == 1
