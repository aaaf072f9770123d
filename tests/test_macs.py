"""Counted MACs, compared with numbers calculated by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import flop_counter

from lipbench import networks, registry
from lipbench.cases import Case, LayerSpec, NetworkSpec
from lipbench.meters import foreign, formulas, free, macs
from lipbench.workload import Workload

REAL = torch.float64
COMPLEX = torch.complex128


def random(*shape: int, dtype: torch.dtype = REAL) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def total(run: Callable[[], object]) -> int:
    """MACs of a run in which everything could be counted."""
    counted = macs.count(run)
    assert counted.unsupported == ()
    assert counted.total == pytest.approx(sum(counted.by_operation.values()), abs=len(counted.by_operation))
    assert counted.published_total <= counted.total
    return counted.total


def published(run: Callable[[], object]) -> int:
    """The same in the paper's convention."""
    return macs.count(run).published_total


@pytest.mark.parametrize(("dtype", "factor"), [(REAL, 1), (COMPLEX, 4)])
@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda r: r(2, 3) @ r(3, 5), 2 * 3 * 5),
        (lambda r: r(7, 2, 3) @ r(7, 3, 5), 7 * 2 * 3 * 5),
        (lambda r: torch.mv(r(4, 6), r(6)), 4 * 6),
        (lambda r: torch.dot(r(9), r(9)), 9),
        (lambda r: torch.vdot(r(9), r(9)), 9),
        (lambda r: torch.addmm(r(2, 5), r(2, 3), r(3, 5)), 2 * 3 * 5),
        (lambda r: torch.addmv(r(4), r(4, 6), r(6)), 4 * 6),
        (lambda r: torch.baddbmm(r(7, 2, 5), r(7, 2, 3), r(7, 3, 5)), 7 * 2 * 3 * 5),
        (lambda r: torch.einsum("bij,bjk->bik", r(7, 2, 3), r(7, 3, 5)), 7 * 2 * 3 * 5),
        (lambda r: torch.linalg.inv(r(5, 4, 4)), 5 * 4**3),
        (lambda r: torch.linalg.inv_ex(r(4, 4)), 4**3),
        (lambda r: torch.linalg.solve(r(5, 6, 6), r(5, 6, 2)), 5 * (6**3 / 3 + 6**2 * 2)),
        (lambda r: torch.linalg.solve(r(6, 6), r(6)), 6**3 / 3 + 6**2),
        (lambda r: torch.linalg.solve(r(5, 6, 6), r(6, 2)), 5 * (6**3 / 3 + 6**2 * 2)),
        (lambda r: torch.linalg.lu_factor(r(5, 6, 6)), 5 * 6**3 / 3),
        (lambda r: torch.linalg.solve_triangular(r(5, 6, 6).triu(), r(5, 6, 2), upper=True), 5 * 6**2 * 2 / 2),
        (lambda r: torch.linalg.lu_factor(r(5, 6, 4)), 5 * (6 * 4**2 / 2 - 4**3 / 6)),
        (lambda r: torch.linalg.det(r(5, 6, 6)), 5 * 6**3 / 3),
        (lambda r: torch.linalg.slogdet(r(6, 6)), 6**3 / 3),
        (lambda r: torch.linalg.cholesky_ex(r(5, 6, 6)), 5 * 6**3 / 6),
        (lambda r: torch.linalg.ldl_factor_ex(r(5, 6, 6)), 5 * 6**3 / 6),
        (lambda r: torch.cholesky_solve(r(5, 6, 2), r(5, 6, 6)), 5 * 6**2 * 2),
        (lambda r: torch.geqrf(r(6, 4).detach()), 4**2 * 6 - 4**3 / 3),
        (lambda r: torch.linalg.qr(r(6, 4), mode="r"), 4**2 * 6 - 4**3 / 3),
        (lambda r: torch.linalg.qr(r(6, 4)), 2 * (4**2 * 6 - 4**3 / 3)),
        (lambda r: torch.linalg.qr(r(6, 4), mode="complete"), 4**2 * 6 - 4**3 / 3 + 2 * (6**2 * 4 - 6 * 4**2 + 4**3 / 3)),
        (lambda r: torch.linalg.householder_product(r(6, 4), r(4)), 4**2 * 6 - 4**3 / 3),
        (lambda r: torch.linalg.matrix_power(r(6, 6), 4), 2 * 6**3),
        (lambda r: torch.tensordot(r(2, 3, 4), r(3, 4, 5), 2), 2 * 3 * 4 * 5),
        (lambda r: r(7, 1, 2, 3) @ r(4, 3, 5), 7 * 4 * 2 * 3 * 5),
    ],
)
def test_linear_algebra(run: Callable[..., object], expected: float, dtype: torch.dtype, factor: int) -> None:
    assert total(lambda: run(lambda *shape: random(*shape, dtype=dtype))) == round(factor * expected)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
def test_products_of_integers_count_alike_in_both_conventions(dtype: torch.dtype) -> None:
    a = torch.ones(3, 3, dtype=dtype)
    assert total(lambda: a @ a) == published(lambda: a @ a) == 27


@pytest.mark.parametrize("dimensions", [1, 3])
def test_transposed_convolutions_of_other_dimensions(dimensions: int) -> None:
    convolve = getattr(functional, f"conv_transpose{dimensions}d")
    x, weight = random(3, 4, *(5,) * dimensions), random(4, 3, *(3,) * dimensions)
    run = lambda: convolve(x, weight, stride=2, groups=2, dilation=2, output_padding=1)  # noqa: E731  # counted, then backward
    assert total(run) == 3 * 5**dimensions * 4 * 3 * 3**dimensions


@pytest.mark.parametrize("dtype", [REAL, COMPLEX])
def test_the_paper_counts_a_complex_product_as_one(dtype: torch.dtype) -> None:
    a, b = random(7, 2, 3, dtype=dtype), random(7, 3, 5, dtype=dtype)
    assert published(lambda: a @ b) == 7 * 2 * 3 * 5
    assert published(lambda: (a @ b).abs().sum().backward()) == 3 * 7 * 2 * 3 * 5
    assert published(lambda: torch.linalg.inv(random(5, 4, 4, dtype=dtype))) == 5 * 4**3
    assert published(lambda: torch.linalg.solve(random(6, 6, dtype=dtype), random(6, dtype=dtype))) == 6**3 / 3 + 6**2


def test_the_paper_counts_a_quarter_of_a_transform_and_real_work_as_it_is() -> None:
    x, weight = random(2, 3, 8, 8), random(3, 3)
    transform = 1.25 * 64 * 6 * 6
    assert published(lambda: torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 8))) == 2 * transform / 4
    assert published(lambda: torch.fft.fft2(random(2, 3, 8, 8, dtype=COMPLEX))) == 2 * transform / 4
    assert published(lambda: functional.conv2d(x, weight[:, :, None, None])) == 2 * 9 * 64
    both = lambda: torch.fft.rfft2(x).abs().sum() + (weight @ weight).sum()  # noqa: E731  # one run of both kinds
    assert published(both) == transform / 4 + 27


def test_a_complex_number_by_a_real_one_is_one_of_the_papers_and_two_real_ones() -> None:
    assert formulas.per_published(torch.ops.aten.bmm, (random(1, 2, 2, dtype=COMPLEX), random(1, 2, 2))) == 2
    assert formulas.product(random(1, 2, 2, dtype=COMPLEX), random(1, 2, 2)) == 2 * 8


@pytest.mark.parametrize("size", [8, 5])
def test_fourier_transforms(size: int) -> None:
    points, transforms = size * size, 2 * 3
    complex_macs = 2.5 * points * math.log2(points) * transforms
    x, spectrum = random(2, 3, size, size), random(2, 3, size, size, dtype=COMPLEX)
    half = random(2, 3, size, size // 2 + 1, dtype=COMPLEX)
    assert total(lambda: torch.fft.rfft2(x)) == round(complex_macs / 2)
    assert total(lambda: torch.fft.irfft2(half, s=(size, size))) == round(complex_macs / 2)
    assert total(lambda: torch.fft.fft2(spectrum)) == round(complex_macs)
    assert total(lambda: torch.fft.rfft2(random(2, 3, 3, 3), s=(size, size))) == round(complex_macs / 2)  # padded first


def test_sums_of_logarithms_are_rounded_once() -> None:
    x = random(1, 3)
    one = 1.25 * 3 * math.log2(3)
    assert round(one) * 10 != round(10 * one)
    assert total(lambda: [torch.fft.rfft(x) for _ in range(10)]) == round(10 * one)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_forward(groups: int, inference: bool) -> None:
    x, weight = random(3, 4, 9, 7), random(6, 4 // groups, 3, 3)
    with torch.inference_mode(inference):
        counted = total(lambda: functional.conv2d(x, weight, stride=2, groups=groups))
    assert counted == 3 * (4 * 3) * 6 * (4 // groups) * 9


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_forward(groups: int) -> None:
    x, weight = random(3, 4, 9, 7), random(4, 6 // groups, 3, 3)
    assert total(lambda: functional.conv_transpose2d(x, weight, stride=2, groups=groups)) == 3 * 9 * 7 * 4 * (6 // groups) * 9


@pytest.mark.parametrize("transposed", [False, True])
def test_convolution_backward_costs_a_forward_for_each_gradient(transposed: bool) -> None:
    convolve = functional.conv_transpose2d if transposed else functional.conv2d
    x, weight, bias = random(3, 4, 9, 7), random(4, 4, 3, 3), random(4)
    output = convolve(x, weight, bias, padding=1)
    forward = total(lambda: convolve(x, weight, bias, padding=1))
    assert forward == 3 * 9 * 7 * 4 * 4 * 9
    for wanted, gradients in ((x, weight), 2), ((x,), 1), ((weight,), 1), ((bias,), 0):
        counted = total(lambda wanted=wanted: torch.autograd.grad(output.sum(), wanted, retain_graph=True))
        assert counted == gradients * forward


def test_complex_convolution_is_what_pytorch_makes_of_it() -> None:
    x, weight = random(2, 3, 5, 5, dtype=COMPLEX), random(3, 3, 1, 1, dtype=COMPLEX)
    assert total(lambda: functional.conv2d(x, weight)) == 3 * (2 * 25 * 9)  # three real ones instead of four


def test_backward_of_an_inverse() -> None:
    inverse = torch.linalg.inv(random(5, 4, 4, dtype=COMPLEX))
    assert total(lambda: inverse.abs().sum().backward()) == 4 * 2 * 5 * 4**3  # A⁻ᴴ G A⁻ᴴ


def test_backward_of_a_solve() -> None:
    solution = torch.linalg.solve(random(5, 6, 6), random(5, 6, 2))
    # One solve with the existing factors, and an outer product for the gradient of the matrix.
    assert total(lambda: solution.sum().backward()) == 5 * 6**2 * 2 + 5 * 6 * 6 * 2


@pytest.mark.parametrize(
    "run",
    [
        lambda x: functional.pad(x, (1, 1, 1, 1), mode="circular"),
        lambda x: (x * 2 + x.exp()).clamp(min=0).sum((1, 2)).amax(),
        lambda x: torch.linalg.vector_norm(x.abs().sum((1, 2, 3)) / x.mean()),
        lambda x: functional.pixel_unshuffle(functional.adaptive_max_pool2d(x.relu(), 2), 2).flatten(1),
        lambda x: torch.cat((x[:, ::2], x.flip(2, 3).roll(1, 3)[:, 1::2]), 1).contiguous().view(-1),
        lambda x: torch.view_as_real(torch.polar(x.abs(), x).conj().resolve_conj()).transpose(1, 2),
        lambda x: x + torch.eye(6) + torch.arange(6) + torch.randn_like(x) + torch.zeros(6).normal_(),
        lambda x: functional.dropout(torch.where(x > 0, x, x.tril()), 0.5),
        lambda x: torch.stack((x, x))[0].detach().item() if x.numel() == 1 else x.square().prod().sqrt(),
    ],
)
def test_work_without_macs_is_known_as_such(run: Callable[[Tensor], object]) -> None:
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    assert total(lambda: run(x)) == 0
    assert total(lambda: run(x).abs().sum().backward()) == 0  # type: ignore[attr-defined]  # all give tensors at this size


@pytest.mark.parametrize("foreach", [False, True])
def test_updates_have_no_macs(foreach: bool) -> None:
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 4))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, foreach=foreach)
    assert total(lambda: [optimizer.step() for _ in range(2)]) == 0


@pytest.mark.parametrize(
    ("run", "missing"),
    [
        (lambda a: torch.linalg.matrix_exp(a), "aten.linalg_matrix_exp"),
        (lambda a: torch.linalg.svdvals(a), "aten._linalg_svd"),
        (lambda a: torch.linalg.eigvals(a), "aten.linalg_eig"),
        (lambda a: torch.linalg.eigh(a), "aten._linalg_eigh"),
        (lambda a: torch.linalg.pinv(a), "aten.linalg_pinv"),
        (lambda a: torch.linalg.lstsq(a, a), "aten.linalg_lstsq"),
        (lambda a: torch.cdist(a, a), "aten._cdist_forward"),
        (lambda a: torch.ormqr(a, a[0], a), "aten.ormqr"),
        (lambda a: functional.interpolate(a[None, None], scale_factor=2, mode="bilinear"), "aten.upsample_bilinear2d"),
        (lambda a: a.detach().numpy() @ a.detach().numpy(), "Tensor.numpy"),
        (lambda a: torch.empty(4, 4) + 1, foreign.UNWRITTEN),
        (lambda a: torch.empty(4, 4), foreign.UNWRITTEN),
        (lambda a: torch.ops.lipbench_test.opaque(a), "lipbench_test.opaque"),
    ],
)
def test_what_has_no_formula_is_listed(run: Callable[[Tensor], object], missing: str) -> None:
    assert missing in macs.count(lambda: run(random(4, 4))).unsupported


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.clone().set_(x.detach().clone()),
        lambda x: x.clone().detach_().resize_(3).copy_(torch.ones(3)),
        lambda x: x.detach().clone().exponential_().random_().t_().squeeze_(),
        lambda x: torch.hann_window(8) + torch.fft.fftfreq(8) + torch.bartlett_window(8).bernoulli(),
        lambda x: torch.multinomial(x.abs(), 2) + torch.triu_indices(2, 2)[:, :2].sum(),
        lambda x: functional.group_norm(x[None], 2) + functional.batch_norm(x, x[0], x[0].abs()),
        lambda x: functional.interpolate(x[None], scale_factor=2) if x.equal(x) and torch.allclose(x, x) else None,
        lambda x: torch.nn.grad.conv2d_input if x.is_same_size(x) else x.new_empty(1).expand(4).sum(),
        lambda x: torch.empty_like(x).copy_(x) + functional.pad(x, (1, -1)) + torch.empty(4, 4).normal_(),
    ],
)
def test_bookkeeping_has_no_macs(run: Callable[[Tensor], object]) -> None:
    x = torch.randn(4, 4)
    assert total(lambda: run(x)) == 0


@pytest.mark.parametrize("name", ["mm", "convolution", "_linalg_svd", "linalg_matrix_exp", "_cdist_forward", "mkldnn_rnn_layer",
                                  "_trilinear", "linalg_lstsq", "ormqr", "grid_sampler_2d", "_cudnn_rnn", "conv_tbc",
                                  "_scaled_dot_product_flash_attention", "linear_backward", "matmul_backward"])  # fmt: skip
def test_no_rule_takes_work_for_bookkeeping(name: str) -> None:
    assert not free.is_free_name(name)


@torch.library.custom_op("lipbench_test::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """An operator of which only the name is known."""
    return x.clone()


# ------------------------------------------------------------------------------------------------------------ second opinion


class Everything(nn.Module):
    """One of each operation that has a handle, on x (4, 6, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 6) + 6 * torch.eye(6))
        self.vector = nn.Parameter(torch.randn(6))
        self.kernel = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x)
        x = torch.fft.irfft2(spectrum @ spectrum.mH @ spectrum, s=(6, 6)) + torch.fft.ifft2(torch.fft.fft2(x)).real
        x = x @ torch.linalg.inv(self.matrix) + torch.linalg.solve(self.matrix, x)
        x = x * torch.mv(self.matrix, self.vector) * torch.dot(self.vector, self.vector)
        x = torch.einsum("cij,jk->cik", x, self.matrix) + torch.bmm(x, x) + functional.linear(x, self.matrix)
        x = functional.conv2d(x[None], self.kernel, padding=1)
        return functional.conv_transpose2d(x, self.kernel, padding=1)


def test_fvcore_agrees_on_one_of_each() -> None:
    module, x = Everything(), torch.randn(4, 6, 6)
    second, missing = macs.count_fvcore(module, (x,))
    fft = 2.5 * 36 * math.log2(36) * 4
    products = 4 * (4 * 6 * 6 * 4 + 4 * 6 * 4 * 6) + 4 * 6**3  # two complex ones, and by the inverse
    algebra = 6**3 + 6**3 / 3 + 4 * (6**2 * 6) + 6 * 6 + 6  # one matrix is factored, for 4 times 6 right sides
    rest = 3 * 4 * 6**3 + 2 * 4 * 4 * 9 * 36
    assert missing == ()
    assert second == round(3 * fft + products + algebra + rest)
    assert total(lambda: module(x)) == second


def test_fvcore_lists_what_it_cannot_see() -> None:
    class Exponential(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.matrix_exp(x)

    assert macs.count_fvcore(Exponential(), (torch.randn(3, 3),)) == (0, ("aten::linalg_matrix_exp",))


def test_a_failing_second_opinion_says_why() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not traceable")

    assert macs.count_fvcore(Refuses(), (torch.randn(3, 3),)) == (None, ("RuntimeError: not traceable",))


# ------------------------------------------------------------------------------------------------------------------ measure


def measured(method: str, batch_size: int = 4) -> tuple[macs.Macs, Workload]:
    case = Case(LayerSpec(method, channels=4, image_size=6, kernel_size=3), batch_size=batch_size)
    workload = Workload.build(case, registry.build(case.spec))
    return macs.measure(workload), workload


@pytest.mark.parametrize("batch_size", [1, 4])
def test_phases_of_the_plain_convolution(batch_size: int) -> None:
    found, _ = measured("standard", batch_size)
    forward = batch_size * 6**2 * 4**2 * 3**2
    assert found.phases == {
        "forward": forward, "backward": 2 * forward, "step": 3 * forward,
        "parametrize": 0, "inference": forward, "first_inference": forward,
    }  # fmt: skip
    assert found.per_image == forward / batch_size
    assert found.constant == 0
    assert found.by_operation == {"aten.convolution": forward}
    assert found.fvcore_forward == forward
    assert found.unsupported == found.fvcore_unsupported == ()


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_every_method_is_counted_whole(method: str) -> None:
    found, _ = measured(method)
    assert found.unsupported == ()
    assert found.per_image is not None
    assert found.constant is not None
    assert found.per_image * 4 + found.constant == pytest.approx(found.phases["forward"])
    assert found.phases["parametrize"] == pytest.approx(found.constant, abs=2)  # rounding of logarithms
    assert found.fvcore_unsupported == ()
    assert found.fvcore_forward == pytest.approx(found.phases["forward"], abs=1)


@pytest.mark.parametrize("method", ["cayley", "lot"])
def test_methods_with_transforms_cost_less_as_the_paper_counts(method: str) -> None:
    found, _ = measured(method)
    assert found.published_phases.keys() == found.phases.keys()
    assert all(found.phases[phase] / 4 - 1 <= macs < found.phases[phase] for phase, macs in found.published_phases.items())


def test_real_methods_cost_the_same_in_both_conventions() -> None:
    found, _ = measured("aol")
    assert found.published_phases == found.phases


def counted_layer(name: str) -> macs.Macs:
    case = Case(LayerSpec(f"counted_layers:{name}", channels=4, image_size=6), batch_size=4)
    return macs.measure(Workload.build(case, registry.build(case.spec)))


POINTWISE = 4 * 6**2 * 4**2
"""MACs of `counted_layers:Pointwise`"""


@pytest.mark.parametrize("layer", ["Pointwise", "Parametrised", "HiddenInContext", "HiddenInHook"])
def test_layers_of_others_are_counted_whole(layer: str) -> None:
    found = counted_layer(layer)
    expected = {"forward": POINTWISE, "backward": 2 * POINTWISE, "inference": POINTWISE, "step": 3 * POINTWISE}
    assert (found.phases, found.unsupported, found.failures) == (expected, (), {})
    assert (found.per_image, found.constant) == (POINTWISE / 4, 0)


def test_evaluation_is_counted_in_evaluation_mode() -> None:
    found = counted_layer("Spectral")
    assert found.phases["forward"] == POINTWISE + 3 * 4**2 + 4  # two products of a power iteration, and σ = uᵀ W v
    assert found.phases["inference"] == POINTWISE + 4**2 + 4


@pytest.mark.parametrize(
    ("layer", "failed", "kept"),
    [
        ("WholeBatches", {"other batch size"}, {"forward", "backward", "inference", "step"}),
        ("NoBackward", {"backward"}, {"forward", "inference"}),
        ("NoParameters", set(), {"forward", "backward", "inference", "step"}),
        ("Detached", set(), {"forward", "backward", "inference", "step"}),
    ],
)
def test_a_count_that_fails_is_left_out_and_the_others_stay(layer: str, failed: set[str], kept: set[str]) -> None:
    found = counted_layer(layer)
    assert {*found.phases} == kept
    assert {*found.failures} == failed
    assert (found.per_image is None) == ("other batch size" in failed)


def test_where_nothing_can_be_counted_the_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(LayerSpec("counted_layers:Pointwise", channels=4, image_size=6), batch_size=4)
    workload = Workload.build(case, registry.build(case.spec))
    monkeypatch.setattr(workload.module, "forward", lambda x: x.no_such_attribute)
    with pytest.raises(AttributeError, match="no_such_attribute"):
        macs.measure(workload)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        ("CustomOperator", "lipbench_counted.pointwise"),
        ("InNumpy", "Tensor.numpy"),
        ("SingularValues", "aten._linalg_svd"),
    ],
)
def test_work_that_nobody_counts_is_named(layer: str, name: str) -> None:
    assert name in counted_layer(layer).unsupported


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_every_operation_of_a_network_has_a_formula(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ConvNet XS in float32, with one convolution per block, which has the same operations as five."""
    monkeypatch.setattr(networks, "CONVOLUTIONS_PER_BLOCK", 1)
    case = Case(NetworkSpec(method, "XS"), batch_size=1)
    workload = Workload.build(case, registry.build(case.spec))
    assert unknown_operations(workload) == ()


def test_one_operation_without_a_formula_is_found_wherever_it_is() -> None:
    """The test above relies on this: an operation without a formula is found in either half, either pass and the update."""
    for place in ("forward", "backward", "update", "evaluation"):
        case = Case(LayerSpec("standard", channels=4, image_size=6), batch_size=2)
        workload = Workload.build(case, Planted(place))
        if place == "update":
            workload.optimizer = Opaque(workload.module.parameters())
        assert unknown_operations(workload) == ("aten._linalg_svd",), place


def unknown_operations(workload: Workload) -> tuple[str, ...]:
    """Operations without a formula in a training step, the parameter half, and evaluation with a cold and a warm cache."""
    workload.prepare_training()
    found = [macs.count(workload.step), macs.count(workload.parametrize)]
    workload.prepare_first_inference()
    found += [macs.count(workload.first_inference), macs.count(workload.inference)]
    return tuple(sorted({name for counted in found for name in counted.unsupported}))


class Decompose(torch.autograd.Function):
    """Passes its input and the gradient on; computes singular values in one of the two passes."""

    @staticmethod
    def forward(context: Any, x: Tensor, backward: bool) -> Tensor:
        context.in_backward = backward
        if not backward:
            torch.linalg.svdvals(x)
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if context.in_backward:
            torch.linalg.svdvals(gradient)
        return gradient, None


class Planted(nn.Conv2d):
    """A convolution with a decomposition in one place."""

    def __init__(self, place: str) -> None:
        super().__init__(4, 4, 3, padding=1)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.place == ("forward" if self.training else "evaluation") or (self.place == "backward" and self.training):
            y = Decompose.apply(y, self.place == "backward")
        return y


class Opaque(torch.optim.SGD):
    """An update with a decomposition in it."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, lr=1e-8)

    def step(self, closure: Any = None) -> None:
        torch.linalg.svdvals(self.param_groups[0]["params"][0].detach())
        super().step(closure)


def test_a_formula_counts_from_when_it_is_registered() -> None:
    """Kernels bring their operations and formulas when they are imported, which may be after the counter."""

    @torch.library.custom_op("lipbench_test::late", mutates_args=())
    def late(x: Tensor) -> Tensor:
        return x.clone()

    assert macs.count(lambda: late(torch.ones(3))).unsupported == ("lipbench_test.late",)
    flop_counter.register_flop_formula(torch.ops.lipbench_test.late)(lambda shape, **named: 2 * 7 * shape[0])
    try:
        assert total(lambda: late(torch.ones(3))) == 7 * 3
    finally:
        del flop_counter.flop_registry[torch.ops.lipbench_test.late]
