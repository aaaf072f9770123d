"""Counts of real multiply-accumulates: a complex one is 4 (1 in the paper's convention); FLOPs are twice the MACs.

Every operation of forward and backward passes is seen below autograd. Those with MACs have a formula in `formulas.py` or in
`torch.utils.flop_counter`. Element-wise work has no MACs. Operations that have no formula and are not known to be free of MACs
(`free.py`) are listed, and so is work outside PyTorch (`foreign.py`).
"""

from __future__ import annotations

import math
from collections import ChainMap, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lipbench.meters.attempts import Attempts
from lipbench.meters.foreign import UNWRITTEN, HandingOut, Unwritten
from lipbench.meters.formulas import FORMULAS, MACS, per_published
from lipbench.meters.free import is_free_of_macs
from lipbench.meters.second_opinion import count_fvcore
from lipbench.quantities import Macs

__all__ = ["Counted", "count", "count_fvcore", "measure"]


Call = tuple[str, tuple[tuple[int, ...], ...]]
"""name of an operation, and the sizes of its tensors"""
KNOWN: Mapping[Any, Callable[..., float]] = ChainMap(FORMULAS, flop_registry)
"""operation → formula for its FLOPs, also of operations that are registered later, such as those of kernels"""


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
    calls: frozenset[Call] = frozenset()
    """the same, with the sizes of the tensors that they were called with"""
    by_place: dict[str, int] = field(default_factory=dict)
    """what was at work → its real MACs; for a count with places"""


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Applies the formulas to every operation, and records operations without one.

    PyTorch's `FlopCounterMode` also tracks modules, by hooks that fail on parametrised modules in inference mode.
    """

    def __init__(self, outside: HandingOut, place: Callable[[], str] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.places: defaultdict[str, list[float]] = defaultdict(list)
        self._place = place
        self.macs: defaultdict[str, list[float]] = defaultdict(list)
        self.surplus: list[float] = []
        """real MACs above those in the paper's convention"""
        self.calls: set[Call] = set()
        self.unwritten = Unwritten()
        self._outside = outside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "namespace", "") == "prim":  # a question about a tensor, such as its device
            return func(*args, **kwargs)
        packet = getattr(func, "_overloadpacket", func)
        formula = KNOWN.get(packet)
        is_operation = isinstance(func, torch._ops.OpOverload)
        if is_operation and formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if formula is None and not is_free_of_macs(func):
            self._miss(str(packet), (args, kwargs))
        if is_operation and self.unwritten.reads(func, args, kwargs):
            self._miss(UNWRITTEN, (args, kwargs))
        with self._outside.paused():
            result = func(*args, **kwargs)
        if is_operation:
            self.unwritten.made(func, result)
        if formula is not None:
            self._apply(packet, formula(*args, **kwargs, out_val=result) / 2, args)
        return result

    def _apply(self, packet: Any, macs: float, args: Any) -> None:
        self.macs[str(packet)].append(macs)
        if self._place:
            self.places[self._place()].append(macs)
        factor = per_published(packet, args) if packet in MACS else 1
        self.surplus.append((1 - 1 / factor) * macs)

    def _miss(self, name: str, values: Any) -> None:
        self.calls.add((name, tuple(tuple(leaf.shape) for leaf in tree_leaves(values) if isinstance(leaf, Tensor))))


def count(run: Callable[[], object], place: Callable[[], str] | None = None) -> Counted:
    """MACs of everything that `run()` does, backward passes included. `place` names what is at work, for `Counted.by_place`.

    Work outside PyTorch is listed as far as it can be known (see `foreign.py`). A Triton kernel is not seen if it is launched
    without `torch.library.triton_op` or `custom_op`.
    """
    outside = HandingOut()
    counter = _Counter(outside, place)
    with outside, counter:
        result = run()
    if counter.unwritten.contains(result):
        outside.names.add(UNWRITTEN)
    # Formulas with a logarithm or a third give fractions.
    by_operation = {name: math.fsum(macs) for name, macs in counter.macs.items()}
    calls = counter.calls | {(name, ()) for name in outside.names}
    return Counted(
        total=round(math.fsum(by_operation.values())),
        published_total=round(math.fsum((*by_operation.values(), *(-macs for macs in counter.surplus)))),
        by_operation={name: round(macs) for name, macs in by_operation.items()},
        unsupported=tuple(sorted({name for name, _ in calls})),
        calls=frozenset(calls),
        by_place={name: round(math.fsum(macs)) for name, macs in counter.places.items()},
    )


class Workload(Protocol):
    """The part of `lipbench.workload.Workload` that this module uses."""

    module: nn.Module
    x: Tensor
    optimizer: torch.optim.SGD

    @property
    def has_halves(self) -> bool: ...
    def prepare_training(self) -> None: ...
    def prepare_inference(self) -> None: ...
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
    """MACs of every phase; for the training forward pass also the line in the batch size and fvcore's count.

    What raises is left out, with its reason in `failures`. Raises the first error if nothing could be counted.
    """
    attempts = Attempts()
    found: dict[str, Counted] = {}

    def attempt(what: str, run: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> None:
        def prepared() -> Counted:
            prepare()
            return count(run)

        if (counted := attempts(what, prepared)) is not None:
            found[what] = counted

    attempt("forward", workload.forward, workload.prepare_training)
    if "forward" in found:
        attempt("backward", workload.backward)
    if "backward" in found:
        attempt("update", workload.optimizer.step)
    if workload.has_halves:
        attempt("parametrize", workload.parametrize, workload.prepare_training)
        attempt("first_inference", workload.first_inference, workload.prepare_first_inference)
    attempt("inference", workload.inference, workload.prepare_inference)
    if not found:
        attempts.raise_first()
    line = attempts("other batch size", lambda: _line(workload, found["forward"].total)) if "forward" in found else None
    second = count_fvcore(workload.module, (workload.x,))
    if second[0] is None:
        attempts.failures["fvcore"] = second[1][0]
    return _summary(found, line, second, attempts.failures)


def _line(workload: Workload, total: int) -> tuple[float, float]:
    """Slope and intercept of the training forward pass in the batch size."""
    workload.prepare_training()
    other, size = workload.other_batch(), len(workload.x)
    slope = (total - count(lambda: workload.apply(other)).total) / (size - len(other))
    return slope, total - slope * size


def _summary(
    found: Mapping[str, Counted],
    line: tuple[float, float] | None,
    second: tuple[int | None, tuple[str, ...]],
    failures: dict[str, str],
) -> Macs:
    phases = {name: one.total for name, one in found.items() if name != "update"}
    published = {name: one.published_total for name, one in found.items() if name != "update"}
    if "update" in found:
        whole = [found[name] for name in ("forward", "backward", "update")]
        phases["step"] = sum(one.total for one in whole)
        published["step"] = sum(one.published_total for one in whole)
    per_image, constant = line or (None, None)
    return Macs(
        phases=phases,
        by_operation=found["forward"].by_operation if "forward" in found else {},
        unsupported=tuple(sorted({name for one in found.values() for name in one.unsupported})),
        per_image=per_image,
        constant=constant,
        published_phases=published,
        fvcore_forward=second[0],
        fvcore_unsupported=second[1],
        failures=failures,
    )
