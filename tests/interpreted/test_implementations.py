"""The `triton` implementations are the same functions as `paper`, with the same state, gradients and promise."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from lipbench_kernels import bjorck, newton
from torch import Tensor

from lipbench import certify, registry
from lipbench.cases import TRITON, Case, LayerSpec
from lipbench.layers import bcop
from lipbench.layers.base import LipschitzConv2d, WithKernel
from lipbench.layers.soc import TRAINED_BY_KERNEL
from lipbench.meters import lipschitz, macs
from lipbench.prediction import memory as predict
from lipbench.run import doubts
from lipbench.workload import Workload

METHODS = [name for name, method in registry.METHODS.items() if TRITON in method.implementations]
SIZES = [(4, 3, 5), (3, 1, 4)]
"""channels, kernel size, image size"""


def pair(method: str, channels: int, kernel_size: int, image_size: int) -> tuple[LipschitzConv2d, LipschitzConv2d]:
    """`paper` in float64 and `triton` in float32 with the same weights, away from where they start."""
    torch.manual_seed(0)
    paper = registry.implementation(method, "paper").layer(channels, channels, kernel_size, image_size)
    with torch.no_grad():
        for parameter in paper.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    for _ in range(4):
        paper.refresh()
    triton = registry.implementation(method, TRITON).layer(channels, channels, kernel_size, image_size)
    triton.load_state_dict(paper.state_dict(), strict=True)
    return paper.double(), triton


def results(layer: LipschitzConv2d, x: Tensor) -> list[Tensor]:
    """Output, and gradients of input and parameters, in float64."""
    torch.manual_seed(1)
    image = x.to(next(layer.parameters()).dtype).requires_grad_()
    output = layer(image)
    gradients = torch.autograd.grad((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum(),
                                    [image, *layer.parameters()])  # fmt: skip
    return [one.detach().double() for one in (output, *gradients)]


def exact_norms(matrices: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrices.detach(), 2, keepdim=True)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("method", METHODS)
def test_same_function_and_gradients(
    method: str, training: bool, sizes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    paper, triton = pair(method, *sizes)
    assert isinstance(triton, WithKernel)
    assert triton.fallback == ""
    # BCOP estimates norms from a fresh vector: here the exact ones for both. torch.randn must stay itself, since TorchDynamo
    # lists PyTorch's functions once in a process.
    monkeypatch.setattr(bcop, "spectral_norms", exact_norms)
    x = torch.linspace(-1, 1, 2 * sizes[0] * sizes[2] ** 2, dtype=torch.float64).view(2, sizes[0], sizes[2], sizes[2]).sin()
    for layer in (paper, triton):
        layer.train(training)
    for found, expected in zip(results(triton, x), results(paper, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_same_state_and_parameters(method: str) -> None:
    paper, triton = (registry.implementation(method, name).layer(4, 4, 3, 5) for name in ("paper", TRITON))
    assert {name: value.shape for name, value in paper.state_dict().items()} == {
        name: value.shape for name, value in triton.state_dict().items()
    }
    assert [name for name, _ in paper.named_parameters()] == [name for name, _ in triton.named_parameters()]
    twin = pickle.loads(pickle.dumps(copy.deepcopy(triton)))
    assert twin.fallback == ""


@pytest.mark.parametrize("method", METHODS)
def test_float64_is_computed_as_by_paper_and_says_so(method: str) -> None:
    paper, triton = pair(method, 4, 3, 5)
    triton = triton.double()
    triton.load_state_dict(paper.state_dict())
    assert isinstance(triton, WithKernel)
    assert "float32, and these weights are float64" in triton.fallback
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for found, expected in zip(results(triton, x), results(paper, x), strict=True):
        # Loading lets SOC's vectors take a few more steps.
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize(("method", "largest"), [("bcop", bjorck.largest), ("lot", newton.largest)], ids=["bcop", "lot"])
def test_what_is_too_large_for_the_chip_falls_back_and_the_record_names_it(
    method: str, largest: Callable[[str], int], precision: str
) -> None:
    channels = largest(precision) + 1
    case = Case(LayerSpec(method, channels, 4, 1, TRITON), 2, precision=precision)
    (warning,) = doubts.fallbacks(Workload.build(case, registry.build(case.spec)))
    assert warning.kind == "fallback"
    assert "fallback to paper in 1 layer" in warning.text
    assert f"{channels} × {channels}" in warning.text
    assert precision in warning.text
    layer = registry.build_layer(LayerSpec(method, channels - 1, 4, 1, TRITON))
    assert isinstance(layer, WithKernel)
    assert layer.fallback == ""


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
@pytest.mark.parametrize("method", METHODS)
def test_certificates(method: str, precision: str) -> None:
    torch.manual_seed(0)
    case = Case(LayerSpec(method, 3, 3, 3, TRITON), 2, precision=precision)
    workload = Workload.build(case, registry.build(case.spec))
    found = certify.certify(workload.module, workload.x)
    assert not certify.violation(found)
    largest = found.evaluation[0].largest
    paper = Case(LayerSpec(method, 3, 3, 3), 2)
    torch.manual_seed(0)
    reference = Workload.build(paper, registry.build(paper.spec))
    expected = certify.certify(reference.module, reference.x).evaluation[0].largest
    assert largest == pytest.approx(expected, abs=3e-5)
    judged = certify._exact_copy(workload.module)
    assert {parameter.dtype for parameter in judged.parameters()} == {torch.float32}  # as the kernel takes it
    assert isinstance(judged, WithKernel)
    assert (judged.fallback, judged.precision) == ("", precision)


def test_a_kernel_that_is_wrong_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from lipbench_kernels import aol_bound

    right = aol_bound.aol_bound
    monkeypatch.setattr(aol_bound, "aol_bound", lambda *given, **named: 0.25 * right(*given, **named))
    case = Case(LayerSpec("aol", 4, 4, 3, TRITON), 2)
    workload = Workload.build(case, registry.build(case.spec))
    found = certify.certify(workload.module, workload.x)
    assert lipschitz.violates(found.evaluation[0])


@pytest.mark.parametrize(("precision", "training"), [("ieee", True), ("tf32", True), ("tf32x3", True), ("ieee", False)])
def test_soc_trains_by_its_kernel_where_that_is_predicted_to_win(
    precision: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipbench_kernels import soc_series

    class UsedError(Exception):
        pass

    def used(*given: object) -> None:
        raise UsedError

    monkeypatch.setattr(soc_series, "soc_series", used)
    _, triton = pair("soc", 4, 3, 5)
    triton.precision = precision
    triton.train(training)
    with pytest.raises(UsedError) if not training or precision in TRAINED_BY_KERNEL else contextlib.nullcontext():
        triton(torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize("method", METHODS)
def test_one_graph_when_compiled(method: str) -> None:
    _, triton = pair(method, 4, 3, 5)
    torch._dynamo.reset()
    compiled = torch.compile(triton.train(), backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    state = copy.deepcopy(triton.state_dict())
    torch.manual_seed(1)
    expected = torch.autograd.grad(triton(x).square().sum(), [x, *triton.parameters()])
    triton.load_state_dict(state)
    torch.manual_seed(1)
    found = torch.autograd.grad(compiled(x).square().sum(), [x, *triton.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_counted_without_computing(method: str) -> None:
    """Fake tensors pass through, every operation has a formula, and the kernels do no more than `paper` does."""
    cases = {name: Case(LayerSpec(method, 16, 4, 3, name), 2) for name in ("paper", TRITON)}
    memory = {name: predict.memory(case) for name, case in cases.items()}
    assert memory[TRITON].saved_bytes <= memory["paper"].saved_bytes
    counted = {}
    for name, case in cases.items():
        workload = Workload.build(case, registry.build(case.spec))
        workload.prepare_training()
        counted[name] = [macs.count(workload.forward), macs.count(workload.backward)]
        assert not [one.unsupported for one in counted[name] if one.unsupported]
    for own, papers in zip(counted[TRITON], counted["paper"], strict=True):
        assert 0 < own.total <= 1.5 * papers.total
