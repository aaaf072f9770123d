"""AOL's bound and its gradients against float64, from the formula: no convolution, no code of the kernel's own."""

from __future__ import annotations

import itertools

import pytest
import torch
from lipbench_kernels import aol_bound as module
from lipbench_kernels.aol_bound import CONFIGS, KERNELS, aol_bound
from lipbench_kernels.launching import PRECISIONS, tuned
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = {"ieee": 2e-6, "tf32x3": 2e-6, "tf32": 3e-3}
KEY = ("outputs", "inputs", "K", "PRECISION")


def reference(kernel: Tensor, weights: Tensor | None = None) -> Tensor:
    """`Σ_j w_j Σ_δ |Σ_o Σ_p K[o, i, p] K[o, j, p + δ]|`, shift by shift and tap by tap."""
    size = kernel.shape[-1]
    total = kernel.new_zeros(kernel.shape[1], kernel.shape[1])
    for dy, dx in itertools.product(range(1 - size, size), repeat=2):
        value = torch.zeros_like(total)
        for y, x in itertools.product(range(size), repeat=2):
            if 0 <= y + dy < size and 0 <= x + dx < size:
                value = value + kernel[:, :, y, x].T @ kernel[:, :, y + dy, x + dx]
        total = total + value.abs()
    return total.sum(1) if weights is None else total @ weights


def far_from_zero(outputs: int, inputs: int, size: int) -> Tensor:
    """A kernel whose correlation has both signs, and no value that rounding could push to another one."""
    signs = torch.where(torch.arange(inputs) % 3 == 1, -1.0, 1.0)
    return signs[:, None, None] * (0.5 + torch.rand(outputs, inputs, size, size))


def assert_equal(kernel: Tensor, weights: Tensor | None, precision: str = "ieee") -> None:
    """Bound and gradients of a random combination of it, each relative to its largest number."""
    leaves = [tensor for tensor in (kernel, weights) if tensor is not None]
    single = [tensor.detach().requires_grad_() for tensor in leaves]
    double = [tensor.detach().double().requires_grad_() for tensor in leaves]
    cotangent = torch.randn(kernel.shape[1])
    found = aol_bound(single[0], single[1] if weights is not None else None, precision)
    expected = reference(*double)
    gradients = torch.autograd.grad(found, single, cotangent)
    expected_gradients = torch.autograd.grad(expected, double, cotangent.double())
    for one, two in zip((found.detach(), *gradients), (expected.detach(), *expected_gradients), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), two, rtol=0, atol=TOLERANCE[precision] * float(two.abs().max()))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("weighted", [False, True], ids=["ones", "weighted"])
@pytest.mark.parametrize("size", [(5, 1, 1), (18, 35, 1), (1, 17, 1), (35, 18, 2), (3, 5, 3)], ids=str)
def test_bound_and_gradients(size: tuple[int, int, int], weighted: bool) -> None:
    outputs, inputs, taps = size
    assert_equal(torch.randn(outputs, inputs, taps, taps), torch.rand(inputs) + 0.1 if weighted else None)


@pytest.mark.parametrize("size", [(2, 17, 3), (2, 3, 5)], ids=str)
def test_larger_sizes(size: tuple[int, int, int]) -> None:
    outputs, inputs, taps = size
    assert_equal(torch.randn(outputs, inputs, taps, taps), torch.randn(inputs))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precisions(precision: str) -> None:
    assert_equal(far_from_zero(35, 7, 2), torch.rand(7) + 0.5, precision)


def test_tf32_is_less_precise_than_the_others() -> None:
    kernel = far_from_zero(35, 7, 1)
    exact = reference(kernel.double())
    errors = [float((aol_bound(kernel, precision=precision) - exact).abs().max() / exact.max()) for precision in PRECISIONS]
    assert max(errors[:2]) < 1e-6 < 1e-5 < errors[2]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration(name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On more channels than the small blocks hold, with one program or three for the shifts of a block."""
    monkeypatch.setattr(module, "splits", lambda inputs, size: parts)
    for kernel in ("_correlate", "_spread"):
        monkeypatch.setattr(module, f"{kernel}_tuned", tuned(getattr(module, kernel), {name: CONFIGS[name]}, KEY))
    assert_equal(torch.randn(18, 33, 2, 2), torch.rand(33))


@pytest.mark.parametrize("weighted", [False, True], ids=["ones", "weighted"])
def test_zeros_have_no_gradient(weighted: bool) -> None:
    kernel = torch.zeros(5, 5, 3, 3)
    kernel[:, :, 1, 1] = torch.eye(5)
    assert_equal(kernel, torch.arange(1.0, 6.0) if weighted else None)
    torch.testing.assert_close(aol_bound(kernel), torch.ones(5))


def test_any_strides() -> None:
    kernel = torch.randn(2, 2, 5, 9)[:, :, :, ::2].permute(2, 3, 1, 0)
    weights = torch.rand(10)[::2]
    assert not kernel.is_contiguous()
    assert not weights.is_contiguous()
    assert_equal(kernel, weights)


def test_gradient_for_one_argument_alone() -> None:
    kernel, weights = torch.randn(4, 3, 2, 2), torch.rand(3)
    double = kernel.double(), weights.double()
    for place in (0, 1):
        leaves = [tensor.detach().requires_grad_(place == index) for index, tensor in enumerate((kernel, weights))]
        exact = [tensor.detach().requires_grad_(place == index) for index, tensor in enumerate(double)]
        (gradient,) = torch.autograd.grad(aol_bound(leaves[0], leaves[1]).sum(), leaves[place])
        (expected,) = torch.autograd.grad(reference(*exact).sum(), exact[place])
        torch.testing.assert_close(gradient, expected.float())


def test_signs_and_sums_are_kept_small() -> None:
    """What the operator hands to autograd: 2 bits per entry of half the correlation, and one matrix."""
    kernel = torch.randn(2, 17, 2, 2)
    with FakeTensorMode() as mode:
        fake = torch.ops.lipbench.aol_bound(mode.from_tensor(kernel), None, "ieee")
    real = torch.ops.lipbench.aol_bound(kernel, None, "ieee")
    for one, two in zip(fake, real, strict=True):
        assert (one.shape, one.dtype, one.stride()) == (two.shape, two.dtype, two.stride())
    assert real[1].shape == (17, 17)
    assert real[2].numel() == 5 * 17 * 2


def test_differentiating_twice_raises() -> None:
    kernel, weights = torch.randn(3, 2, 1, 1, requires_grad=True), torch.rand(2, requires_grad=True)
    for by in (kernel, weights):
        (gradient,) = torch.autograd.grad(aol_bound(kernel, weights).sum(), by, create_graph=True)
        with pytest.raises(RuntimeError, match="no autograd formula"):
            torch.autograd.grad(gradient.sum(), kernel)


@pytest.mark.parametrize("weighted", [False, True], ids=["ones", "weighted"])
def test_operator_is_well_behaved(weighted: bool) -> None:
    kernel = far_from_zero(3, 2, 2).requires_grad_()
    weights = torch.rand(2, requires_grad=True) if weighted else None
    torch.library.opcheck(torch.ops.lipbench.aol_bound.default, (kernel, weights, "ieee"))
    _, sums, signs = torch.ops.lipbench.aol_bound(kernel, weights, "ieee")
    arguments = (kernel.detach(), None if weights is None else weights.detach(), signs, torch.rand(2), "ieee")
    torch.library.opcheck(torch.ops.lipbench.aol_bound_kernel_gradient.default, arguments)
    torch.library.opcheck(torch.ops.lipbench.aol_bound_weights_gradient.default, (kernel.detach(), sums, torch.rand(2)))


def test_compiled_whole() -> None:
    kernel, weights = far_from_zero(3, 4, 2), torch.rand(4)
    results = []
    for call in (aol_bound, torch.compile(aol_bound, backend="aot_eager", fullgraph=True)):
        leaves = kernel.detach().requires_grad_(), weights.detach().requires_grad_()
        results.append((value := call(*leaves), *torch.autograd.grad(value.square().sum(), leaves)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def pairs(size: int) -> tuple[int, int]:
    """Pairs of taps of a kernel, counted: all, and those of which the second does not come before the first."""
    taps = list(itertools.product(range(size), repeat=2))
    return len(taps) ** 2, sum(one <= two for one, two in itertools.product(taps, repeat=2))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("weighted", [0, 1])
def test_macs_are_counted(size: int, weighted: int) -> None:
    sizes = {"o": 6, "i": 4, "k": size, "weighted": weighted}
    every, half = pairs(size)
    products = {"forward": half * 6 * 4**2, "backward": every * 6 * 4**2}
    with FakeTensorMode():
        kernel = torch.empty(6, 4, size, size, requires_grad=True)
        weights = torch.empty(4, requires_grad=True) if weighted else None
        leaves = [tensor for tensor in (kernel, weights) if tensor is not None]
        with FlopCounterMode(display=False) as forward:
            total = aol_bound(kernel, weights).sum()
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(total, leaves)
    for counted, (phase, macs), entry in zip((forward, backward), products.items(), KERNELS, strict=True):
        assert counted.get_total_flops() == 2 * (macs + weighted * 2 * 4**2) == 2 * entry.work(**sizes).macs, phase


@pytest.mark.parametrize("size", [1, 3])
def test_replaced_work_is_that_of_the_convolution(size: int) -> None:
    sizes = {"o": 6, "i": 4, "k": size}
    with FakeTensorMode():
        leaf = torch.empty(6, 4, size, size, requires_grad=True)
        kernel = leaf.transpose(0, 1)
        with FlopCounterMode(display=False) as forward:
            correlation = functional.conv2d(kernel, kernel, padding=size - 1)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(correlation.abs().sum(), leaf)
    replaced = [kernel.replaced(**sizes) for kernel in KERNELS]
    assert [2 * work.macs for work in replaced] == [forward.get_total_flops(), backward.get_total_flops()]
    assert replaced[0].written_bytes == 2 * 4 * correlation.numel() + 4 * 4


@pytest.mark.parametrize(
    ("kernel", "weights", "precision", "named"),
    [
        (torch.ones(2, 3, 3), None, "ieee", "(2, 3, 3)"),
        (torch.ones(2, 3, 3, 1), None, "ieee", "(2, 3, 3, 1)"),
        (torch.ones(0, 3, 3, 3), None, "ieee", "(0, 3, 3, 3)"),
        (torch.ones(2, 3, 3, 3), torch.ones(2), "ieee", "(2,)"),
        (torch.ones(2, 3, 3, 3).double(), None, "ieee", "float64"),
        (torch.ones(2, 3, 3, 3), torch.ones(3).double(), "ieee", "float64"),
        (torch.ones(2, 3, 3, 3), None, "fp16", "fp16"),
    ],
)
def test_says_what_it_does_not_take(kernel: Tensor, weights: Tensor | None, precision: str, named: str) -> None:
    with pytest.raises(ValueError, match="got") as caught:
        aol_bound(kernel, weights, precision)
    assert named in str(caught.value)
