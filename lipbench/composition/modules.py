"""The graph of a module, where it computes what the module does, and which of its layers are single nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.composition.graph import Graph, evaluate
from lipbench.composition.tape import Tape, UntraceableError, Wholes
from lipbench.layers.base import LipschitzConv2d, LipschitzLinear, TwoHalves
from lipbench.meters import lipschitz

POINTS = 2


@torch.no_grad()
def graph_of(module: nn.Module, like: Tensor, opened: set[nn.Module]) -> Graph:
    """The graph of a module, where it computes the same as the module does at other points, alone and in a batch."""
    points = [scale * point(like, seed) for seed in range(POINTS) for scale in (1e-2, 1.0, 1e2)]
    module(points[0].clone())  # what the first call sets up belongs to no graph
    graph = trace(module, point(like, POINTS), [layer for layer in _leaves(module) if layer not in opened])
    for x in points:
        expected = module(x.clone())
        if expected.dtype != torch.float64:
            raise UntraceableError(f"it computes in {dtype_name(expected.dtype)}")
        if not bool(expected.isfinite().all()):
            raise UntraceableError("its output is not finite")
        if not _alike(evaluate([graph.result], {graph.source: x})[0], expected):
            raise UntraceableError("its operations depend on values, or change from call to call")
    together = module(torch.cat(points[:3]))
    if not _alike(together, torch.cat([module(x.clone()) for x in points[:3]])):
        raise UntraceableError("its output for one image depends on the other images of the batch")
    return graph


def _leaves(module: nn.Module) -> list[nn.Module]:
    """Layers with two halves whose forward pass is both halves, one after the other; their hooks run outside it."""
    return [part for part in module.modules() if isinstance(part, TwoHalves) and has_own_forward(part)]


def has_own_forward(layer: TwoHalves) -> bool:
    """Whether the forward pass of a layer is that of the base class, both halves."""
    return type(layer).forward in (LipschitzConv2d.forward, LipschitzLinear.forward) and "forward" not in vars(layer)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of a module does more than its forward pass."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def point(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two results are the same but for rounding; not if they are not finite."""
    return one.shape == other.shape and bool((one - other).norm() <= lipschitz.ROUNDING * (other.norm() + 1e-300))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@torch.no_grad()
def trace(module: nn.Module, x: Tensor, layers: Sequence[nn.Module] = ()) -> Graph:
    """The graph of `module` at inputs shaped `x`, in its present mode. Each of `layers` becomes one node "layer".

    Raises `UntraceableError` where operations, or their number, may depend on values, and what the module raises.
    """
    x = x.clone()
    tape = Tape(x)
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_as_node(tape, layer))
        stack.enter_context(Wholes(tape))
        stack.enter_context(tape)
        result = module(x)
    if not isinstance(result, Tensor):
        raise UntraceableError(f"it returns {type(result).__name__}, not a tensor")
    return Graph(tape.source, tape.symbol(result))


@contextmanager
def _as_node(tape: Tape, layer: nn.Module) -> Iterator[None]:
    forward = layer.forward

    def call(x: Tensor) -> Any:
        return tape.whole("layer", forward, (x,), {})

    layer.forward = call  # on the instance; the class keeps its own
    try:
        yield
    finally:
        del layer.forward
