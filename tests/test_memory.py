"""Measured bytes, compared with numbers calculated by hand."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lipbench import registry, theory
from lipbench.cases import Case, LayerSpec
from lipbench.meters import memory, peaks, saved
from lipbench.quantities import Memory
from lipbench.store import typed
from lipbench.workload import Workload

BATCH, CHANNELS, SIZE = 4, 4, 16
MAP = BATCH * CHANNELS * SIZE**2 * 4
"""bytes of one activation in float32"""


class Halve(torch.autograd.Function):
    """A function that saves one tensor, its input, and returns half of it."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x / 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient / 2 + 0 * x


class Known(nn.Module):
    """A layer whose allocations are all known: (b, 4, s, s) → (b, 4, s, s)."""

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
    # Input and cotangent, parameter, momentum and buffer are always held.
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

    assert saved.saved_bytes(run) == (60 + 36) * 4
    assert saved.saved_elements(run) == 60 + 36


def test_complex_elements_are_two_and_indices_one() -> None:
    z = torch.randn(5, 5, dtype=torch.complex64, requires_grad=True)
    assert saved.saved_elements(lambda: z @ z) == 2 * 25
    x = torch.randn(8, 3, requires_grad=True)
    assert saved.saved_bytes(lambda: x.max(dim=1)) == 8 * 8  # the positions, in int64
    assert saved.saved_elements(lambda: x.max(dim=1)) == 8


def test_custom_functions_are_seen() -> None:
    x = torch.randn(10, requires_grad=True)
    assert saved.saved_bytes(lambda: Halve.apply(x)) == 40


def test_a_backward_pass_still_works_and_nothing_leaks() -> None:
    x = torch.randn(10, requires_grad=True)
    with saved._saved_tensors():
        y = x.exp()
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, x.exp())


def test_without_gradients_nothing_is_saved() -> None:
    x = torch.randn(10, requires_grad=True)
    with torch.no_grad():
        assert saved.saved_bytes(lambda: x.exp()) == 0


def test_sizes_are_counted_without_computing() -> None:
    with FakeTensorMode():
        x = torch.empty(2**20, 2**10, requires_grad=True)  # 4 GiB that are not allocated
        assert saved.saved_bytes(lambda: x.exp()) == 2**32


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_every_method_is_measured_whole(method: str) -> None:
    case = Case(LayerSpec(method, channels=4, image_size=8), batch_size=4)
    workload = Workload.build(case, registry.build(case.spec))
    found = memory.measure(workload)
    assert set(found.peaks) == {"forward", "backward", "step", "parametrize", "inference", "first_inference"}
    assert found.parameter_bytes == 4 * sum(parameter.numel() for parameter in workload.module.parameters())
    assert found.optimizer_bytes == found.gradient_bytes == found.parameter_bytes
    # A line: the bytes saved per image do not depend on the batch size.
    assert found.saved_per_image_bytes is not None
    assert found.saved_constant_bytes is not None
    x = workload.x.detach()[:1].clone().requires_grad_()
    workload.prepare_training()
    one_image = saved.saved_bytes(lambda: workload.module(x))
    assert one_image == pytest.approx(found.saved_constant_bytes + found.saved_per_image_bytes)
    held = found.parameter_bytes + found.optimizer_bytes + found.buffer_bytes + 2 * found.input_bytes
    for peak in found.peaks.values():
        assert peak.total_bytes >= held + peak.above_baseline_bytes
        assert peak.above_baseline_bytes >= 0
    assert found.peaks["step"].total_bytes >= found.peaks["backward"].total_bytes
    # Evaluation with an empty cache allocates the tensors that evaluation with a full cache already holds.
    assert found.peaks["first_inference"].above_baseline_bytes >= found.peaks["inference"].above_baseline_bytes


class Greedy(Known):
    """A layer that does not fit into the GPU's memory in training mode."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise torch.OutOfMemoryError("the GPU is full")
        return super().forward(x)


def halves() -> Workload:
    """A layer with a cache that needs more memory to be filled than to be used."""
    case = Case(LayerSpec("cayley", CHANNELS, SIZE), batch_size=2)
    torch.manual_seed(0)
    return Workload.build(case, registry.build(case.spec))


def test_what_does_not_fit_is_left_out_and_the_rest_is_measured(known: Memory) -> None:
    case = Case(LayerSpec("elsewhere:Greedy", CHANNELS, SIZE), BATCH)
    workload = Workload.build(case, Greedy(CHANNELS, CHANNELS, 3))
    with pytest.raises(torch.OutOfMemoryError):
        memory.measure(workload)
    found = memory.measure(workload, phases=("inference", "first_inference"))
    assert set(found.peaks) == {"inference"}
    assert found.peaks["inference"].above_baseline_bytes == known.peaks["inference"].above_baseline_bytes
    held = 2 * MAP + CHANNELS * 4 + 7 * 4  # and no momentum
    assert found.peaks["inference"].total_bytes == held + found.peaks["inference"].above_baseline_bytes
    assert (found.gradient_bytes, found.optimizer_bytes, found.saved_bytes) == (None, None, None)
    assert (found.saved_per_image_bytes, found.saved_constant_bytes) == (None, None)
    assert (found.parameter_bytes, found.input_bytes, found.output_bytes) == (CHANNELS * 4, MAP, MAP)


@pytest.mark.parametrize("phase", ["forward", "backward", "step", "parametrize", "inference", "first_inference"])
def test_a_phase_alone_has_the_peak_that_it_has_among_all(phase: str) -> None:
    whole, alone = memory.measure(halves()), memory.measure(halves(), phases=[phase])
    assert set(alone.peaks) == {phase}
    assert alone.peaks[phase].above_baseline_bytes == whole.peaks[phase].above_baseline_bytes
    momentum = 0 if phase == "step" else whole.optimizer_bytes
    assert alone.peaks[phase].total_bytes == whole.peaks[phase].total_bytes - momentum


def test_without_a_step_gradients_are_known_and_momentum_is_not() -> None:
    whole, part = memory.measure(halves()), memory.measure(halves(), phases=("forward", "backward"))
    assert (part.gradient_bytes, part.optimizer_bytes) == (whole.gradient_bytes, None)
    assert (part.saved_bytes, part.saved_constant_bytes) == (whole.saved_bytes, whole.saved_constant_bytes)
    assert memory.measure(halves(), phases=("forward",)).gradient_bytes is None


def test_a_line_that_does_not_fit_is_missing_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = halves()
    whole = workload.module.forward

    def forward(x: Tensor) -> Tensor:
        if len(x) > 1:
            raise torch.OutOfMemoryError("the GPU is full")
        return whole(x)

    workload.x, workload.cotangent = workload.x.detach()[:1].clone().requires_grad_(), workload.cotangent[:1].clone()
    monkeypatch.setattr(workload.module, "forward", forward)
    found = memory.split(workload, "a test")
    assert found.saved_bytes
    assert (found.saved_per_image_bytes, found.saved_constant_bytes) == (None, None)


def test_on_a_gpu_what_is_held_is_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = halves()
    with FakeTensorMode():
        workload.x = torch.empty(3, CHANNELS, 5, 5, device="cuda")  # 1200 bytes: 3 blocks
    seen: list[int] = []

    def on_cuda(stages: list[peaks.Stage], held_bytes: int, rest: peaks.Preparation) -> tuple[dict[str, peaks.Peak], int]:
        workload.inference = lambda: None  # type: ignore[method-assign]  # on a GPU that is not there
        workload.module.eval()
        rest()
        seen.append(held_bytes)
        assert workload.module.training
        return {name: peaks.Peak(1, 1) for name, _, _ in stages}, 77

    monkeypatch.setattr(peaks, "on_cuda", on_cuda)
    found = memory.measure(workload, phases=("inference",))
    tensors = [*workload.module.parameters(), *workload.module.buffers(), workload.cotangent]
    assert seen == [3 * 512 + sum(-(-tensor.nbytes // 512) * 512 for tensor in tensors)]
    assert (found.source, found.workspace_bytes, set(found.peaks)) == ("cuda allocator", 77, {"inference"})


def test_records_from_before_are_read_and_what_is_missing_comes_back(known: Memory) -> None:
    old = {name: value for name, value in asdict(known).items() if name != "workspace_bytes"}
    assert typed.from_json(Memory, json.loads(json.dumps(old))) == known
    part = replace(known, gradient_bytes=None, optimizer_bytes=None, saved_bytes=None, workspace_bytes=2**25)
    assert typed.from_json(Memory, json.loads(json.dumps(asdict(part)))) == part


# ----------------------------------------------------------------------------------------------------- layers of others


def counted_layer(name: str) -> Workload:
    case = Case(LayerSpec(f"counted_layers:{name}", CHANNELS, SIZE), BATCH)
    return Workload.build(case, registry.build(case.spec))


@pytest.mark.parametrize("fake", [False, True], ids=["real", "fake"])
@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_the_split_is_that_of_the_exact_formulas(method: str, fake: bool) -> None:
    entry = registry.METHODS[method]
    exact = entry.implementations["paper"].exact
    assert exact is not None
    for batch_size in (1, 4, 6):
        case = Case(LayerSpec(method, channels=16, image_size=8, kernel_size=3), batch_size)
        with FakeTensorMode(allow_non_fake_inputs=True) if fake else contextlib.nullcontext():
            make = lambda: registry.build(case.spec)  # noqa: B023, E731  # called in this iteration
            found = memory.split(Workload.imagine(case, make) if fake else Workload.build(case, make()), "either")
        sizes = {"b": 1, "s": 8, "c": 16, "k": 3, **entry.iterations}
        assert found.saved_per_image_bytes == 4 * theory.evaluate(exact.input.memory, **sizes)
        assert found.saved_constant_bytes == 4 * theory.evaluate(exact.parameters.memory, **sizes)
        assert (found.unseen_bytes, found.failures) == (0, {})


def test_another_batch_is_no_view() -> None:
    workload = counted_layer("Pointwise")
    other = workload.other_batch()
    assert (len(other), other.untyped_storage().nbytes()) == (BATCH // 2, MAP // 2)
    assert torch.equal(other, workload.x[: BATCH // 2])
    assert other.is_leaf
    assert other.requires_grad


def test_attributes_of_a_context_are_saved_bytes() -> None:
    plain, hidden = (memory.split(counted_layer(name), "a test") for name in ("Pointwise", "HiddenInContext"))
    assert plain.saved_bytes == hidden.saved_bytes == MAP + CHANNELS**2 * 4
    assert plain.saved_per_image_bytes == hidden.saved_per_image_bytes == MAP / BATCH
    assert hidden.unseen_bytes == 0


def test_what_only_a_closure_keeps_is_said_to_be_unseen() -> None:
    found = memory.split(counted_layer("HiddenInHook"), "a test")
    assert (found.saved_bytes, found.unseen_bytes) == (MAP + CHANNELS**2 * 4, MAP)
    (warning,) = memory.warnings(found)
    assert (warning.kind, warning.phases) == ("unseen_memory", ("forward", "backward", "step"))
    assert str(MAP) in warning.text


@pytest.mark.parametrize(
    ("layer", "failed", "peaks_left"),
    [
        ("WholeBatches", {"other batch size"}, {"forward", "backward", "step", "inference"}),
        ("NoBackward", {"backward", "step"}, {"forward", "inference"}),
        ("NoParameters", set(), {"forward", "backward", "step", "inference"}),
        ("Detached", set(), {"forward", "backward", "step", "inference"}),
    ],
)
def test_what_fails_is_left_out_and_the_rest_stays(layer: str, failed: set[str], peaks_left: set[str]) -> None:
    found = memory.measure(counted_layer(layer))
    assert ({*found.failures}, {*found.peaks}) == (failed, peaks_left)
    assert found.saved_bytes
    assert {one.kind for one in memory.warnings(found)} <= {"uncounted"}
    assert len(list(memory.warnings(found))) == len(failed)


def test_where_no_phase_can_be_measured_the_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = counted_layer("Pointwise")
    monkeypatch.setattr(workload.module, "forward", lambda x: x.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        memory.measure(workload)
