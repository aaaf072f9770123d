"""Recomputation: the same outputs, gradients and state, with the layer's input and vectors as all that a forward pass keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from conftest import CHANNELS, HEAD, IMAGE_SIZE, Variant, disturb
from torch import Tensor, nn

from lipbench import registry, theory
from lipbench.analysis.expected import expected
from lipbench.cases import PAPER_METHODS, Case, LayerSpec, NetworkSpec
from lipbench.compiled import CompiledWorkload
from lipbench.errors import LipbenchError, UnsupportedError
from lipbench.layers.base import TwoHalves
from lipbench.meters import macs, saved
from lipbench.meters import memory as memory_meter
from lipbench.prediction import largest, memory, operations
from lipbench.workload import Workload, image_size

Results = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _no_earlier_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def steps(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor, number: int = 2) -> Results:
    """Outputs and all gradients of several training steps, then the parameters, the buffers, and the next random number."""
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    module.train()
    found: Results = {}
    for step in range(number):
        image = x.clone().requires_grad_()
        optimizer.zero_grad()
        output = call(image)
        output.square().sum().backward()
        found |= {f"{step} output": output.detach(), f"{step} gradient of the input": image.grad}
        found |= {f"{step} gradient of {name}": one.grad.clone() for name, one in module.named_parameters()}
        optimizer.step()
    return found | {name: one.clone() for name, one in module.state_dict().items()} | {"random": torch.rand(1)}


def recomputed(module: nn.Module) -> nn.Module:
    """A copy of the module whose layers are computed again in the backward pass."""
    found = copy.deepcopy(module)
    for part in found.modules():
        if isinstance(part, TwoHalves):
            part.recompute = True
    return found


def assert_same(found: Results, expected: Results) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert torch.equal(one, expected[name]), name


# ------------------------------------------------------------------------------------------------------------------ a layer


@pytest.mark.heads
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_outputs_gradients_and_state_are_bit_equal(variant: Variant, dtype: torch.dtype) -> None:
    layer = variant.build(dtype=dtype)
    x = variant.image(layer)
    twin = recomputed(layer)
    assert_same(steps(twin, twin, x), steps(layer, layer, x))


def test_autocast_is_that_of_the_forward_pass(variant: Variant) -> None:
    layer = variant.build(dtype=torch.float32)
    x = variant.image(layer)

    def results(module: nn.Module) -> Results:
        def call(image: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                output: Tensor = module(image)
            return output.float()

        return steps(module, call, x)

    assert_same(results(recomputed(layer)), results(layer))


@pytest.mark.heads
def test_only_the_input_and_what_is_not_repeated_are_kept(variant: Variant) -> None:
    """The vectors of `advance()`, and Cayley's inverse of each block."""
    layer = variant.build()
    layer.recompute = True
    x = variant.image(layer).requires_grad_()
    kept = [*layer.train().advance(image_size(layer))]
    if variant.method.name in ("cayley", "sandwich"):
        size = image_size(layer)
        blocks = 1 if variant.implementation == HEAD else size * (size // 2 + 1)
        channels = layer.out_features if variant.implementation == HEAD else layer.out_channels
        dtype = torch.float64 if variant.implementation == HEAD else torch.complex128
        kept.append(torch.empty(blocks, channels, channels, dtype=dtype))
    assert saved.saved_bytes(lambda: layer(x)) == saved.bytes_of([x]) + saved.bytes_of(kept)
    assert saved.unseen_bytes(layer, x) == 0


def test_an_inverse_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the backward pass runs twice; each time it has the gradients of the layer that keeps everything."""
    calls: list[torch.Size] = []
    inv_ex = torch.linalg.inv_ex
    monkeypatch.setattr(torch.linalg, "inv_ex", lambda matrix: (calls.append(matrix.shape), inv_ex(matrix))[1])
    for implementation in ("paper", "lean"):
        layer = registry.build(LayerSpec("cayley", 4, 6, implementation=implementation)).train()
        twin, x = recomputed(layer), torch.randn(2, 4, 6, 6)
        output = twin(x)
        layer(x).square().sum().backward()
        assert len(calls) == 2
        for _ in range(2):
            twin.zero_grad()
            output.square().sum().backward(retain_graph=True)
            for one, other in zip(twin.parameters(), layer.parameters(), strict=True):
                assert torch.equal(one.grad, other.grad)
        assert len(calls) == 2
        calls.clear()


def test_a_layer_that_is_used_twice_within_another_checkpoint() -> None:
    layer = registry.build(LayerSpec("cayley", 4, 6)).train()
    twin, x = recomputed(layer), torch.randn(2, 4, 6, 6)
    layer(layer(x)).square().sum().backward()
    outer = torch.utils.checkpoint.checkpoint(lambda image: twin(twin(image)), x.requires_grad_(), use_reentrant=False)
    outer.square().sum().backward()
    for one, other in zip(twin.parameters(), layer.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_recomputed_output_may_be_changed_in_place() -> None:
    layer = registry.build(LayerSpec("cayley", 4, 6)).train()
    x = torch.randn(2, 4, 6, 6)
    outputs = [one(x).relu_() for one in (layer, recomputed(layer))]
    for output in outputs:
        output.sum().backward()
    assert torch.equal(*outputs)


@pytest.mark.parametrize("power", [1, 3])
def test_a_second_derivative_of_a_recomputed_inverse(power: int) -> None:
    """The second derivative of a linear loss does not pass through the output."""
    layer = registry.build(LayerSpec("cayley", 2, 4)).train().double()
    found = []
    for one in (layer, recomputed(layer)):
        x = torch.ones(1, 2, 4, 4, dtype=torch.float64).mul(torch.arange(4)).requires_grad_()
        (first,) = torch.autograd.grad(one(x).pow(power).sum(), one.weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), one.weight)[0])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(("method", "terms"), [("cpl", 1), ("soc", 4)])
def test_the_last_convolution_of_lean_is_not_repeated(method: str, terms: int) -> None:
    layer = registry.build(LayerSpec(method, 4, 6, implementation="lean")).train()
    again = recomputed(layer)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    counted = [macs.count(one(x).sum().backward).by_operation["aten.convolution"] for one in (layer, again)]
    assert (counted[1] - counted[0]) // (2 * 4 * 4 * 36 * 9) == terms


@pytest.mark.heads
def test_the_parameter_half_runs_twice_and_its_state_steps_once(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = variant.build().train()
    layer.recompute = True
    ran: list[str] = []
    for name in ("advance", "transform_parameters", "transform_input"):
        half = getattr(layer, name)
        monkeypatch.setattr(layer, name, lambda *given, name=name, half=half: (ran.append(name), half(*given))[1])
    output = layer(variant.image(layer).requires_grad_())
    assert ran == ["advance", "transform_parameters", "transform_input"]
    output.sum().backward()
    assert ran[3:] in (["transform_parameters", "transform_input"], ["transform_parameters"])


def test_evaluation_keeps_its_cache(variant: Variant, calls: list[int]) -> None:
    layer = variant.build().eval()
    layer.recompute = True
    x = variant.image(layer)
    with torch.no_grad():
        first, second = layer(x), layer(x)
    assert torch.equal(first, second)
    assert calls == [IMAGE_SIZE]


@pytest.mark.heads
def test_compiles_to_one_graph(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    twin = recomputed(layer)
    found = steps(twin, torch.compile(twin, backend="aot_eager", fullgraph=True), x)
    expected = steps(layer, layer, x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------------- the costs


@pytest.mark.heads
@pytest.mark.parametrize(("batch", "size", "kernel", "channels"), [(2, 6, 3, 4), (2, 7, 3, 9), (3, 8, 1, 8)])
def test_exact_formulas_equal_what_is_counted(variant: Variant, batch: int, size: int, kernel: int, channels: int) -> None:
    is_head = variant.implementation == HEAD
    if is_head:
        assert variant.method.head is not None
        exact, size, kernel = variant.method.head.costs(recompute=True), 1, 1
    else:
        exact = variant.method.costs(variant.implementation, recompute=True)
    if exact is None:
        pytest.skip("its costs are not known")
    layer = variant.build(channels, channels, kernel, size, dtype=torch.float32).train()
    layer.recompute = True
    x = variant.image(layer, batch).requires_grad_()
    values = {"b": batch, "s": size, "k": kernel, "c": channels, **variant.method.iterations}
    assert saved.saved_elements(lambda: layer(x)) == theory.evaluate(exact.input.memory + exact.parameters.memory, **values)
    forward = macs.count(lambda: layer(x))
    assert forward.total == theory.evaluate(exact.input.macs + exact.parameters.macs, **values)
    output = layer(x)
    backward = macs.count(lambda: output.backward(torch.ones_like(output)))
    assert backward.unsupported == ()
    assert backward.total == theory.evaluate(exact.input.backward + exact.parameters.backward, **values)


def test_theory_of_a_recomputed_case() -> None:
    plain = Case(LayerSpec("soc", 8, 6), 2)
    again = replace(plain, recompute=True)
    assert expected(again, "forward")["theory_memory_elements"] == 2 * 6 * 6 * 8 + 4 * 8 * 3 + 2 * 8 + 2 * 8 * 9
    assert math.isnan(expected(again, "forward")["published_memory_elements"])
    for phase in ("forward", "parametrize", "inference"):
        assert expected(again, phase)["theory_macs"] == expected(plain, phase)["theory_macs"]
    macs = {case: [expected(case, phase)["theory_macs"] for phase in ("forward", "backward")] for case in (plain, again)}
    # Four of the five convolutions are computed again, and the norms, but no step of the power iterations.
    norms = 4 * 8 * 8 * 9 + 2 * 8 * 3 + 8 + 8 * 9
    assert macs[again][1] - macs[plain][1] == 4 * 2 * 6 * 6 * 8 * 8 * 9 + norms


@pytest.mark.parametrize("method", PAPER_METHODS)
def test_predicted_operations_are_those_that_run(method: str) -> None:
    case = Case(LayerSpec(method, CHANNELS, IMAGE_SIZE), 2, recompute=True)
    phases, missing = operations.of_case(case)
    assert missing == {}
    for phase in ("forward", "backward", "step"):
        assert sum(one.macs for one in phases[phase]) == pytest.approx(expected(case, phase)["theory_macs"], abs=0.5)


def test_a_batch_fits_and_one_image_more_does_not() -> None:
    case = Case(NetworkSpec("soc", "XS", image_size=8), 1, device="cuda", recompute=True)
    limit_bytes = 100_000_000
    rows, problems = largest.table([case], limit_bytes)
    batch = int(rows["training_batch"].iloc[0])
    peaks = [memory.step_peak(replace(case, batch_size=size)) for size in (batch, batch + 1)]
    assert peaks[0] <= limit_bytes < peaks[1]
    assert (peaks[0], problems) == (rows["training_peak_bytes"].iloc[0], [])
    plain, _ = largest.table([replace(case, recompute=False)], limit_bytes)
    assert batch > int(plain["training_batch"].iloc[0])


def test_predicted_peaks_are_those_of_the_allocator() -> None:
    case = Case(NetworkSpec("cpl", "XS", image_size=8), 4, threads=torch.get_num_threads(), recompute=True)
    measured = memory_meter.measure(Workload.build(case, registry.build(case.spec)), phases=("step",))
    assert memory.step_peak(case) == pytest.approx(measured.peaks["step"].total_bytes, rel=0.01)


def test_theory_of_a_recomputed_network() -> None:
    case = Case(NetworkSpec("bcop", "XS", image_size=8), 2, recompute=True)
    workload = Workload.build(case, registry.build(case.spec))
    assert macs.measure(workload).phases["step"] == expected(case, "step")["theory_macs"]


# ------------------------------------------------------------------------------------------------------------ the workload


def test_a_whole_network() -> None:
    for method in ("soc", "bcop", "sll"):
        spec = NetworkSpec(method, "XS", image_size=8)
        network = registry.build(spec)
        disturb(network)
        x = torch.randn(2, 3, 8, 8)
        twin = recomputed(network)
        assert_same(steps(twin, twin, x, 1), steps(network, network, x, 1))


def workload_of(*, compile: bool = False, **given: object) -> Workload:
    case = Case(LayerSpec("soc", CHANNELS, IMAGE_SIZE), 2, compile=compile, **given)
    torch.manual_seed(0)
    return Workload.build(case, registry.build(case.spec))


def test_a_case_says_which_layers_are_computed_again() -> None:
    workloads = {on: workload_of(recompute=on) for on in (False, True)}
    kept = {}
    for on, workload in workloads.items():
        assert [half.recompute for half in workload.halves] == [on]
        workload.prepare_training()
        kept[on] = saved.saved_bytes(workload.forward)
    assert kept[True] < kept[False] / 3


@pytest.mark.parametrize("method", PAPER_METHODS)
def test_a_compiled_workload_is_one_graph_and_computes_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda what, **given: compiler(what, backend="aot_eager", **given))
    results = []
    for on in (False, True):
        case = Case(LayerSpec(method, CHANNELS, IMAGE_SIZE), 2, "float64", compile=True, recompute=on)
        torch.manual_seed(0)
        workload = CompiledWorkload(Workload.build(case, registry.build(case.spec)))
        torch.manual_seed(1)
        workload.prepare_training()
        workload.forward()
        workload.backward()
        results.append(workload.results())
        assert (workload.graphs, workload.graph_breaks()) == (1, [])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


def test_a_layer_without_halves_is_unsupported() -> None:
    case = Case(LayerSpec("torch.nn:Conv2d", CHANNELS, IMAGE_SIZE), 2, recompute=True)
    with pytest.raises(UnsupportedError, match=r"half by half: got torch\.nn:Conv2d, .*torch\.utils\.checkpoint"):
        Workload.build(case, registry.build(case.spec))


def test_an_exported_form_is_not_computed_again() -> None:
    with pytest.raises(LipbenchError, match="leave out one of exported and recompute"):
        Case(LayerSpec("aol", CHANNELS, IMAGE_SIZE), 2, exported=True, recompute=True)
