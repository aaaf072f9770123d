"""Every layer computes its definition in `reference.py`: outputs and all gradients.

Relative errors are of whole tensors, in the Euclidean norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import reference
import torch
from conftest import Variant, disturb
from torch import Tensor

from lipbench import registry
from lipbench.layers.base import LipschitzConv2d, LipschitzLinear
from lipbench.layers.bcop import BCOPConv2d, BjorckLinear
from lipbench.layers.bcop_polar import PolarLinear
from lipbench.layers.cayley import CayleyLinear
from lipbench.layers.cpl import CPLConv2d
from lipbench.layers.eco import ECOConv2d
from lipbench.layers.lot import LOTConv2d
from lipbench.layers.sandwich import SandwichLinear
from lipbench.layers.soc import SOCConv2d

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
SIZES = [
    (3, 3, 1, 4),
    (3, 3, 1, 5),
    (4, 4, 3, 6),
    (3, 3, 3, 5),
    (2, 2, 5, 7),
    (2, 2, 5, 6),
    (2, 2, 5, 4),
    (2, 3, 1, 5),
    (2, 4, 3, 5),
    (5, 3, 3, 6),
    (3, 2, 5, 7),
]
"""(inputs, outputs, kernel size, image size): each kernel size with odd and even images; equal, more and fewer outputs"""


def sizes_id(sizes: tuple[int, int, int, int]) -> str:
    return "i{}-o{}-k{}-s{}".format(*sizes)


def relative_error(got: Tensor, expected: Tensor) -> float:
    norm = torch.linalg.vector_norm(expected)
    assert norm > 0, "nothing to compare"
    return float(torch.linalg.vector_norm(got.double() - expected) / norm)


def gradients(y: Tensor, cotangent: Tensor, sources: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad((y * cotangent).sum(), list(sources.values()))
    return dict(zip(sources, found))


def differences(layer: LipschitzConv2d, method: str, image_size: int | None = None) -> dict[str, float]:
    """Relative error of the output, of the input gradient and of every parameter gradient."""
    dtype, s = next(layer.parameters()).dtype, image_size or layer.image_size
    x = torch.randn(2, layer.in_channels, s, s, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(2, layer.out_channels, s, s, dtype=dtype)
    trainable = dict(layer.named_parameters())
    state = {
        name: tensor.detach().double().clone() for name, tensor in layer.state_dict().items()
    }  # before iterations change it
    for name in trainable:
        state[name].requires_grad_()
    exact_x = x.detach().double().requires_grad_()

    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, dtype=dtype).double()  # noqa: E731  # the numbers that the layer drew
    if method == "cpl" and s != layer.image_size:
        state["u"] = draw(1, layer.in_channels, s, s)  # drawn again when s changes
    setting = reference.Setting(layer.training, layer.out_channels, draw)
    expected = reference.DEFINITIONS[method](exact_x, state, setting)

    found = {"output": y.detach(), **gradients(y, cotangent, {"input": x, **trainable})}
    exact_sources = {"input": exact_x, **{name: state[name] for name in trainable}}
    wanted = {"output": expected.detach(), **gradients(expected, cotangent.double(), exact_sources)}
    return {name: relative_error(found[name], wanted[name]) for name in found}


STEEP = {torch.float64: 10.0, torch.float32: 1000.0}
"""by how much more the gradients of free matrices may differ for "bcop-polar" and "lot-polar": the derivatives of eight
quintics multiply to about 10⁶, also where that of their composition is near 0, and so do rounding errors"""


def too_large(errors: dict[str, float], dtype: torch.dtype, method: str = "") -> dict[str, float]:
    steep = STEEP[dtype] if method.endswith("-polar") else 1.0
    allowed = {name: TOLERANCES[dtype] * (1.0 if name in ("output", "input") else steep) for name in errors}
    return {name: error for name, error in errors.items() if not error <= allowed[name]}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize("sizes", SIZES, ids=sizes_id)
def test_equals_its_definition(variant: Variant, sizes: tuple[int, int, int, int], dtype: torch.dtype, training: bool) -> None:
    layer = variant.build(*sizes, dtype=dtype).train(training)
    assert not too_large(differences(layer, variant.method.name), dtype, variant.method.name)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("image_size", [3, 7])
def test_equals_its_definition_at_another_image_size(variant: Variant, image_size: int, training: bool) -> None:
    layer = variant.build(3, 3, 3, 5).train(training)
    assert not too_large(differences(layer, variant.method.name, image_size), torch.float64, variant.method.name)


def test_every_method_has_a_definition() -> None:
    assert set(registry.METHODS) <= set(reference.DEFINITIONS)


# The definitions themselves


@pytest.mark.parametrize(("k", "s"), [(1, 3), (3, 4), (5, 7)])
def test_frequency_matrices_are_those_of_the_circular_convolution(k: int, s: int) -> None:
    kernel = torch.randn(3, 2, k, k, dtype=torch.float64)
    x = torch.randn(2, 2, s, s, dtype=torch.float64)
    by_matrix = reference.apply(reference.convolution_matrix(kernel, s, circular=True), x)
    by_frequency = reference.apply_per_frequency(reference.frequency_matrices(kernel, s), x)
    torch.testing.assert_close(by_frequency, by_matrix, rtol=1e-12, atol=1e-12)


def test_skew_kernel_has_a_skew_symmetric_matrix() -> None:
    kernel = reference.skew_kernel(torch.randn(3, 3, 5, 5, dtype=torch.float64))
    matrix = reference.convolution_matrix(kernel, 6, circular=False)
    torch.testing.assert_close(matrix, -matrix.T, rtol=0, atol=1e-14)


# Limits of truncated iterations


def dense(layer: LipschitzConv2d) -> Tensor:
    """The matrix of a linear layer without its bias: one column for each input pixel."""
    size = layer.in_channels * layer.image_size**2
    basis = torch.eye(size, dtype=torch.float64).reshape(size, layer.in_channels, layer.image_size, layer.image_size)
    with torch.no_grad():
        torch.manual_seed(1)
        origin = layer(torch.zeros_like(basis[:1]))
        torch.manual_seed(1)
        return (layer(basis) - origin).flatten(1).T


@pytest.mark.parametrize(("training", "terms"), [(True, 5), (False, 12)], ids=["training", "evaluation"])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_soc_is_an_exponential_up_to_the_remainder(k: int, training: bool, terms: int) -> None:
    layer = SOCConv2d(3, 3, k, 6).double()
    disturb(layer)
    skew = reference.skew_kernel(layer.weight.detach())
    sigma = min(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in reference.matricisations(skew))
    exponent = reference.soc_matrix(skew, torch.tensor(sigma, dtype=torch.float64), 6)
    norm = float(torch.linalg.matrix_norm(exponent, 2))
    remainder = sum(norm**n / math.factorial(n) for n in range(terms + 1, 60))

    difference = torch.linalg.matrix_norm(dense(layer.train(training)) - torch.matrix_exp(exponent), 2)
    assert difference <= remainder + 1e-9  # σ has converged to about as much
    assert difference >= 1e-3 * remainder, "one term more than announced"


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_soc_before_its_power_iterations_have_converged(training: bool) -> None:
    layer = SOCConv2d(4, 4, 3, 5).double().train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))  # the vectors are those of the former weight
    assert not too_large(differences(layer, "soc"), torch.float64)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_eco_before_its_power_iterations_have_converged(training: bool) -> None:
    layer = ECOConv2d(4, 4, 3, 5).double().train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))  # the vectors are those of the former weight
        layer.right.copy_(torch.nn.functional.normalize(torch.randn_like(layer.right), dim=1))
    assert not too_large(differences(layer, "eco"), torch.float64)


def test_soc_refresh_converges_to_the_least_norm() -> None:
    layer = SOCConv2d(4, 4, 3, 5).double()
    disturb(layer)
    skew = reference.skew_kernel(layer.weight.detach())
    exact = min(torch.linalg.matrix_norm(matrix, 2) for matrix in reference.matricisations(skew))
    torch.testing.assert_close(reference.soc_sigma(skew, layer.state_dict(), training=False), exact, rtol=1e-8, atol=0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_lot_is_the_inverse_root_where_newton_has_converged(k: int) -> None:
    layer = LOTConv2d(3, 3, k, 5).double().eval()
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight), alpha=0.1 / k)  # around the identity: well conditioned
    border = k // 2
    v = reference.frequency_matrices(layer.weight.detach(), 5 + 2 * border)
    values, vectors = torch.linalg.eigh(v @ reference.adjoint(v) + 1e-4 * torch.eye(3))
    root = vectors @ torch.diag_embed(values**-0.5).to(v.dtype) @ reference.adjoint(vectors)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (border,) * 4)
    exact = reference.apply_per_frequency(root @ v, padded)[:, :, border : border + 5, border : border + 5]
    torch.testing.assert_close(layer(x), exact, rtol=1e-6, atol=1e-6)


def test_cpl_with_the_published_number_of_iterations() -> None:
    layer = CPLConv2d(3, 3, 3, 5, eval_iterations=100).double().eval()
    disturb(layer)
    matrix = reference.convolution_matrix(layer.weight.detach(), 5, circular=False)
    u = layer.u.flatten()
    for _ in range(99):
        v = matrix @ u
        v = v / (torch.linalg.vector_norm(v) + 1e-6)
        u = matrix.T @ v
        u = u / (torch.linalg.vector_norm(u) + 1e-6)
    torch.testing.assert_close(layer.spectral_norm(5).detach(), reference.cpl_sigma(matrix, u), rtol=1e-12, atol=0)


# State that training updates


def test_cpl_takes_one_power_step_a_training_forward() -> None:
    layer = CPLConv2d(3, 3, 3, 5).double().train()
    matrix, u = reference.convolution_matrix(layer.weight.detach(), 5, circular=False), layer.u.flatten().clone()
    for _ in range(3):
        v = matrix @ u
        u = matrix.T @ (v / (torch.linalg.vector_norm(v) + 1e-6))
        u = u / (torch.linalg.vector_norm(u) + 1e-6)
        layer(torch.randn(2, 3, 5, 5, dtype=torch.float64))
        torch.testing.assert_close(layer.u.flatten(), u, rtol=1e-12, atol=1e-12)


def test_soc_takes_one_power_step_a_training_forward() -> None:
    layer = SOCConv2d(3, 3, 3, 5).double().train()
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))  # far from where the vectors have converged
    matrices = reference.matricisations(reference.skew_kernel(layer.weight.detach()))
    rights = [layer.get_buffer(f"right{index}").clone() for index in range(4)]
    for _ in range(3):
        layer(torch.randn(2, 3, 5, 5, dtype=torch.float64))
        for index, matrix in enumerate(matrices):
            left = matrix @ rights[index] / torch.linalg.vector_norm(matrix @ rights[index])
            rights[index] = matrix.T @ left / torch.linalg.vector_norm(matrix.T @ left)
            torch.testing.assert_close(layer.get_buffer(f"left{index}"), left, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(layer.get_buffer(f"right{index}"), rights[index], rtol=1e-12, atol=1e-12)


# Björck–Bowie steps, also where they have not converged


def spread(matrix: Tensor) -> None:
    """Set singular values between 1 and 1e-5, so that each power iteration and each Björck step is visible in the result."""
    u, s, vh = torch.linalg.svd(matrix.detach(), full_matrices=False)
    values = torch.logspace(0, -5, s.shape[-1], dtype=s.dtype)
    values[1] = 0.95
    with torch.no_grad():
        matrix.copy_(u @ torch.diag_embed(values.expand_as(s)) @ vh)


@pytest.mark.parametrize("sizes", [(4, 4, 1, 4), (4, 4, 3, 5), (3, 4, 3, 5), (4, 3, 3, 5)], ids=sizes_id)
def test_bcop_of_ill_conditioned_weights(sizes: tuple[int, int, int, int]) -> None:
    layer = BCOPConv2d(*sizes).double()
    spread(layer.weight)
    assert not too_large(differences(layer, "bcop"), torch.float64)


# Linear heads


def bjorck_linear(x: Tensor, state: reference.State, draw: Callable[..., Tensor]) -> Tensor:
    weight = state["weight"]
    return x @ reference.bjorck(weight, draw(1, weight.shape[1], 1).flatten()).T + state["bias"]


def cayley_of(state: reference.State) -> Tensor:
    """The Cayley transform of `α W / ‖W‖`."""
    return reference.cayley_transform(state["alpha"] * state["weight"] / torch.sqrt((state["weight"] ** 2).sum()))


def cayley_linear(x: Tensor, state: reference.State, draw: Callable[..., Tensor]) -> Tensor:
    return x @ cayley_of(state).T + state["bias"]


def sandwich_linear(x: Tensor, state: reference.State, draw: Callable[..., Tensor]) -> Tensor:
    rows, psi = cayley_of(state), state["psi"]
    a, b = rows[:, : len(psi)], rows[:, len(psi) :]
    hidden = torch.relu(math.sqrt(2) * torch.exp(-psi) * (x @ b.T) + state["bias"])
    return math.sqrt(2) * (torch.exp(psi) * hidden) @ a


def polar_linear(x: Tensor, state: reference.State, draw: Callable[..., Tensor]) -> Tensor:
    return x @ reference.polar(state["weight"]).T + state["bias"]


HEADS = {
    BjorckLinear: bjorck_linear, CayleyLinear: cayley_linear, PolarLinear: polar_linear, SandwichLinear: sandwich_linear,
}  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (3, 5), (5, 3)])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_head_equals_its_definition(head: type[LipschitzLinear], inputs: int, outputs: int, dtype: torch.dtype) -> None:
    layer = head(inputs, outputs).to(dtype)
    disturb(layer)
    if head is BjorckLinear and dtype == torch.float64:
        spread(layer.get_parameter("weight"))
    state = {name: tensor.detach().double().requires_grad_() for name, tensor in layer.named_parameters()}
    x = torch.randn(3, inputs, dtype=dtype)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    expected = HEADS[head](x.double(), state, lambda *shape: torch.randn(*shape, dtype=dtype).double())
    cotangent = torch.randn_like(y)
    errors = {"output": relative_error(y.detach(), expected.detach())}
    found = gradients(y, cotangent, dict(layer.named_parameters()))
    for name, wanted in gradients(expected, cotangent.double(), state).items():
        errors[name] = relative_error(found[name], wanted)
    assert not too_large(errors, dtype, "bcop-polar" if head is PolarLinear else "")


def test_every_head_has_a_definition() -> None:
    assert {method.head.layer for method in registry.METHODS.values() if method.head} == set(HEADS)
