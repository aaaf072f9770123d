"""Dtype, copies, state and training steps of modules that hold weights and state in every way."""

from __future__ import annotations

import threading
from typing import Any

import published_layers as published
import pytest
import torch
from torch import Tensor, nn

from lipbench import certify, errors, training
from lipbench.cases import Case, LayerSpec
from lipbench.layers.aol import AOLConv2d
from lipbench.state import State
from lipbench.weights import converted, copied, holders, items
from lipbench.workload import Workload

CHANNELS, SIZE = 4, 4
ALL = (
    published.FrozenMask, published.FrozenFilter, published.FrozenOrder, published.Toggled, published.SpectralPointwise,
    published.SpectralHook, published.EveryForward, published.KeptWeight, published.Cached, published.Nested, published.Closure,
    published.Locked, published.Uncopied, published.LazyWeight, published.Late, published.Average, published.Shared,
    published.ComplexBuffer, published.ComplexParametrised, published.Orthogonal, published.Householder, published.CayleyMap,
    published.Wide, published.Strided, published.Unpadded, published.Pooled,
)  # fmt: skip


def made(layer: Any) -> nn.Module:
    torch.manual_seed(0)
    found: nn.Module = layer(CHANNELS, CHANNELS, 1)
    return found


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)


def built(layer: Any, weights: Any = None) -> Workload:
    spec = LayerSpec(f"published_layers:{layer.__name__}", CHANNELS, SIZE, 1)
    return Workload.build(Case(spec, batch_size=2), made(layer), weights)


def values(module: nn.Module) -> dict[str, Any]:
    """Everything that a module holds: values of tensors, and other objects themselves."""
    found: dict[str, Any] = {}
    for name, holder in holders(module):
        for key, value in items(holder):
            if key != "training":
                found[f"{name}/{key}"] = value.detach().clone() if isinstance(value, Tensor) else value
    return found


def assert_equal(now: dict[str, Any], before: dict[str, Any]) -> None:
    assert now.keys() == before.keys()
    for name, one in before.items():
        if isinstance(one, Tensor):
            assert now[name].dtype == one.dtype, name
            assert torch.equal(now[name], one), name
        elif not isinstance(one, tuple):
            assert now[name] is one, name


# -------------------------------------------------------------------------------------------------------------------- dtype


@pytest.mark.parametrize("layer", ALL)
def test_a_module_computes_in_float64_as_in_float32(layer: Any) -> None:
    module = made(layer)
    module.train()(images())
    exact = converted(copied(module.eval(), lambda: made(layer)), torch.float64)
    found = exact(images(torch.float64))
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), module(images()), atol=1e-4)


def test_complex_and_integer_tensors_keep_their_kind() -> None:
    layer = converted(made(published.ComplexBuffer), torch.float64)
    assert (layer.t.dtype, layer.plain.dtype) == (torch.complex128, torch.complex128)
    assert converted(layer, torch.float32).t.dtype == torch.complex64  # type: ignore[union-attr]
    assert converted(made(published.FrozenOrder), torch.float64).order.dtype == torch.long  # type: ignore[union-attr]
    assert converted(made(published.Average), torch.float64).scale.dtype == torch.float16  # type: ignore[union-attr]
    half = made(published.Identity).to(torch.bfloat16)
    assert converted(half, torch.float32).weight.dtype == torch.float32  # type: ignore[union-attr]


def test_shared_tensors_stay_shared() -> None:
    layer = converted(made(published.Nested), torch.float64)
    assert layer.constants["one"] is layer.constants["pair"][0] is layer.kept.queue[0]
    shared = converted(copied(made(published.Shared)), torch.float64)
    assert shared.one.weight is shared.other.weight
    assert len(list(shared.parameters())) == 3


def test_caches_of_two_halves_are_emptied() -> None:
    layer = AOLConv2d(CHANNELS, CHANNELS, 1, SIZE).eval()
    with torch.no_grad():
        layer(images())
        assert layer._cache is not None
        assert converted(layer, torch.float64)._cache is None


# ------------------------------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("layer", ALL)
def test_a_certificate_changes_nothing(layer: Any) -> None:
    module = made(layer)
    training.first_output(module, lambda: module.eval()(images()))
    module.train()(images())
    before = values(module)
    certify.certify(module, images(), remake=lambda: made(layer))
    assert_equal(values(module), before)


def test_a_copy_uses_its_own_weights() -> None:
    for layer in (published.Closure, published.Locked, published.Uncopied):
        module = made(layer)
        twin = copied(module, lambda one=layer: made(one))
        with torch.no_grad():
            twin.weight.zero_()  # type: ignore[union-attr, operator]
        assert torch.allclose(twin(images()), images(), atol=1e-6), layer
        assert not torch.allclose(module(images()), images(), atol=1e-2), layer


def test_what_cannot_be_copied_is_fresh_where_it_can_be_made_and_shared_elsewhere() -> None:
    module = made(published.Locked)
    assert copied(module, lambda: made(published.Locked)).lock is not module.lock
    assert copied(module).lock is module.lock
    assert torch.equal(copied(module).weight, module.weight)  # type: ignore[arg-type]


class Slotted(nn.Module):
    def __new__(cls, *given: object) -> Slotted:
        found = super().__new__(cls)
        if not given:
            raise ValueError("give me a number")
        return found

    def __init__(self, number: int) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_copied_is_named() -> None:
    with pytest.raises(errors.UnsupportedError, match=r"Slotted cannot be copied.*give me a number"):
        copied(Slotted(1))


# ---------------------------------------------------------------------------------------------------------------- the state


@pytest.mark.parametrize("layer", ALL)
def test_the_state_is_as_before_after_training(layer: Any) -> None:
    module = made(layer)
    training.first_output(module, lambda: module.eval()(images()))
    state, before = State(module), values(module)
    assert not state.is_changed()
    training.train(module, images())
    module.eval()(images())
    with torch.inference_mode():
        module(images())
    assert state.is_changed()
    assert state.restore() == ()
    assert_equal(values(module), before)
    assert not state.is_changed()
    module.train()(images()).sum().backward()


def test_a_replaced_tensor_is_brought_back() -> None:
    module = made(published.Late)
    weight, state = module.weight, State(module)
    module.history = torch.ones(3, dtype=torch.float64)
    module.weight.data = torch.zeros(2, 2)  # type: ignore[union-attr]
    module.register_buffer("more", torch.ones(1), persistent=False)
    module.register_parameter("free", nn.Parameter(torch.ones(1)))
    module.add_module("part", nn.Linear(2, 2))
    module.requires_grad_(False)
    state.restore()
    assert module.weight is weight
    assert module.weight.shape == (CHANNELS, CHANNELS)
    assert module.weight.requires_grad
    assert torch.equal(module.history, torch.zeros(1))  # type: ignore[arg-type]
    assert {*module.state_dict()} == {"weight", "history", "steps", "gone"}


class Guarded(dict[str, Tensor]):
    def clear(self) -> None:
        raise PermissionError("not emptied")


def test_what_cannot_be_restored_is_named() -> None:
    module = made(published.Turning)
    module.kept = Guarded(one=torch.ones(1))  # type: ignore[assignment]
    state = State(module)
    module.kept["two"] = torch.ones(1)  # type: ignore[index]
    (reason,) = state.restore()
    assert reason == "kept (PermissionError: not emptied)"
    workload = built(published.Turning)
    workload.module.kept = Guarded(one=torch.ones(1))  # type: ignore[assignment]
    workload._begin()
    workload.module.kept["two"] = torch.ones(1)  # type: ignore[index]
    workload.restore()
    ((remark, topic),) = workload.remarks.items()
    assert topic == "state"
    assert "kept (PermissionError: not emptied)" in remark


# ----------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("layer", ALL)
def test_an_external_layer_leaves_its_initial_map(layer: Any) -> None:
    workload = built(layer)
    assert workload.remarks == {}
    assert workload.weights == "trained"
    for _ in range(2):
        workload.restore()
        workload.prepare_training()
        workload.step()
        workload.prepare_inference()
        workload.inference()
    before = built(layer, "initial")
    outputs = [one.module.train()(images()).detach() for one in (before, workload)]
    assert (outputs[0] - outputs[1]).norm() > 1e-4 * outputs[0].norm() or layer is published.SpectralPointwise


def test_frozen_parameters_stay_as_they_are() -> None:
    for weights in ("trained", "noise"):
        workload = built(published.FrozenMask, weights)
        assert {*workload.module.mask.tolist()} == {0.0, 1.0}  # type: ignore[union-attr, operator]
        assert torch.equal(built(published.FrozenOrder, weights).module.order.sort()[0], torch.arange(CHANNELS))  # type: ignore


def test_noise_and_initial_weights_can_be_asked_for() -> None:
    assert torch.equal(built(published.Identity, "initial").module.weight, torch.eye(CHANNELS))  # type: ignore[arg-type]
    found = {weights: built(published.Identity, weights) for weights in ("initial", "trained", "noise")}
    assert all(workload.weights == weights for weights, workload in found.items())
    assert not torch.equal(found["noise"].module.weight, found["trained"].module.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "why"),
    [(published.Stuck, "the weights did not move"), (published.ForwardOnly, "training steps failed (RuntimeError: element 0")],
)
def test_weights_that_cannot_be_trained_are_said_to_be_initial(layer: Any, why: str) -> None:
    workload = built(layer)
    ((remark, topic),) = workload.remarks.items()
    assert (workload.weights, topic) == ("initial", "weights")
    assert why in remark
    assert torch.equal(workload.module.weight, made(layer).weight)  # type: ignore[arg-type]


class Steep(nn.Module):
    """Steps of the usual learning rate diverge."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale**4


def test_steps_stay_finite() -> None:
    module = made(Steep)
    training.train(module, images())
    assert torch.isfinite(module(images())).all()
    assert torch.isfinite(built(Steep).module(images())).all()


def test_weights_without_a_finite_step_are_refused() -> None:
    class Never(Steep):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0

    module = made(Never)
    with pytest.raises(ArithmeticError, match="not finite"):
        training.train(module, images())
    assert torch.equal(module.scale, torch.full((1,), 1.5))  # type: ignore[arg-type]
