"""Counts of real multiply-accumulates: a complex one is 4 (1 in the paper's convention); FLOPs are twice the MACs.

`torch.utils.flop_counter` counts the operations of forward and backward passes; the formulas of `formulas.py` are added for
operations that it misses or counts as real. Element-wise work has no MACs. Operations that have no formula and are not known to
be free of MACs are listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lipbench.meters.formulas import FORMULAS, MACS, is_free_of_macs, per_published
from lipbench.meters.second_opinion import count_fvcore
from lipbench.quantities import Macs

__all__ = ["Counted", "count", "count_fvcore", "measure"]


@dataclass(frozen=True)
class Counted:
    """MACs of one run."""

    total: int
    """real MACs"""
    published_total: int
    """MACs in the convention of Table 1: a complex MAC, or one of complex and real numbers, is 1; transforms count a quarter"""
    by_operation: dict[str, int]
    """operation, e.g. 'aten.bmm' → its real MACs"""
    unsupported: tuple[str, ...]
    """operations that have no formula and may have MACs; they are not counted"""


class _Witness(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Records operations without a formula, and the surplus of real MACs over MACs in the paper's convention.

    It is entered before the counter, so it sees the operations into which the counter decomposes others.
    """

    def __init__(self, known: Mapping[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.known = known
        self.unsupported: set[str] = set()
        self.surplus: list[float] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "_overloadpacket", func)
        if packet not in self.known and not is_free_of_macs(func):
            self.unsupported.add(str(packet))
        result = func(*args, **(kwargs or {}))
        factor = per_published(packet, args) if packet in MACS else 1
        if factor > 1:
            self.surplus.append((1 - 1 / factor) * MACS[packet](*args, **(kwargs or {}), out_val=result))
        return result


def count(run: Callable[[], object]) -> Counted:
    """MACs of everything that `run()` does, backward passes included.

    A Triton kernel is not seen if it is launched without `torch.library.triton_op` or `custom_op`.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    witness = _Witness(counter.flop_registry)
    with witness, counter:
        run()
    # Formulas with a logarithm or a third give fractions, so PyTorch's table of whole numbers contains floats here.
    by_operation = {str(operation): flops / 2 for operation, flops in counter.get_flop_counts().get("Global", {}).items()}
    return Counted(
        total=round(math.fsum(by_operation.values())),
        published_total=round(math.fsum((*by_operation.values(), *(-macs for macs in witness.surplus)))),
        by_operation={name: round(macs) for name, macs in by_operation.items()},
        unsupported=tuple(sorted(witness.unsupported)),
    )


class Workload(Protocol):
    """The part of `lipbench.workload.Workload` that this module uses."""

    module: nn.Module
    x: Tensor
    optimizer: torch.optim.SGD

    @property
    def has_halves(self) -> bool: ...
    def prepare_training(self) -> None: ...
    def prepare_first_inference(self) -> None: ...
    def forward(self) -> object: ...
    def backward(self) -> object: ...
    def parametrize(self) -> object: ...
    def inference(self) -> object: ...
    def first_inference(self) -> object: ...
    def other_batch(self) -> Tensor: ...
    def apply(self, x: Tensor) -> Tensor: ...


def measure_inference(workload: Workload) -> Macs:
    """MACs of inference alone, for a workload that has no other phase."""
    workload.prepare_first_inference()
    found = count(workload.inference)
    return Macs({"inference": found.total}, {}, found.unsupported, published_phases={"inference": found.published_total})


def measure(workload: Workload) -> Macs:
    """MACs of every phase; for the training forward pass also the line in the batch size and fvcore's count."""
    workload.prepare_training()
    counted = {"forward": count(workload.forward), "backward": count(workload.backward)}
    update = count(workload.optimizer.step)
    workload.prepare_training()
    if workload.has_halves:
        counted["parametrize"] = count(workload.parametrize)
        workload.prepare_first_inference()
        counted["first_inference"] = count(workload.first_inference)
    counted["inference"] = count(workload.inference)
    workload.prepare_training()
    other = workload.other_batch()
    forward, other_total = counted["forward"], count(lambda: workload.apply(other)).total
    per_image = (forward.total - other_total) / (len(workload.x) - len(other))
    fvcore_total, fvcore_unsupported = count_fvcore(workload.module, (workload.x,))
    step = (counted["forward"], counted["backward"], update)
    return Macs(
        phases={name: found.total for name, found in counted.items()} | {"step": sum(one.total for one in step)},
        by_operation=forward.by_operation,
        unsupported=tuple(sorted({name for found in (*counted.values(), update) for name in found.unsupported})),
        per_image=per_image,
        constant=forward.total - per_image * len(workload.x),
        published_phases={name: found.published_total for name, found in counted.items()}
        | {"step": sum(one.published_total for one in step)},
        fvcore_forward=fvcore_total,
        fvcore_unsupported=fvcore_unsupported,
    )
