"""SOC's kernels against the series in float64, term by term as the paper writes it, without convolutions of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lipbench_kernels import soc_convolution, soc_work
from lipbench_kernels.soc_resident import fits
from lipbench_kernels.soc_series import KERNELS, soc_series, soc_step
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

TOLERANCES = {"ieee": 1e-6, "tf32x3": 1e-6, "tf32": 3e-3}
"""precision → largest error beside the largest element: float32's rounding, and tf32's of 2⁻¹⁰, in sums of dozens of terms"""

SHAPES = {
    "odd": (2, 5, 4, 5, 3, 4),
    "wide": (1, 35, 5, 3, 3, 3),  # more channels than a tile of outputs, and thrice those of a step over inputs
    "long": (3, 3, 9, 11, 3, 2),  # more pixels than a tile, images cut by tiles
    "large-kernel": (2, 3, 3, 4, 5, 3),  # a kernel that reaches beyond the whole image
    "matrix": (2, 17, 4, 4, 1, 5),
    "single": (5, 3, 4, 4, 3, 1),
}
"""name → batch, channels, height, width, kernel size, terms"""


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """`Σ_{i,p} L[o, i, p] x[i, q + p − r]`, shift by shift, zeros outside."""
    size, (height, width) = kernel.shape[2], x.shape[2:]
    reach = size // 2
    padded = x.new_zeros(*x.shape[:2], height + 2 * reach, width + 2 * reach)
    padded[:, :, reach : reach + height, reach : reach + width] = x
    result = torch.zeros_like(x)
    for row in range(size):
        for column in range(size):
            seen = padded[:, :, row : row + height, column : column + width]
            result = result + torch.einsum("oi,bihw->bohw", kernel[:, :, row, column], seen)
    return result


def series(x: Tensor, kernel: Tensor, terms: int) -> Tensor:
    """`Σ_{n=0..terms} Lⁿ x / n!`"""
    power, result = x, x
    for n in range(1, terms + 1):
        power = convolve(power, kernel)
        result = result + power / math.factorial(n)
    return result


def sample(batch: int, channels: int, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Images and a kernel, not skew, whose map has norm near 1."""
    x = torch.randn(batch, channels, height, width, requires_grad=True)
    return x, (torch.randn(channels, channels, size, size) / (size * math.sqrt(channels))).requires_grad_()


def compare(
    function: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: tuple[Tensor, ...], tolerance: float
) -> None:
    """Result and gradients of a function of float32 tensors beside those of a reference on the same tensors in float64."""
    result = function(*inputs)
    upstream = torch.randn_like(result)
    exact_inputs = [one.detach().double().requires_grad_() for one in inputs]
    exact = reference(*exact_inputs)
    pairs = [(result, exact)]
    pairs += zip(torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(exact, exact_inputs, upstream.double()))
    for found, wanted in pairs:
        assert found.shape == wanted.shape
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * float(wanted.detach().abs().max()))


@pytest.mark.parametrize("resident", [False, True], ids=["steps", "resident"])
@pytest.mark.parametrize("shape", SHAPES)
def test_series_and_gradients_are_those_of_float64(shape: str, resident: bool) -> None:
    *sizes, terms = SHAPES[shape]
    compare(
        lambda x, kernel: soc_series(x, kernel, terms, resident=resident),
        lambda x, kernel: series(x, kernel, terms),
        sample(*sizes),
        TOLERANCES["ieee"],
    )


@pytest.mark.parametrize("resident", [False, True], ids=["steps", "resident"])
@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_series_in_the_precisions_of_tensor_cores(precision: str, resident: bool) -> None:
    compare(
        lambda x, kernel: soc_series(x, kernel, 3, precision, resident=resident),
        lambda x, kernel: series(x, kernel, 3),
        sample(2, 4, 5, 3, 3),
        TOLERANCES[precision],
    )


def test_precisions_differ() -> None:
    x, kernel = (one.detach() for one in sample(1, 6, 4, 4, 1))
    exact = series(x.double(), kernel.double(), 3)
    errors = {name: float((soc_series(x, kernel, 3, name) - exact).abs().max()) for name in TOLERANCES}
    assert errors["tf32"] > 30 * max(errors["ieee"], errors["tf32x3"])


@pytest.mark.parametrize("size", [1, 3])
def test_step_and_gradients_are_those_of_float64(size: int) -> None:
    h, kernel = sample(2, 6, 5, 7, size)
    x = torch.randn_like(h, requires_grad=True)
    compare(
        lambda h, x, kernel: soc_step(h, x, kernel, 3), lambda h, x, kernel: x + convolve(h, kernel) / 3, (h, x, kernel), 1e-6
    )


@pytest.mark.parametrize("resident", [False, True], ids=["steps", "resident"])
def test_strides_do_not_matter(resident: bool) -> None:
    x, kernel = sample(2, 3, 4, 5, 3)
    turned = kernel.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
    inputs = (x.detach().to(memory_format=torch.channels_last).requires_grad_(), turned)
    assert not any(one.is_contiguous() for one in inputs)
    found, wanted = (soc_series(*pair, 2, resident=resident) for pair in (inputs, (x, kernel)))
    assert torch.equal(found, wanted)
    upstream = torch.ones((), dtype=found.dtype).expand(found.shape)  # what the gradient of a sum looks like
    for first, second in zip(torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, (x, kernel), upstream)):
        assert torch.equal(first, second)


@pytest.mark.parametrize("resident", [False, True], ids=["steps", "resident"])
def test_kernel_of_zeros_leaves_images_as_they_are(resident: bool) -> None:
    x, kernel = sample(2, 3, 4, 4, 3)
    zeros = torch.zeros_like(kernel, requires_grad=True)
    result = soc_series(x, zeros, 3, resident=resident)
    assert torch.equal(result, x)
    (by_x,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(by_x, torch.ones_like(x))


def test_images_and_programs_do_not_meet() -> None:
    """Each image alone gives what it gives in a batch: nothing crosses an edge, in either layout."""
    x, kernel = (one.detach() for one in sample(5, 3, 3, 4, 3))
    for resident in (False, True):
        together = soc_series(x, kernel, 2, resident=resident)
        alone = torch.cat([soc_series(one[None], kernel, 2, resident=resident) for one in x])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resident", [False, True], ids=["steps", "resident"])
def test_inference_keeps_no_iterates_and_gives_the_same(resident: bool) -> None:
    x, kernel = sample(2, 3, 4, 4, 3)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        trained = soc_series(x, kernel, 4, resident=resident)
        assert sum(one.numel() for one in kept) == 4 * x.numel() + kernel.numel()
        kept.clear()
        frozen = soc_series(x, kernel.detach(), 4, resident=resident)
        assert sum(one.numel() for one in kept) == kernel.numel()
    with torch.no_grad():
        assert torch.equal(soc_series(x, kernel, 4, resident=resident), trained)
    by_x = [torch.autograd.grad(result.sum(), x)[0] for result in (trained, frozen)]
    torch.testing.assert_close(by_x[0], by_x[1], rtol=0, atol=1e-6 * float(by_x[0].abs().max()))


def test_kernel_gradient_in_chunks_sums_all_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = sample(3, 2, 16, 16, 1)
    assert soc_convolution.chunks(3, 2, 256, 1) == (3, 256)
    monkeypatch.setattr(soc_convolution, "chunks", lambda *sizes: (4, 224))  # the last one cut short, others across images
    compare(
        lambda x, kernel: soc_series(x, kernel, 2, resident=False), lambda x, kernel: series(x, kernel, 2), (x, kernel), 3e-6
    )


def test_operators_keep_the_rules_of_torch_library() -> None:
    x, kernel = sample(1, 2, 2, 3, 3)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    for resident in (False, True):
        torch.library.opcheck(torch.ops.lipbench.soc_series, (x, kernel, 2, "ieee", True, resident), test_utils=checks[:3])
    torch.library.opcheck(torch.ops.lipbench.soc_step, (x, x.detach().clone(), kernel, 2, "ieee"), test_utils=checks)
    plain = [one.detach() for one in (torch.randn_like(x), x, kernel)]
    torch.library.opcheck(
        torch.ops.lipbench.soc_series_backward, (*plain, torch.randn(1, *x.shape), 2, "ieee", False), test_utils=checks[:3]
    )
    torch.library.opcheck(torch.ops.lipbench.soc_step_backward, (*plain, 2, "ieee"), test_utils=checks[:3])


def test_compiled_graph_is_whole_and_gives_the_same() -> None:
    x, kernel = sample(2, 3, 3, 4, 3)

    def gradients(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        result = function(x, kernel, 2)
        return (result, *torch.autograd.grad(result.square().sum(), (x, kernel)))

    compiled = torch.compile(soc_series, backend="aot_eager", fullgraph=True)
    for found, wanted in zip(gradients(compiled), gradients(soc_series)):
        assert torch.equal(found, wanted)


def test_fake_tensors_pass_on_any_device() -> None:
    with FakeTensorMode():
        x = torch.empty(256, 64, 32, 32, requires_grad=True)
        kernel = torch.empty(64, 64, 3, 3, requires_grad=True)
        result = soc_step(soc_series(x, kernel, 5), x, kernel, 1)
        assert [one.shape for one in (result, *torch.autograd.grad(result.sum(), (x, kernel)))] == [
            x.shape,
            x.shape,
            kernel.shape,
        ]


def test_counted_macs_are_those_of_the_convolutions() -> None:
    one = 4 * 5**2 * 6**2 * 3**2
    with FakeTensorMode():
        x = torch.empty(4, 5, 6, 6, requires_grad=True)
        kernel = torch.empty(5, 5, 3, 3, requires_grad=True)
        counted: dict[str, int] = {}
        for name, function in {"series": lambda: soc_series(x, kernel, 7), "step": lambda: soc_step(x, x, kernel, 2)}.items():
            with FlopCounterMode(display=False) as forward:
                result = function()
            with FlopCounterMode(display=False) as backward:
                torch.autograd.grad(result.sum(), (x, kernel))
            counted |= {name: forward.get_total_flops() // 2, f"{name} backward": backward.get_total_flops() // 2}
    assert counted == {"series": 7 * one, "series backward": 14 * one, "step": one, "step backward": 2 * one}
    sizes = {"b": 4, "c": 5, "s": 6, "k": 3}
    assert soc_work.series(**sizes, t=7).macs == soc_work.replaced_series(**sizes, t=7).macs == 7 * one
    assert soc_work.series_backward(**sizes, t=7).macs == soc_work.replaced_series_backward(**sizes, t=7).macs == 14 * one
    assert soc_work.step_backward(**sizes).macs == soc_work.replaced_step_backward(**sizes).macs == 2 * one


def test_series_costs_what_its_steps_cost() -> None:
    sizes = {"b": 8, "c": 64, "s": 32, "k": 3}
    images, parameters = 4 * 8 * 64 * 32**2, 4 * 64**2 * 3**2
    assert not fits(64, 32, 32)
    work = soc_work.series(**sizes, t=5)
    assert (work.read_bytes, work.written_bytes) == (9 * images + 6 * parameters, 5 * images + parameters)
    assert soc_work.replaced_series(**sizes, t=5).written_bytes == 3 * 5 * images
    assert soc_work.step(**sizes).read_bytes + soc_work.step(**sizes).written_bytes == 3 * images + 3 * parameters
    small = {"b": 8, "c": 64, "s": 8, "k": 3}
    assert fits(64, 8, 8)
    assert soc_work.series(**small, t=5).written_bytes < soc_work.series(**small, t=5, resident=False).written_bytes * 1.01
    assert soc_work.series(**small, t=5).read_bytes < soc_work.series(**small, t=5, resident=False).read_bytes / 2


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_catalogue_entry_saves_bytes_and_no_macs(kernel: Any) -> None:
    work, replaced = kernel.work(**kernel.example), kernel.replaced(**kernel.example)
    assert work.macs == replaced.macs
    assert work.read_bytes + work.written_bytes < replaced.read_bytes + replaced.written_bytes


@pytest.mark.parametrize(
    ("images", "kernel", "terms", "precision", "message"),
    [
        ((2, 3, 4), (3, 3, 3, 3), 2, "ieee", r"takes images \(b, c, s, r\): got \(2, 3, 4\)"),
        ((0, 3, 4, 4), (3, 3, 3, 3), 2, "ieee", "none of them empty"),
        ((2, 3, 4, 4), (3, 4, 3, 3), 2, "ieee", r"kernel \(3, 3, k, k\) .* got \(3, 4, 3, 3\)"),
        ((2, 3, 4, 4), (3, 3, 2, 2), 2, "ieee", "odd k"),
        ((2, 3, 4, 4), (3, 3, 3, 3), 0, "ieee", "one term or more: got 0"),
        ((2, 3, 4, 4), (3, 3, 3, 3), 2, "half", "unknown precision: got 'half'"),
    ],
)
def test_what_is_not_taken_is_named(images: Any, kernel: Any, terms: int, precision: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soc_series(torch.zeros(images), torch.zeros(kernel), terms, precision)


def test_float64_is_not_taken() -> None:
    with pytest.raises(ValueError, match=r"takes float32: got torch\.float64"):
        soc_series(torch.zeros(1, 2, 3, 3, dtype=torch.float64), torch.zeros(2, 2, 3, 3), 2)
    with pytest.raises(ValueError, match="order of 1 or more: got 0"):
        soc_step(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), torch.zeros(2, 2, 3, 3), 0)
    with pytest.raises(ValueError, match="x of h's shape"):
        soc_step(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4), torch.zeros(2, 2, 3, 3), 1)


@pytest.mark.parametrize("by_kernel", [False, True])
def test_second_derivative_is_refused(by_kernel: bool) -> None:
    x, kernel = sample(1, 2, 2, 2, 1)
    result = soc_series(x, kernel if by_kernel else kernel.detach(), 2)
    (by_x,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(by_x.sum(), x)
