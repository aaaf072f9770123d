"""The `lean` implementations that compute with matrices: the same function and gradients as `paper`, at their exact costs."""

from __future__ import annotations

import copy

import pytest
import torch
import yardstick
from conftest import Variant
from torch import Tensor

from lipbench import registry, theory
from lipbench.errors import LipbenchError
from lipbench.layers import lot
from lipbench.layers.base import LipschitzConv2d
from lipbench.layers.lean import newton
from lipbench.layers.lean.spectrum import Torus, kernel_blocks

METHODS = ("bcop", "cayley", "lot")
SIZES = ((4, 4, 1, 5), (4, 4, 3, 6), (6, 6, 5, 7), (3, 5, 3, 4), (5, 2, 3, 5))
"""(inputs, outputs, kernel_size, image_size)"""
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def pair(method: str, *sizes: int, dtype: torch.dtype = torch.float64) -> tuple[LipschitzConv2d, LipschitzConv2d]:
    """The `paper` and the `lean` layer of a method with the same disturbed weights."""
    paper = Variant(registry.METHODS[method], "paper").build(*sizes, dtype=dtype)
    lean = Variant(registry.METHODS[method], "lean").build(*sizes, dtype=dtype, disturbed=False)
    lean.load_state_dict(paper.state_dict())
    return paper, lean


def results(layer: LipschitzConv2d, x: Tensor, weights: Tensor, autocast: bool = False) -> list[Tensor]:
    """Output and the gradients of input and all parameters, after the same random vectors each time."""
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output = layer(x)
    return [output, *torch.autograd.grad((output * weights).sum(), [x, *layer.parameters()])]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Each within a tolerance relative to its norm."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.linalg.vector_norm(one - other) <= tolerance * torch.linalg.vector_norm(other)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_lean_is_the_same_function_with_the_same_gradients(
    method: str, sizes: tuple[int, ...], dtype: torch.dtype, training: bool
) -> None:
    paper, lean = (layer.train(training) for layer in pair(method, *sizes, dtype=dtype))
    x = torch.randn(3, paper.in_channels, paper.image_size, paper.image_size, dtype=dtype)
    weights = torch.randn(3, paper.out_channels, paper.image_size, paper.image_size, dtype=dtype)
    expected = results(paper, x, weights)
    assert_close(results(lean, x, weights), expected, TOLERANCE[dtype])
    lean.recompute = True
    assert_close(results(lean, x, weights), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_differences(method: str) -> None:
    layer = pair(method, 3, 4, 3, 4)[1].train()
    names = [name for name, _ in layer.named_parameters()]

    def output(x: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(3)
        result: Tensor = torch.func.functional_call(copy.copy(layer), dict(zip(names, parameters, strict=True)), (x,))
        return result

    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    parameters = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    if method == "bcop":  # the estimated norms are not differentiated, so that differences in the weights must not move them
        parameters = [parameter.requires_grad_(parameter.dim() == 1) for parameter in parameters]
    assert torch.autograd.gradcheck(output, (x, *parameters))


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_neither_half(method: str) -> None:
    paper, lean = pair(method, 4, 4, 3, 6, dtype=torch.float32)
    x, weights = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    expected = results(paper, x, weights, autocast=True)
    found = results(lean, x, weights, autocast=True)
    assert_close(found, expected, 1e-2 if method == "bcop" else TOLERANCE[torch.float32])


@pytest.mark.parametrize(("batch_size", "image_size", "kernel_size", "channels"), [*yardstick.SHAPES, (2, 9, 3, 12)])
@pytest.mark.parametrize("method", METHODS)
def test_exact_formulas_equal_what_is_counted(
    method: str, batch_size: int, image_size: int, kernel_size: int, channels: int
) -> None:
    entry = registry.implementation(method, "lean")
    if not yardstick.takes(method, batch_size, image_size, kernel_size, channels):
        pytest.skip("the method does not take this shape")
    values = {"b": batch_size, "s": image_size, "k": kernel_size, "c": channels, **registry.METHODS[method].iterations}
    layer = entry.layer(channels, channels, kernel_size, image_size)
    x = torch.randn(batch_size, channels, image_size, image_size, requires_grad=True)
    assert entry.exact is not None
    halves = (entry.exact.input, entry.exact.parameters)
    assert yardstick.counted_macs(layer, x) == tuple(theory.evaluate(half.macs, **values) for half in halves)
    assert yardstick.backward_macs(layer, x) == tuple(theory.evaluate(half.backward, **values) for half in halves)
    assert yardstick.stored_elements(layer, x) == tuple(theory.evaluate(half.memory, **values) for half in halves)


# ------------------------------------------------------------------------------------------------------- spectra and folding


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 4, 5, 8])
def test_the_torus_has_the_transforms_of_an_fft(size: int, padding: int) -> None:
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    torus = Torus(size, padding, x)
    real, imaginary = torus.spectrum(x)
    found = torch.complex(real, imaginary).view(torus.size, -1, 2, 3).permute(2, 3, 0, 1)
    torch.testing.assert_close(found, torch.fft.rfft2(padded), rtol=1e-12, atol=1e-12)
    spectrum = torch.randn_like(found)  # of no real image: what an inverse transform ignores is ignored alike
    inner = slice(padding, padding + size)
    expected = torch.fft.irfft2(spectrum, s=(torus.size,) * 2)[:, :, inner, inner]
    parts = torch.view_as_real(spectrum.permute(2, 3, 0, 1).flatten(0, 1))
    torch.testing.assert_close(torus.image(parts[..., 0].contiguous(), parts[..., 1].contiguous()), expected)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_kernel_blocks_are_those_of_the_fourier_transform(kernel_size: int) -> None:
    from lipbench.layers.cayley import kernel_spectrum

    kernel = torch.randn(3, 2, kernel_size, kernel_size, dtype=torch.float64)
    for size in (6, 7):
        found = torch.complex(*kernel_blocks(kernel, size))
        torch.testing.assert_close(found, kernel_spectrum(kernel, size), rtol=1e-12, atol=1e-12)


def test_the_folded_root_is_as_exact_as_the_coupled_one_in_float32() -> None:
    matrices = torch.randn(5, 32, 32, dtype=torch.complex128)
    y, _ = lot.normalized_covariance(matrices)
    expected = lot.inverse_root(y, lot.NEWTON_ITERATIONS)
    folded = (y.real + y.imag).float()
    found = newton.folded_inverse_root(folded, lot.NEWTON_ITERATIONS, training=True).double()
    ours = torch.linalg.vector_norm(found - (expected.real + expected.imag))
    theirs = torch.linalg.vector_norm(lot.inverse_root(y.to(torch.complex64), lot.NEWTON_ITERATIONS) - expected)
    assert ours <= 2 * theirs


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch itself, when it first loads torch.func.jvp
def test_a_second_gradient_or_a_tangent_of_the_folded_root_is_refused() -> None:
    y = torch.eye(3).repeat(2, 1, 1).requires_grad_()
    root = newton.folded_inverse_root(y, 4, training=True)
    (gradient,) = torch.autograd.grad(root.square().sum(), y, create_graph=True)
    with pytest.raises(LipbenchError, match="only first derivatives"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match=r"jvp|setup_context"):
        torch.func.jvp(lambda y: newton.folded_inverse_root(y, 4, training=True), (y.detach(),), (y.detach(),))
    _, tangent = torch.func.jvp(lambda y: newton.folded_inverse_root(y, 4, training=False), (y.detach(),), (y.detach(),))
    assert tangent.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_second_derivative_is_refused_where_other_paths_would_give_a_wrong_sum(method: str) -> None:
    _, lean = pair(method, 4, 4, 3, 6)
    lean.train()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    gradients = torch.autograd.grad(lean(x).square().sum(), list(lean.parameters()), create_graph=True)
    for given in (list(lean.parameters()), [x]):
        with pytest.raises(LipbenchError, match="only first derivatives"):
            torch.autograd.grad(sum(one.square().sum() for one in gradients), given, retain_graph=True)
