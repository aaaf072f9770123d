"""Every layer compiles as one graph, is not compiled again during training, and gives the same results as uncompiled; the
compiled workload."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import Variant
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from lipbench import registry
from lipbench.cases import PAPER_METHODS, Case, LayerSpec, Limits, NetworkSpec
from lipbench.compiled import CompiledWorkload
from lipbench.errors import UnsupportedError
from lipbench.layers.base import TwoHalves
from lipbench.quantities import PHASES
from lipbench.run import measure as conductor
from lipbench.workload import Workload

STEPS, REFRESH_STEP = 250, 200


@pytest.fixture(autouse=True)
def _no_earlier_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def train(layer: TwoHalves, call: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> list[float]:
    """Losses of gradient descent towards a fixed target; power iterations, if there are any, are refreshed during training."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)
    layer.train()
    torch.manual_seed(5)
    losses = []
    for step in range(STEPS):
        if step == REFRESH_STEP:
            layer.refresh()
        optimizer.zero_grad()
        loss = (call(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


@pytest.mark.heads
def test_training_steps_equal_eager_without_recompiling(variant: Variant) -> None:
    layer = variant.build(2, 2, image_size=4)
    twin = copy.deepcopy(layer)
    x = variant.image(layer).requires_grad_()
    target = torch.randn_like(x).detach()
    counter = CompileCounter()

    eager = train(twin, twin, x, target)
    compiled = train(layer, torch.compile(layer, backend=counter, fullgraph=True), x, target)

    assert 1 <= counter.frame_count <= 2  # at most one recompilation
    assert compiled == pytest.approx(eager, rel=1e-9)
    assert eager[-1] < eager[0]
    for (name, found), expected in zip(layer.state_dict().items(), twin.state_dict().values()):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.heads
def test_evaluation_equals_eager(variant: Variant) -> None:
    layer = variant.build(2, 2, image_size=4).eval()
    x = variant.image(layer)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.manual_seed(5)
        found = compiled(x)
        torch.manual_seed(5)
        expected = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.heads
def test_traced_backward_equals_eager(variant: Variant) -> None:
    layer = variant.build(2, 2, image_size=4).train()
    start = {name: value.clone() for name, value in layer.state_dict().items()}
    x = variant.image(layer)

    def gradients(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
        layer.load_state_dict(start)
        image = x.clone().requires_grad_()
        torch.manual_seed(5)
        return list(torch.autograd.grad(call(image).square().sum(), [image, *layer.parameters()]))

    expected = gradients(layer)
    found = gradients(torch.compile(layer, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------ the workload


def workload_of(method: str, dtype: str = "float32") -> Workload:
    it = Case(LayerSpec(method, channels=4, image_size=6), batch_size=3, dtype=dtype)
    torch.manual_seed(it.seed)
    return Workload.build(it, registry.build(it.spec))


def compiled_case(method: str) -> Case:
    return Case(LayerSpec(method, channels=4, image_size=6), batch_size=3, threads=torch.get_num_threads(), compile=True)


class Leaves(nn.Conv2d):
    """A layer with an operation that no graph can contain."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces graphs only, without generating code from them, which takes most of the time."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def run_all(workload: Workload, iterations: int = 3) -> None:
    for group in workload.groups():
        workload.restore()
        for _ in range(iterations):
            group.prepare()
            for stage in group.stages.values():
                stage()
    workload.restore()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("method", PAPER_METHODS)
def test_compiled_stages_are_few_graphs_and_compute_the_same(method: str) -> None:
    workload = workload_of(method, "float64")
    compiled = CompiledWorkload(workload)
    results = []
    for one in (workload, compiled):
        workload.restore()
        one.prepare_training()
        output = one.forward().detach()
        one.backward()
        gradients = [parameter.grad for parameter in workload.module.parameters()]
        one.prepare_training()
        one.parametrize()
        effective = [tensor.detach() for tensors in one.effective for tensor in tensors]
        one.prepare_first_inference()
        results.append([output, *gradients, *effective, torch.manual_seed(1) and one.first_inference()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)
    run_all(compiled)
    # Training, the parameter half, inference; the parameter half of a plain convolution is empty.
    assert compiled.graphs == (2 if method == "standard" else 3)
    assert (compiled.recompiled, compiled.graph_breaks()) == ({}, [])


@pytest.mark.usefixtures("traced")
def test_a_compiled_network_keeps_its_caches_and_is_one_graph() -> None:
    spec = NetworkSpec("aol", "XS")
    workload = Workload.build(Case(spec, batch_size=2), registry.build(spec))
    compiled = CompiledWorkload(workload)
    workload.prepare_first_inference()
    expected = workload.inference()
    calls = []
    for half in workload.halves:
        transform = half.parameter_half
        vars(half)["parameter_half"] = lambda size, transform=transform: (calls.append(size), transform(size))[1]
    for prepare, counted in ((compiled.prepare_inference, 0), (compiled.prepare_first_inference, len(workload.halves))):
        calls.clear()
        prepare()
        torch.testing.assert_close(compiled.inference(), expected)
        assert len(calls) == counted
    assert compiled.graphs == 1
    assert not any("effective_parameters" in vars(half) for half in workload.halves)


@pytest.mark.usefixtures("traced")
def test_what_makes_a_compiled_time_doubtful_is_noticed() -> None:
    compiled = CompiledWorkload(workload_of(f"{__name__}:Leaves"))
    group = compiled.groups()[0]
    for size in (3, 3, 2, 3):  # another batch size needs another graph
        group.prepare()
        compiled.x = compiled.x.detach()[:1].expand(size, -1, -1, -1).clone().requires_grad_()
        compiled.forward()
    group.prepare()
    assert list(compiled.recompiled) == ["forward", "backward"]
    (reason,) = compiled.graph_breaks()
    assert "break" in reason


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning:torch")  # the compiler's own
def test_a_compiled_round_runs_code_of_its_own_and_is_certified_uncompiled() -> None:
    found = conductor.measure(compiled_case("standard"), Limits(phase_seconds=0.02))
    assert (found.status, found.reason) == ("ok", "")
    assert found.phases is not None
    assert tuple(found.phases) == PHASES
    assert found.phases["forward"].first_call_s > 0.1  # a cache that was not empty would be quicker, any compiler slower
    assert found.machine is not None
    assert "inductor" in found.machine.flags["compile"]
    assert found.memory is not None
    assert (found.memory.saved_bytes > 0, found.memory.saved_per_image_bytes) == (True, None)
    assert set(found.memory.peaks) == set(PHASES)
    assert found.macs is not None
    assert found.macs.phases["forward"] == 3 * 36 * 16 * 9
    assert found.certificate is not None
    assert not {"graph_break", "recompiled", "inexact", "uncompared"} & {one.kind for one in found.warnings}


def test_without_a_compiler_a_compiled_case_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def absent() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", absent)
    with pytest.raises(UnsupportedError, match="C\\+\\+ compiler"):
        conductor.measure(compiled_case("standard"), Limits(phase_seconds=0.02))
