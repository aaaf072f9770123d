"""The coupled Newton kernel against its formula in float64."""

from __future__ import annotations

import pytest
import torch
from lipbench_kernels import small_matrices_work as work
from lipbench_kernels.newton import newton_inverse_root
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from traffic import counted

from lipbench.layers import lot

TOLERANCE = {"ieee": 2e-6, "tf32x3": 8e-6, "tf32": 2e-2}
"""of the largest entry"""


def steps(s: Tensor, iterations: int) -> Tensor:
    identity = torch.eye(s.shape[-1], dtype=s.dtype)
    y, z = s, identity.expand_as(s)
    for _ in range(iterations):
        t = (3 * identity - z @ y) / 2
        y, z = y @ t, t @ z
    return z


def covariances(f: int, n: int) -> Tensor:
    """Near Hermitian ones of norm 1, but not quite, so that no transposition hides; exact in complex64."""
    torch.manual_seed(n)
    v = torch.randn(f, n, n, dtype=torch.complex128)
    s = v @ v.mH / torch.linalg.vector_norm(v @ v.mH, dim=(1, 2), keepdim=True)
    return (s + 0.05 / n * torch.randn_like(s)).to(torch.complex64).to(torch.complex128)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize(("f", "n", "iterations"), [(2, 5, 1), (2, 5, 2), (1, 1, 3), (2, 16, 3), (1, 20, 4), (1, 32, 3)])
def test_value_and_gradient(f: int, n: int, iterations: int, precision: str) -> None:
    s = covariances(f, n)
    gradient = torch.randn_like(s)
    # Transposed in memory: any strides will do.
    ours = s.to(torch.complex64).mT.contiguous().mT.requires_grad_()
    reference = s.clone().requires_grad_()
    result, expected = newton_inverse_root(ours, iterations, precision), steps(reference, iterations)
    assert difference(result.detach(), expected.detach()) < TOLERANCE[precision]
    (one,) = torch.autograd.grad(result, ours, gradient.to(torch.complex64))
    (other,) = torch.autograd.grad(expected, reference, gradient)
    assert difference(one, other) < TOLERANCE[precision]
    assert torch.equal(newton_inverse_root(ours.detach(), iterations, precision), result)


def test_no_silent_gradients() -> None:
    s = covariances(1, 4).to(torch.complex64).requires_grad_()
    (first,) = torch.autograd.grad(newton_inverse_root(s, 2).real.sum(), s, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        first.real.sum().backward()
    planes = torch.rand(2, 1, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="keep=True"):
        torch.ops.lipbench.newton_inverse_root(planes, 2, False, "ieee")[0].sum().backward()


def test_operators() -> None:
    planes = torch.rand(2, 2, 3, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.lipbench.newton_inverse_root, (planes, 2, True, "ieee"))


def test_compiled_and_fake() -> None:
    s = covariances(2, 3).to(torch.complex64).requires_grad_()
    compiled = torch.compile(lambda x: newton_inverse_root(x, 2), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(s), newton_inverse_root(s, 2))
    with FakeTensorMode():
        fake = torch.empty(2, 20, 20, dtype=torch.complex64, requires_grad=True)
        assert torch.autograd.grad(newton_inverse_root(fake, 3).real.sum(), fake)[0].shape == fake.shape


def test_macs() -> None:
    s = covariances(2, 3).to(torch.complex64).requires_grad_()
    with FlopCounterMode(display=False) as forward:
        result = newton_inverse_root(s, 4)
    with FlopCounterMode(display=False) as backward:
        result.real.sum().backward()
    assert forward.get_total_flops() == 2 * 12 * 3 * 2 * 27
    assert backward.get_total_flops() == 2 * (28 * 3 + 8) * 2 * 27


@pytest.mark.parametrize("iterations", [1, 3])
def test_replaced_work_is_that_of_paper(iterations: int) -> None:
    forward, backward = counted(lambda s: lot.inverse_root(s, iterations), covariances(3, 5).to(torch.complex64))
    assert work.replaced_newton(3, 5, iterations) == forward
    assert work.replaced_newton_backward(3, 5, iterations) == backward


@pytest.mark.parametrize("shape", [(2, 33, 33), (2, 3, 4), (3, 3)], ids=str)
def test_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="square matrices"):
        newton_inverse_root(torch.rand(shape, dtype=torch.complex64), 2)
    with pytest.raises(ValueError, match=r"got torch\.complex128"):
        newton_inverse_root(covariances(1, 3), 2)
