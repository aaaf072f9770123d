"""The Björck–Bowie kernel against its formula in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lipbench_kernels import bjorck as file
from lipbench_kernels import small_matrices_work as work
from lipbench_kernels.bjorck import bjorck
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from traffic import counted

from lipbench.layers import bcop

TOLERANCE = {"ieee": 1e-6, "tf32x3": 2e-6, "tf32": 4e-3}
"""of the largest entry"""
SHAPES = [(3, 5, 7), (2, 7, 5), (1, 1, 3), (2, 16, 16), (1, 17, 20), (1, 40, 33)]


def steps(a: Tensor, iterations: int, beta: float = 0.5) -> Tensor:
    for _ in range(iterations):
        a = (1 + beta) * a - beta * a @ a.mT @ a
    return a


def matrices(*shape: int) -> Tensor:
    """Of spectral norm 1, in float64, exact in float32."""
    torch.manual_seed(sum(shape))
    a = torch.randn(shape, dtype=torch.float64)
    return (a / torch.linalg.matrix_norm(a, 2)[:, None, None]).float().double()


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).abs().max() / b.abs().max())


def both(a: Tensor, iterations: int, beta: float, precision: str, gradient: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Kernel and reference: results, gradients."""
    x, y = a.float().requires_grad_(), a.clone().requires_grad_()
    result, reference = bjorck(x, iterations, beta, precision), steps(y, iterations, beta)
    return [
        (result.detach(), reference.detach()),
        (torch.autograd.grad(result, x, gradient.float())[0], torch.autograd.grad(reference, y, gradient)[0]),
    ]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradient(shape: tuple[int, int, int], precision: str) -> None:
    gradient = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ours, reference in both(matrices(*shape), 3, 0.5, precision, gradient):
        assert ours.shape == shape
        assert difference(ours, reference) < TOLERANCE[precision]


@pytest.mark.parametrize(("iterations", "beta"), [(1, 0.5), (2, 0.3), (5, 0.5)])
def test_iterations_and_beta(iterations: int, beta: float) -> None:
    gradient = torch.linspace(-1, 1, 70, dtype=torch.float64).view(2, 7, 5)
    for ours, reference in both(matrices(2, 7, 5), iterations, beta, "ieee", gradient):
        assert difference(ours, reference) < TOLERANCE["ieee"]


def test_any_strides() -> None:
    wide = matrices(2, 6, 18)
    strided = wide.float()[:, :, ::2].transpose(1, 2).requires_grad_()
    reference = wide[:, :, ::2].transpose(1, 2).requires_grad_()
    assert not strided.is_contiguous()
    gradient = torch.linspace(-1, 1, 6, dtype=torch.float64).expand(2, 9, 6)
    result = bjorck(strided, 3)
    assert difference(result.detach(), steps(reference, 3).detach()) < 1e-6
    ours = torch.autograd.grad(result, strided, gradient.float())[0]
    assert difference(ours, torch.autograd.grad(steps(reference, 3), reference, gradient)[0]) < 1e-6


def test_orthogonal_matrices_and_zeros_stay() -> None:
    a = torch.stack((torch.eye(20), torch.zeros(20, 20)))
    assert torch.equal(bjorck(a, 4), a)


@pytest.mark.parametrize(("precision", "bound"), [("ieee", 2e-6), ("tf32x3", 4e-6)])
def test_deviation_of_64(precision: str, bound: float) -> None:
    """BCOP's 20 steps on free matrices as they start, and as they may become; printed by `pytest -s -k deviation`."""
    torch.manual_seed(0)
    start = torch.linalg.qr(torch.randn(1, 64, 64, dtype=torch.float64))[0]
    free = torch.stack((start[0], torch.randn(64, 64, dtype=torch.float64)))
    free = (free / torch.linalg.matrix_norm(free, 2)[:, None, None]).float().double()
    conditions = torch.linalg.cond(free)
    pairs = both(free, 20, 0.5, precision, torch.randn(2, 64, 64, dtype=torch.float64))
    for name, (ours, reference) in zip(("value", "gradient"), pairs):
        for condition, one, other in zip(conditions, ours, reference):
            deviation = difference(one, other)
            print(f"bjorck 64 × 64 {precision}, condition {condition:.0f}: {name} off by {deviation:.1e} of its largest entry")
            assert deviation < bound


def test_iterates_are_kept_only_for_a_gradient() -> None:
    a = matrices(2, 5, 5).float()
    kept, none = (torch.ops.lipbench.bjorck(a, 4, 0.5, keep, "ieee") for keep in (True, False))
    assert torch.equal(kept[0], none[0])
    assert none[1].numel() == 0
    for number, iterate in enumerate(kept[1], 1):
        assert difference(iterate[:, :5, :5], steps(a.double(), number)) < 1e-6
    free = a.clone().requires_grad_()
    assert bjorck(free, 4).requires_grad
    with torch.no_grad():
        assert not bjorck(free, 4).requires_grad


def test_no_silent_gradients() -> None:
    a = matrices(1, 4, 4).float().requires_grad_()
    first = torch.autograd.grad(bjorck(a, 2).sum(), a, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="autograd"):
        first.sum().backward()
    with pytest.raises(RuntimeError, match="keep=True"):
        torch.ops.lipbench.bjorck(a, 2, 0.5, False, "ieee")[0].sum().backward()
    assert not torch.ops.lipbench.bjorck(a, 2, 0.5, True, "ieee")[1].requires_grad


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 3, 5), (0, 3, 3)], ids=str)
def test_operators(shape: tuple[int, int, int]) -> None:
    a = torch.rand(shape, requires_grad=True)
    torch.library.opcheck(torch.ops.lipbench.bjorck, (a, 3, 0.5, True, "ieee"))
    iterates = torch.ops.lipbench.bjorck(a, 3, 0.5, True, "ieee")[1].detach()
    torch.library.opcheck(
        torch.ops.lipbench.bjorck_backward, (torch.rand(shape), a.detach(), iterates, 3, 0.5, "ieee"),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


def test_compiled_and_fake() -> None:
    a = matrices(2, 5, 4).float().requires_grad_()

    def twice(x: Tensor) -> Tensor:
        return 2 * bjorck(x, 3)

    compiled: Callable[[Tensor], Tensor] = torch.compile(twice, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(a), twice(a))
    assert torch.equal(torch.autograd.grad(compiled(a).sum(), a)[0], torch.autograd.grad(twice(a).sum(), a)[0])
    with FakeTensorMode():
        fake = torch.empty(2, 64, 10, requires_grad=True)
        result = bjorck(fake, 3)
        assert result.shape == fake.shape
        assert torch.autograd.grad(result.sum(), fake)[0].shape == fake.shape


def test_macs() -> None:
    a = matrices(3, 7, 5).float().requires_grad_()
    with FlopCounterMode(display=False) as forward:
        result = bjorck(a, 4)
    with FlopCounterMode(display=False) as backward:
        result.sum().backward()
    assert forward.get_total_flops() == 2 * 3 * 4 * 2 * 7 * 5 * 5
    assert backward.get_total_flops() == 2 * 3 * 4 * 4 * 7 * 5 * 5


@pytest.mark.parametrize("shape", [(3, 6, 5), (3, 5, 6)], ids=str)
def test_replaced_work_is_that_of_paper(shape: tuple[int, int, int]) -> None:
    forward, backward = counted(lambda a: bcop.bjorck_steps(a, 3), torch.rand(shape))
    assert work.replaced_bjorck(*shape, iterations=3) == forward
    assert work.replaced_bjorck_backward(*shape, iterations=3) == backward


@pytest.mark.parametrize(
    ("shape", "iterations", "precision", "message"),
    [
        ((2, 65, 3), 1, "ieee", "got \\(2, 65, 3\\)"),
        ((2, 3), 1, "ieee", "got \\(2, 3\\)"),
        ((2, 3, 0), 1, "ieee", "got \\(2, 3, 0\\)"),
        ((2, 3, 3), 0, "ieee", "got 0"),
        ((2, 3, 3), 1, "fp16", "got 'fp16'"),
    ],
)
def test_refuses(shape: tuple[int, ...], iterations: int, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bjorck(torch.rand(shape), iterations, precision=precision)


def test_refuses_doubles() -> None:
    with pytest.raises(ValueError, match=r"takes float32: got torch\.float64"):
        bjorck(torch.rand(1, 3, 3, dtype=torch.float64), 1)


def test_every_block_has_variants() -> None:
    for kernel in file.KERNELS:
        shapes = {variant.shape for variant in kernel.variants()}
        assert shapes == {f"{side} × {side}" for side in (16, 32, 64)}
