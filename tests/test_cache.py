"""The evaluation cache: it is used where that is allowed, and has no effect elsewhere."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from conftest import IMAGE_SIZE, Variant
from evaluation import afresh, evaluate, in_place, input_gradient, seeded
from torch import Tensor, nn

from lipbench.layers.base import TwoHalves
from lipbench.layers.cpl import CPLConv2d

pytestmark = pytest.mark.heads


class Scaled(TwoHalves):
    """The smallest layer with two halves: y = (weight² · image size) x. It counts how often each half ran."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))
        self.calls = 0

    def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        return (self.weight.square() * image_size,)

    def transform_input(self, x: Tensor, *effective: Tensor) -> Tensor:
        return effective[0] * x

    def forward(self, x: Tensor) -> Tensor:
        return self.transform_input(x, *self.effective_parameters(x.shape[-1]))


# Used where that is allowed


def test_parameter_half_runs_once_in_evaluation(variant: Variant, calls: list[int]) -> None:
    layer = variant.build().eval()
    x = variant.image(layer)
    with torch.no_grad():
        outputs = [layer(x), layer(x)]
    with torch.inference_mode():
        outputs += [layer(x)]
    layer.requires_grad_(False)
    outputs += [layer(x)]
    assert len(calls) == 1
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])


def test_parameter_half_runs_every_time_in_training(variant: Variant, calls: list[int]) -> None:
    layer = variant.build().train()
    x = variant.image(layer)
    with torch.no_grad():
        layer(x), layer(x)
    assert len(calls) == 2


def test_cleared_cache_is_computed_again(variant: Variant, calls: list[int]) -> None:
    layer = variant.build()
    x = variant.image(layer)
    first = evaluate(layer, x)
    layer.clear_cache()
    assert torch.equal(evaluate(layer, x), first)
    assert len(calls) == 2


def test_cached_output_is_that_of_the_two_halves(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    expected = afresh(layer, x)
    assert torch.equal(evaluate(layer, x), expected)
    assert torch.equal(evaluate(layer, x), expected)


# Gradients


def test_born_in_inference_mode_then_an_input_gradient(variant: Variant) -> None:
    layer = variant.build().eval().requires_grad_(False)
    x = variant.image(layer)
    expected = input_gradient(layer, x)
    layer.clear_cache()
    with torch.inference_mode():
        seeded(lambda: layer(x))
    assert torch.equal(input_gradient(layer, x), expected)


def test_second_backward_through_one_cache(variant: Variant) -> None:
    layer = variant.build().eval().requires_grad_(False)
    x = variant.image(layer)
    first = input_gradient(layer, x)  # fills the cache with gradients enabled
    assert torch.equal(input_gradient(layer, x), first)


def test_second_backward_with_trainable_parameters(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    evaluate(layer, x)
    first = input_gradient(layer, x)
    assert torch.equal(input_gradient(layer, x), first)


def test_parameter_gradients_in_evaluation_mode(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    evaluate(layer, x)
    seeded(lambda: layer(x)).square().sum().backward()
    cached = {name: parameter.grad for name, parameter in layer.named_parameters()}
    layer.zero_grad()
    effective = seeded(lambda: layer.transform_input(x, *layer.parameter_half(IMAGE_SIZE)))
    effective.square().sum().backward()
    for name, parameter in layer.named_parameters():
        found = cached[name]
        assert found is not None, name
        assert parameter.grad is not None
        assert torch.equal(found, parameter.grad), name
        assert found.abs().sum() > 0, name


def test_one_trainable_parameter_is_enough_to_compute_afresh(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    evaluate(layer, x)
    for name, parameter in layer.named_parameters():
        layer.requires_grad_(False)
        parameter.requires_grad_()
        (found,) = torch.autograd.grad(seeded(lambda: layer(x)).square().sum(), parameter)
        assert found.abs().sum() > 0, name


# Never stale


def optimizer_step(layer: TwoHalves, x: Tensor) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.train()(x).square().mean().backward()
    optimizer.step()


def other_state(layer: TwoHalves) -> dict[str, Tensor]:
    return {name: value + 0.5 * torch.randn_like(value) for name, value in layer.state_dict().items()}


def loaded(layer: TwoHalves, x: Tensor) -> None:
    layer.load_state_dict(other_state(layer))


def assigned(layer: TwoHalves, x: Tensor) -> None:
    layer.load_state_dict(other_state(layer), assign=True)


def replaced(layer: TwoHalves, x: Tensor) -> None:
    name, parameter = next(iter(layer.named_parameters()))
    setattr(layer, name, nn.Parameter(parameter.detach() + 0.5 * torch.randn_like(parameter)))


def rounded(layer: TwoHalves, x: Tensor) -> None:
    layer.to(torch.bfloat16).to(torch.float64)


def initialised(layer: TwoHalves, x: Tensor) -> None:
    nn.init.normal_(next(layer.parameters()))


CHANGES = [optimizer_step, in_place, loaded, assigned, replaced, rounded, initialised]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_follows_a_change_of_parameters(variant: Variant, change: Callable[[TwoHalves, Tensor], None]) -> None:
    layer = variant.build()
    x = variant.image(layer)
    before = evaluate(layer, x)
    change(layer, x)
    after = evaluate(layer, x)
    assert torch.equal(after, afresh(layer, x))
    assert not torch.allclose(after, before, rtol=1e-5), "the change should be visible"


def trained_without_an_optimizer(layer: TwoHalves, x: Tensor) -> None:
    layer.train()(x)


def refreshed(layer: TwoHalves, x: Tensor) -> None:
    if type(layer).refresh is TwoHalves.refresh:
        pytest.skip("has nothing to refresh")
    layer.refresh()


@pytest.mark.parametrize("change", [trained_without_an_optimizer, refreshed], ids=lambda change: change.__name__)
def test_follows_a_change_of_buffers(variant: Variant, change: Callable[[TwoHalves, Tensor], None]) -> None:
    layer = variant.build()
    x = variant.image(layer)
    if not list(layer.buffers()):
        pytest.skip("has no buffers")
    in_place(layer, x)  # iterated state has not converged on the new weights, so the next steps change it
    before = evaluate(layer, x)
    change(layer, x)
    after = evaluate(layer, x)
    assert torch.equal(after, afresh(layer, x))
    assert not torch.equal(after, before), "the change should be visible"


def test_follows_another_dtype_of_the_same_tensors(variant: Variant) -> None:
    """Only the dtype shows the change: the tensors are the same, and no version counter changes."""
    layer = variant.build(dtype=torch.float32)
    x = variant.image(layer)
    evaluate(layer, x)
    for tensor in (*layer.parameters(), *layer.buffers()):
        tensor.data = tensor.data.double()
    double = evaluate(layer, x.double())
    assert double.dtype == torch.float64
    assert torch.equal(double, afresh(layer, x.double()))


def test_follows_a_change_of_dtype(variant: Variant) -> None:
    layer = variant.build(dtype=torch.float32)
    x = variant.image(layer)
    single = evaluate(layer, x)
    double = evaluate(layer.to(torch.float64), x.double())
    assert double.dtype == torch.float64
    assert torch.equal(double, afresh(layer, x.double()))
    assert evaluate(layer.to(torch.float32), x).dtype == single.dtype


def test_other_image_size_and_back(variant: Variant, calls: list[int]) -> None:
    layer = variant.build()
    x, larger = variant.image(layer), variant.image(layer, image_size=IMAGE_SIZE + 1)
    first = evaluate(layer, x)
    assert torch.equal(evaluate(layer, larger), afresh(layer, larger))
    assert torch.equal(evaluate(layer, x), first)
    assert IMAGE_SIZE + 1 in calls


# Copies and files


def test_copies_and_files_leave_it_out(variant: Variant, calls: list[int]) -> None:
    layer = variant.build().eval()
    cold, keys = pickle.dumps(layer), set(layer.state_dict())
    x = variant.image(layer)
    expected = evaluate(layer, x)
    assert pickle.dumps(layer) == cold
    assert set(layer.state_dict()) == keys
    for twin in (copy.deepcopy(layer), pickle.loads(cold), copy.copy(layer)):
        calls.clear()
        assert torch.equal(evaluate(twin, x), expected)
        assert len(calls) == 1, "the copy should have computed its own"
    in_place(twin, x)  # shares its parameters with the layer
    assert torch.equal(evaluate(layer, x), evaluate(twin, x))


# The base class by itself


def test_base_class_caches_and_follows() -> None:
    layer = Scaled().eval()
    x = torch.ones(1, 1, 2, 2)
    with torch.no_grad():
        assert layer(x).max() == 18
        assert layer(x).max() == 18
        assert layer.calls == 1
        layer.weight.fill_(1.0)
        assert layer(x).max() == 2
        assert layer(torch.ones(1, 1, 5, 5)).max() == 5
    assert layer.calls == 3


def test_base_class_computes_afresh_for_gradients() -> None:
    layer = Scaled().eval()
    x = torch.ones(1, 1, 2, 2)
    with torch.no_grad():
        layer(x)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert float(layer.weight.grad) == 4 * 2 * 3 * 2  # pixels × d(w²)/dw × image size
    assert layer.calls == 2


def test_base_class_follows_another_device() -> None:
    """Only the device shows the change: the parameter is the same object, with the same version counter."""
    layer = Scaled().eval()
    weight = layer.weight
    with torch.no_grad():
        layer(torch.ones(1, 1, 2, 2))
        torch.utils.swap_tensors(weight, nn.Parameter(torch.tensor(3.0, device="meta")))
        assert layer.weight is weight
        assert layer(torch.ones(1, 1, 2, 2, device="meta")).device.type == "meta"
    assert layer.calls == 2


def test_write_through_data_is_the_documented_exception() -> None:
    layer = Scaled().eval()
    x = torch.ones(1, 1, 2, 2)
    with torch.no_grad():
        layer(x)
        layer.weight.data.fill_(1.0)
        assert layer(x).max() == 18
        layer.clear_cache()
        assert layer(x).max() == 2


# Layout


def test_cached_parameters_lie_as_their_products_want_them(variant: Variant) -> None:
    """Contiguous, without a pending conjugation, and without the rest of a larger tensor behind them."""
    layer = variant.build()
    x = variant.image(layer)
    evaluate(layer, x)
    assert layer._cache is not None
    for tensor in layer._cache.effective:
        assert tensor.is_contiguous()
        assert not tensor.is_conj()


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (6, 4), (4, 6)])
def test_a_transposed_view_is_cached_as_rows(inputs: int, outputs: int) -> None:
    """Whatever a parameter half returns: here the adjoint of a complex matrix, a view with a pending conjugation."""

    class Adjoint(Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(inputs, outputs, dtype=torch.complex128))

        def transform_parameters(self, image_size: int, *advanced: Tensor) -> tuple[Tensor, ...]:
            return (self.weight.mH,)

    layer = Adjoint().eval()
    with torch.no_grad():
        (cached,) = layer.effective_parameters(1)
    assert cached.is_contiguous()
    assert not cached.is_conj()
    assert torch.equal(cached, layer.weight.detach().mH)


def test_channels_last_kernels_stay_channels_last() -> None:
    layer = CPLConv2d(4, 4, 3, 6).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # untyped
    with torch.no_grad():
        kernel, _ = layer.effective_parameters(6)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
