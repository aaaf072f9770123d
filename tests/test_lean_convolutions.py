"""The `lean` forms of AOL, CPL, SLL and SOC: the same functions and gradients as `paper`, at their exact costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import yardstick
from torch import Tensor
from torch.autograd import gradcheck

from lipbench import registry, theory
from lipbench.errors import LipbenchError
from lipbench.layers.aol import self_correlation
from lipbench.layers.base import LipschitzConv2d
from lipbench.layers.lean import convolution, correlation, residual, series
from lipbench.layers.soc import exponential
from lipbench.meters import macs

METHODS = ("aol", "cpl", "sll", "soc")
SMALL = [(2, 6, 3, 4), (3, 9, 3, 6), (2, 7, 5, 4), (4, 8, 1, 8)]
"""(batch_size, image_size, kernel_size, channels): images on both sides of `SMALL_IMAGE`"""
SHAPES = [*SMALL, (1, 4, 3, 64), (1, 9, 3, 66), (1, 5, 5, 64), (2, 3, 1, 64)]
"""the last have enough channels for the correlation by half of its shifts"""


def pair(method: str, channels: int, kernel_size: int, image_size: int, dtype: torch.dtype) -> tuple[LipschitzConv2d, ...]:
    """The `paper` and the `lean` layer with the same random parameters and state."""
    paper, lean = (
        registry.implementation(method, name).layer(channels, channels, kernel_size, image_size).to(dtype)
        for name in ("paper", "lean")
    )
    with torch.no_grad():
        for parameter in paper.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    paper.refresh()
    lean.load_state_dict(paper.state_dict())
    for mine, theirs in zip(lean.buffers(), paper.buffers()):
        mine.copy_(theirs)  # loading refreshes them once more
    return paper, lean


def results(layer: LipschitzConv2d, x: Tensor, training: bool) -> dict[str, Tensor]:
    """Output, all gradients, and the state after three calls."""
    layer.train(training).zero_grad()
    for _ in range(3):
        image = x.clone().requires_grad_()
        output = layer(image)
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=x.dtype).view_as(output))
    found = {"output": output, "input": image.grad, **{name: one.grad for name, one in layer.named_parameters()}}
    return {name: one.detach() for name, one in found.items() if one is not None} | dict(layer.named_buffers())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["float64", "float32"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_outputs_gradients_and_state_equal_those_of_the_paper(
    method: str, shape: tuple[int, ...], training: bool, recompute: bool, dtype: torch.dtype, tolerance: float
) -> None:
    batch_size, image_size, kernel_size, channels = shape
    paper, lean = pair(method, channels, kernel_size, image_size, dtype)
    lean.recompute = recompute
    x = torch.randn(batch_size, channels, image_size, image_size, dtype=dtype)
    expected, found = (results(layer, x, training) for layer in (paper, lean))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= tolerance * float(value.norm()), name


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("method", ["cpl", "sll", "soc"])
def test_the_forms_for_narrow_and_for_wide_vectors_are_one_function(
    method: str, shape: tuple[int, ...], wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (convolution, residual, series):
        monkeypatch.setattr(module, "WIDE_VECTORS", wide)
    batch_size, image_size, kernel_size, channels = shape
    paper, lean = pair(method, channels, kernel_size, image_size, torch.float64)
    x = torch.randn(batch_size, channels, image_size, image_size, dtype=torch.float64)
    for training in (True, False):
        expected, found = (results(layer, x, training) for layer in (paper, lean))
        for name, value in expected.items():
            assert float((found[name] - value).norm()) <= 1e-10 * float(value.norm()), name


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_exact_formulas_equal_what_is_counted(method: str, shape: tuple[int, ...]) -> None:
    batch_size, image_size, kernel_size, channels = shape
    values = {"b": batch_size, "s": image_size, "k": kernel_size, "c": channels, **registry.METHODS[method].iterations}
    implementation = registry.implementation(method, "lean")
    exact, layer = implementation.exact, implementation.layer(channels, channels, kernel_size, image_size)
    assert exact is not None
    x = torch.randn(batch_size, channels, image_size, image_size, requires_grad=True)
    halves = (exact.input, exact.parameters)
    assert yardstick.counted_macs(layer, x) == tuple(theory.evaluate(half.macs, **values) for half in halves)
    assert yardstick.stored_elements(layer, x) == tuple(theory.evaluate(half.memory, **values) for half in halves)
    backward = tuple(theory.evaluate(half.backward, **values) for half in halves)
    assert yardstick.backward_macs(layer, x) == backward
    output = layer(x)
    assert macs.count(lambda: output.backward(torch.ones_like(output))).total == sum(backward)


@pytest.mark.parametrize(("outputs", "inputs", "kernel_size"), [(3, 2, 3), (2, 3, 3), (2, 2, 5), (3, 3, 1)])
def test_the_correlation_from_half_of_its_shifts(outputs: int, inputs: int, kernel_size: int) -> None:
    kernel = torch.randn(outputs, inputs, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(inputs, inputs, dtype=torch.float64)
    expected, found = self_correlation(kernel).abs().sum((2, 3)), correlation.absolute_correlation(kernel)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), kernel)
    (gradient,) = torch.autograd.grad((found * weights).sum(), kernel)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)
    assert gradcheck(correlation.absolute_correlation, kernel)


def test_where_the_correlation_is_zero_so_is_its_slope() -> None:
    kernel = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    kernel[:, :, 1, 1] = torch.eye(3)
    gradients = []
    for form in (lambda one: self_correlation(one).abs().sum((2, 3)), correlation.absolute_correlation):
        gradients += torch.autograd.grad(form(kernel.requires_grad_()).sum(), kernel)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize(("image_size", "kernel_size"), [(4, 3), (9, 3), (5, 1), (4, 5)])
def test_gradients_of_the_series_and_of_the_block_are_those_of_differences(
    image_size: int, kernel_size: int, on_cpu: bool
) -> None:
    x = torch.randn(2, 2, image_size, image_size, dtype=torch.float64, requires_grad=True)
    first, second = (torch.randn(2, 2, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True) for _ in range(2))
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda *given: series.exponential(*given, 3, training=True, on_cpu=on_cpu), (x, first / 4))
    assert gradcheck(lambda *given: residual.residual(*given, training=True, on_cpu=on_cpu), (x, first, bias, second))
    scale = torch.tensor(-0.7, dtype=x.dtype, requires_grad=True)
    assert gradcheck(lambda *given: residual.scaled_residual(*given, training=True, on_cpu=on_cpu), (x, first, bias, scale))
    plain = series.exponential(x, first / 4, 3, training=False, on_cpu=on_cpu)
    torch.testing.assert_close(plain, exponential(x, first / 4, 3), rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # by PyTorch's forward mode
@pytest.mark.parametrize("method", METHODS)
def test_derivatives_that_a_function_does_not_have_are_refused(method: str) -> None:
    """`cpl`, `sll` and `soc` in training; AOL's input half has all derivatives, its bound none but the first."""
    _, lean = pair(method, 64, 1, 3, torch.float64)
    lean.train()
    x = torch.randn(1, 64, 3, 3, dtype=torch.float64, requires_grad=True)
    parameters = list(lean.parameters())
    gradients = torch.autograd.grad(lean(x).square().sum(), parameters, create_graph=True)
    for given in (parameters, [x]):  # each has other paths that lead to it, which alone would give a wrong sum
        with pytest.raises(LipbenchError, match="only first derivatives"):
            torch.autograd.grad(sum(one.square().sum() for one in gradients), given, retain_graph=True)
    if method != "aol":
        with pytest.raises(RuntimeError, match="jvp"), torch.autograd.forward_ad.dual_level():
            lean(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_what_it_gives_the_paper(method: str, dtype: torch.dtype) -> None:
    paper, lean = pair(method, 8, 3, 6, torch.float32)
    for x in (torch.randn(2, 8, 6, 6), torch.randn(2, 8, 6, 6).to(dtype)):
        outputs, gradients = [], []
        for layer in (paper, lean):
            image = x.clone().requires_grad_()
            with torch.autocast("cpu", dtype):
                outputs.append(layer.train()(image))
            gradients.append(torch.autograd.grad(outputs[-1].float().sum(), [image, *layer.parameters()]))
        assert outputs[1].dtype == outputs[0].dtype
        for found, expected in zip((outputs[1], *gradients[1]), (outputs[0], *gradients[0]), strict=True):
            assert float((found - expected).detach().float().norm()) <= 3e-2 * float(expected.detach().float().norm())


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_training_step_of_many_channels_equals_the_uncompiled_one(method: str) -> None:
    _, lean = pair(method, 64, 3, 3, torch.float64)
    twin = copy.deepcopy(lean)
    for mine, theirs in zip(twin.buffers(), lean.buffers()):
        mine.copy_(theirs)
    x = torch.randn(1, 64, 3, 3, dtype=torch.float64)
    torch._dynamo.reset()
    compiled: Any = torch.compile(twin.train(), backend="aot_eager", fullgraph=True)
    found = [torch.autograd.grad(call(x).square().sum(), list(layer.parameters())) for call, layer in
             ((lean.train(), lean), (compiled, twin))]  # fmt: skip
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)
