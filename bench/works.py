"""Costs of a hot spot, as a kernel and as the operations it replaces: bytes, MACs, launches, and predicted times.

The kernel's figures are those of its entry in the catalogue. The operations are counted one by one on tensors without values:
each reads its arguments once and writes its results once; views are free. The sum of their rooflines is the least time of a
program that launches them one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from lipbench_kernels import catalogue, roofline
from lipbench_kernels.launching import Work
from lipbench_kernels.roofline import Gpu
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.hot_spots import HotSpot, Shape
from lipbench.meters.formulas import MACS

PHASES = ("forward", "backward")
_UNWRITTEN = frozenset({torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided})
"""operations that make a tensor and write nothing"""


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Context manager that lists the work of the operations inside it in `works`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.works: list[Work] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if packet is torch.ops.aten.convolution_backward:
            self.works += _convolution_gradients(args, result)
        elif written and packet not in _UNWRITTEN and not _is_view(func, read, written):
            self.works.append(Work(_macs(packet, args, kwargs or {}, result), _bytes(read), _bytes(written)))
        return result


def _is_view(func: Any, read: list[Tensor], written: list[Tensor]) -> bool:
    """Whether an operation returns a view of its argument and writes nothing."""
    given = {tensor.untyped_storage()._cdata for tensor in read}
    return not func._schema.is_mutable and all(tensor.untyped_storage()._cdata in given for tensor in written)


def _bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of the stored elements, each once; an expanded tensor has fewer than its shape suggests."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        size = min(tensor.numel() * tensor.element_size(), storage.nbytes())
        sizes[storage._cdata] = max(size, sizes.get(storage._cdata, 0))
    return sum(sizes.values())


def _macs(packet: Any, args: Any, kwargs: Any, result: Any) -> int:
    if packet in MACS:
        return round(MACS[packet](*args, **kwargs, out_val=result))
    return math.ceil(flop_registry[packet](*args, **kwargs, out_val=result) / 2) if packet in flop_registry else 0


def _convolution_gradients(args: Any, result: Any) -> list[Work]:
    """One operation for autograd, but on a GPU one kernel for each requested gradient, with half of the MACs each."""
    upstream, x, weight = args[:3]
    by_x, by_weight = result[:2]
    wanted = [(weight, by_x)] * (by_x is not None) + [(x, by_weight)] * (by_weight is not None)
    macs = _macs(torch.ops.aten.convolution_backward, args, {}, result) // len(wanted)
    return [Work(macs, _bytes([upstream, other]), _bytes([gradient])) for other, gradient in wanted]


@cache
def replaced(spot: HotSpot, shape: Shape) -> dict[str, tuple[Work, ...]]:
    """Phase → the work of every operation, in float32. Nothing is computed."""
    with FakeTensorMode():
        inputs = [_single(tensor).requires_grad_() for tensor in spot.inputs(shape)]
        with Counter() as forward:
            result = spot.replaced(*inputs)
        cotangent = torch.ones_like(result)
        with Counter() as backward:
            torch.autograd.grad(result, inputs, cotangent)
    return {"forward": tuple(forward.works), "backward": tuple(backward.works)}


def _single(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex64 if tensor.is_complex() else torch.float32)


def fused(spot: HotSpot, shape: Shape, phase: str) -> tuple[Work, ...]:
    """The work of the kernels that compute a phase."""
    return tuple(catalogue.find(name).work(**spot.sizes(shape)) for name in spot.kernels[phase])


def total(works: Sequence[Work]) -> Work:
    """The sum of several works."""
    return sum(works, start=Work(0, 0, 0, 0))


def fused_device_s(
    spot: HotSpot, shape: Shape, phase: str, gpu: Gpu, precision: str, flops_per_s: float | None = None
) -> float:
    """Least seconds of the device for the kernels of a phase, without launches, at the GPU's peak or a program's ceiling."""
    programs = spot.programs(shape) if spot.programs else None
    works = fused(spot, shape, phase)
    return math.fsum(roofline.device_s(work, gpu, precision, programs, flops_per_s) for work in works)


Ceiling = Callable[[HotSpot, Shape, str, Gpu, str], float | None]
"""(hot spot, shape, phase, GPU, precision) → FLOPs a second that the kernels' programs can reach, None where unknown"""


def fused_s(
    spot: HotSpot, shape: Shape, precision: str, gpu: Gpu, phases: Sequence[str] = PHASES, ceiling: Ceiling | None = None
) -> float:
    """Predicted seconds of the kernels of these phases, host and gaps included."""
    busy_s = math.fsum(
        fused_device_s(spot, shape, phase, gpu, precision, ceiling(spot, shape, phase, gpu, precision) if ceiling else None)
        for phase in phases
    )
    return roofline.elapsed_s(busy_s, total([work for phase in phases for work in fused(spot, shape, phase)]))


def replaced_s(spot: HotSpot, shape: Shape, precision: str, gpu: Gpu, phases: Sequence[str] = PHASES) -> float:
    """Predicted seconds of the replaced operations; PyTorch has no tf32x3, so ieee takes its place.

    They are assumed to use the whole GPU at its peak, whatever their size.
    """
    works = [work for phase in phases for work in replaced(spot, shape)[phase]]
    in_place_of = "ieee" if precision == "tf32x3" else precision
    return roofline.elapsed_s(math.fsum(roofline.device_s(work, gpu, in_place_of) for work in works), total(works))


def gain(
    spot: HotSpot, shape: Shape, precision: str, gpu: Gpu, phases: Sequence[str] = PHASES, ceiling: Ceiling | None = None
) -> float:
    """Predicted time of the replaced operations over that of the kernel."""
    return replaced_s(spot, shape, precision, gpu, phases) / fused_s(spot, shape, precision, gpu, phases, ceiling)
