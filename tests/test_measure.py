"""Measurement of a case, and its workload."""

from __future__ import annotations

import math

import pytest
import samples
import torch
from torch import Tensor, nn

from lipbench import registry
from lipbench.cases import Case, LayerSpec, Limits, NetworkSpec
from lipbench.errors import LipbenchError, UnsupportedError
from lipbench.layers.base import TwoHalves
from lipbench.meters import machine
from lipbench.quantities import GROUPS, PARTS, PHASES
from lipbench.run import doubts
from lipbench.run import measure as conductor
from lipbench.store.rounds import Part, Round
from lipbench.workload import Workload

QUICK = Limits(phase_seconds=0.02)


class External(nn.Module):
    """An external layer, which has no halves."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        with torch.no_grad():
            self.convolution.weight.mul_(0.1)  # 1-Lipschitz

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x)


class BreaksInEvaluation(External):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x / 0


class BreaksInBackward(External):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x - x).abs().sqrt()  # 0, with infinite slope


def case(method: str, **conditions: object) -> Case:
    return Case(LayerSpec(method, channels=4, image_size=6), batch_size=3, **conditions)  # type: ignore[arg-type]


def test_a_first_round_has_everything() -> None:
    found = conductor.measure(case("standard", threads=torch.get_num_threads()), QUICK)
    assert found.status == "ok"
    assert found.reason == ""
    assert found.phases is not None
    assert tuple(found.phases) == PHASES
    for timing in found.phases.values():
        assert len(timing.samples_s) >= 5
        assert all(sample > 0 for sample in timing.samples_s)
        assert timing.contention is not None
    assert found.phases["forward"].calls_per_sample == found.phases["step"].calls_per_sample == 1
    assert found.memory is not None
    assert set(found.memory.peaks) == set(PHASES)
    assert found.macs is not None
    assert set(found.macs.phases) == set(PHASES)
    assert found.machine is not None
    assert found.machine.flags["convolution_precision"] == "ieee"
    assert found.started.endswith("+00:00")
    assert found.duration_s > 0


def test_later_rounds_only_take_time() -> None:
    found = conductor.measure(case("standard"), QUICK, tuple(GROUPS))
    assert found.status == "ok"
    assert found.phases is not None
    assert found.memory is None
    assert found.macs is None


def test_a_black_box_goes_through_the_same_meters() -> None:
    found = conductor.measure(case(f"{__name__}:External"), QUICK)
    assert found.status == "ok"
    assert found.phases is not None
    assert set(found.phases) == {"forward", "backward", "step", "inference"}
    assert found.memory is not None
    assert found.macs is not None
    assert found.macs.phases["forward"] == found.macs.fvcore_forward == 3 * 36 * 16 * 9


@pytest.mark.parametrize(
    ("layer", "reason"),
    [("BreaksInEvaluation", "output in evaluation"), ("BreaksInBackward", "gradient of the input")],
)
def test_what_is_not_finite_is_not_measured(layer: str, reason: str) -> None:
    found = conductor.measure(case(f"{__name__}:{layer}"), QUICK)
    assert found.status == "nan"
    assert reason in found.reason
    bad = {name for name, part in found.parts.items() if part.status == "nan"}
    assert bad == ({"inference"} if layer == "BreaksInEvaluation" else {"training", "step"})
    assert found.phases is not None
    assert set(found.phases) == {phase for name in {"training", "step", "inference"} - bad for phase in GROUPS[name]}
    assert found.machine is not None


class IsTooLargeToTrain(External):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            torch.empty(2**50)
        return super().forward(x)


class Interrupts(External):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise KeyboardInterrupt
        return super().forward(x)


@pytest.mark.parametrize(
    ("layer", "status", "macs"), [("IsTooLargeToTrain", "out_of_memory", "ok"), ("Interrupts", "raised", "raised")]
)
def test_each_part_fails_for_itself(layer: str, status: str, macs: str) -> None:
    found = conductor.measure(case(f"{__name__}:{layer}"), QUICK)
    assert {name: part.status for name, part in found.parts.items()} == {
        "training": status, "step": status, "inference": "ok", "memory": "ok", "macs": macs, "certificate": "ok",
    }  # fmt: skip
    assert found.status == status
    assert found.reason.startswith("training, step, macs: " if macs != "ok" else "training, step: ")
    if macs == "ok":  # what could be counted stays, with a warning about the rest
        assert found.macs is not None
        assert set(found.macs.phases) == {"inference"}
        assert ("forward",) in {one.phases for one in found.warnings if one.kind == "uncounted"}
    assert found.phases is not None
    assert set(found.phases) == {"inference"}
    assert found.memory is not None
    assert set(found.memory.peaks) == {"inference"}
    assert found.certificate is not None


def test_the_step_is_taken_from_the_iterations_of_training_where_it_can_be() -> None:
    found = conductor.measure(case("standard"), QUICK, ("training", "step"))
    assert found.phases is not None
    assert found.phases["step"].warmup_s == found.phases["forward"].warmup_s
    steps = zip(found.phases["step"].samples_s, found.phases["forward"].samples_s, found.phases["backward"].samples_s)
    assert all(step > forward + backward for step, forward, backward in steps)
    alone = conductor.measure(case("standard"), QUICK, ("step",))
    assert alone.phases is not None
    assert set(alone.phases) == {"step"}


def test_training_is_measured_though_no_step_can_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: torch.optim.SGD) -> None:
        raise torch.OutOfMemoryError("no room for momenta")

    monkeypatch.setattr(torch.optim.SGD, "step", full)
    found = conductor.measure(case("standard"), QUICK, ("training", "step", "inference"))
    assert {name: part.status for name, part in found.parts.items()} == {
        "training": "ok", "step": "out_of_memory", "inference": "ok",
    }  # fmt: skip
    assert found.phases is not None
    assert set(found.phases) == {"forward", "backward", "inference"}


def test_results_so_far_are_reported_before_each_part() -> None:
    heard: list[tuple[Round, str | None, tuple[str, ...]]] = []
    found = conductor.measure(case("standard"), QUICK, ("macs", "inference", "memory"), lambda *told: heard.append(told))
    assert [doing for _, doing, _ in heard] == ["inference", "memory", "macs", None]
    assert [left for _, _, left in heard] == [("memory", "macs"), ("macs",), (), ()]
    assert [set(one.parts) for one, _, _ in heard] == [set(), {"inference"}, {"inference", "memory"}, set(found.parts)]
    assert heard[-1][0] == found


def test_a_device_that_is_of_no_use_any_more_ends_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "_is_usable", lambda device: False)
    heard: list[tuple[str, ...]] = []
    found = conductor.measure(case("standard"), QUICK, PARTS, lambda _, doing, left: heard.append(left))
    assert found.parts == {"training": Part(), "step": Part()}
    assert heard[-1] == ("parametrize", "inference", "first_inference", "memory", "macs", "certificate")


def test_doubts_are_reported() -> None:
    found = conductor.measure(case("standard", threads=97, precision="tf32"), QUICK, tuple(GROUPS))
    told = {one.kind: one for one in found.warnings}
    assert "97" in told["threads"].text
    assert "tf32" in told["precision"].text
    assert found.machine is not None
    assert found.machine.flags["matmul_precision"] == "tf32"


def test_a_gpu_that_is_not_there_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LipbenchError, match="CUDA"):
        conductor.measure(case("standard", device="cuda"), QUICK)


@pytest.mark.parametrize(("method", "image_size", "kernel_size"), [("cayley", 3, 5), ("aol", 2, 7)])
def test_a_kernel_too_large_for_the_image_is_unsupported(method: str, image_size: int, kernel_size: int) -> None:
    too_large_a_kernel = Case(LayerSpec(method, 4, image_size, kernel_size), batch_size=2)
    with pytest.raises(UnsupportedError, match="larger image"):
        conductor.measure(too_large_a_kernel, QUICK)


# ----------------------------------------------------------------------------------------------------------------- workload


def build(method: str, **conditions: object) -> Workload:
    it = case(method, **conditions)
    torch.manual_seed(it.seed)
    return Workload.build(it, registry.build(it.spec))


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_equal_cases_have_equal_weights_and_data(method: str) -> None:
    one, other = build(method), build(method)
    assert torch.equal(one.x, other.x)
    assert torch.equal(one.cotangent, other.cotangent)
    for (name, a), b in zip(one.module.state_dict().items(), other.module.state_dict().values()):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_weights_are_moved_from_where_they_start(method: str) -> None:
    spec = case(method).spec
    torch.manual_seed(0)
    fresh = registry.build(spec)
    moved = build(method).module
    for (name, before), b in zip(fresh.named_parameters(), moved.parameters()):
        a = before.detach()
        size = max(torch.linalg.vector_norm(a).item(), 1e-3 * math.sqrt(a.numel()))
        assert torch.linalg.vector_norm(a - b.detach()).item() > 0.005 * size, name
        assert torch.isfinite(b).all(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_is_of_the_dtype(dtype: str) -> None:
    workload = build("cayley", dtype=dtype)
    wanted = getattr(torch, dtype)
    assert workload.x.dtype == workload.cotangent.dtype == workload.forward().dtype == wanted
    assert all(parameter.dtype == wanted for parameter in workload.module.parameters())


@pytest.mark.parametrize("method", ["soc", "cpl"])
def test_restoring_undoes_training(method: str) -> None:
    workload = build(method)
    before = {name: tensor.clone() for name, tensor in workload.module.state_dict().items()}
    workload.optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(3):
        workload.prepare_training()
        workload.step()
    changed = [name for name, tensor in workload.module.state_dict().items() if not torch.equal(tensor, before[name])]
    assert "weight" in changed
    assert len(changed) > 1  # the vectors of the power iteration change too
    workload.restore()
    for name, tensor in workload.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_every_sample_begins_without_gradients_and_results() -> None:
    workload = build("standard")
    workload.prepare_training()
    workload.step()
    assert workload.x.grad is not None
    for group in workload.groups():
        group.prepare()
        assert workload.x.grad is None
        assert all(parameter.grad is None for parameter in workload.module.parameters())
        assert workload.output is None
        for stage in group.stages.values():
            stage()


def test_phases_run_in_their_modes() -> None:
    workload = build("aol")
    modes = {}
    for group in workload.groups():
        group.prepare()
        modes.update(dict.fromkeys(group.stages, workload.module.training))
    assert modes == {phase: phase not in ("inference", "first_inference") for phase in PHASES}


def test_the_cache_is_warm_in_inference_and_cold_in_the_first() -> None:
    workload = build("aol")
    layer = workload.module
    assert isinstance(layer, TwoHalves)
    calls = 0
    original = layer.parameter_half

    def counted(image_size: int) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        return original(image_size)

    layer.parameter_half = counted  # type: ignore[method-assign]
    groups = {name: group for group in workload.groups() for name in group.stages}
    for name, expected in ("inference", 1), ("first_inference", 4):  # the first inference fills the cache
        calls = 0
        workload.prepare_first_inference()
        for _ in range(4):
            groups[name].prepare()
            groups[name].stages[name]()
        assert calls == expected


def test_parametrising_keeps_the_graph_of_every_layer() -> None:
    spec = NetworkSpec("aol", "XS")
    workload = Workload.build(Case(spec, batch_size=2), registry.build(spec))
    workload.prepare_training()
    workload.parametrize()
    assert len(workload.effective) == len(workload.halves) > 20
    assert all(effective[0].grad_fn is not None for effective in workload.effective)


@pytest.mark.parametrize(("batch_size", "other"), [(1, 2), (2, 1), (5, 2), (32, 16)])
def test_the_other_batch_differs(batch_size: int, other: int) -> None:
    it = Case(LayerSpec("standard", channels=4, image_size=6), batch_size=batch_size)
    batch = Workload.build(it, registry.build(it.spec)).other_batch()
    assert len(batch) == other
    assert batch.requires_grad


@pytest.mark.parametrize(("implementation", "said"), [("triton", True), ("paper", False)])
def test_an_interpreted_round_says_so(monkeypatch: pytest.MonkeyPatch, implementation: str, said: bool) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = machine.describe("cpu", 1)
    assert found.flags["triton"] == "interpreter"
    it = Case(LayerSpec("aol", 4, 6, implementation=implementation), 2, threads=torch.get_num_threads())
    warnings = list(doubts.warnings(it, Round("ok", machine=found, phases={"forward": samples.timing(1.0)})))
    assert ("interpreted" in [one.kind for one in warnings]) == said
