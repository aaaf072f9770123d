"""Bytes in use at every moment, counted from the lifetimes of storages; works on fake tensors, without any computation.

`LiveStorages` sees each operation below autograd. A storage counts from the operation that made it until its last reference is
gone. Memory that a kernel allocates and frees within one operation is not seen; the formulas of `scratch.py` add it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipbench.meters.peaks import Stage
from lipbench.quantities import Peak

aten = torch.ops.aten
Scratch = Callable[..., int]
"""arguments of an operation and its result `out` → peak bytes of the operation, above those in use before it"""
Rounding = Callable[[int], int]
Result = TypeVar("Result")

CUDA_BLOCK_BYTES = 512
"""PyTorch's CUDA allocator rounds every block up to a multiple of this"""


def exact(size: int) -> int:
    """Size of a block of the CPU allocator: exactly the requested size."""
    return size


def cuda_blocks(size: int) -> int:
    """Size of a block of the CUDA allocator: the requested size, rounded up to a multiple of 512 bytes."""
    return -(-size // CUDA_BLOCK_BYTES) * CUDA_BLOCK_BYTES


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Counts the bytes of storages while they exist: `in_use` now, `peak` since `reset_peak()`.

    Storages that existed before, also those of later views, count only if they are given to `add`.
    """

    def __init__(self, rounding: Rounding = exact, scratch: Mapping[Any, Scratch] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.in_use = 0
        self.peak = 0
        self.assumed: dict[str, str] = {}
        """operation whose scratch formula raised → why; it is assumed to allocate only its results"""
        self._rounding = rounding
        self._scratch = scratch or {}
        self._alive: dict[weakref.ref[torch.UntypedStorage], int] = {}
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages behind tensors, each once."""
        for tensor in tensors:
            self._see(tensor.untyped_storage())

    def in_use_besides(self, tensors: Iterable[Tensor]) -> int:
        """Bytes in use now, without the storages behind tensors."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        return sum(self._alive[reference] for key, reference in self._known.items() if key not in keys)

    def reset_peak(self) -> None:
        self.peak = self.in_use

    def settle(self) -> None:
        """Include the bytes now in use in the peak."""
        self._reach(self.in_use)

    def _reach(self, size: int) -> None:
        """Include a number of bytes that are in use at once in the peak."""
        self.peak = max(self.peak, size)

    def take(self, size: int) -> None:
        """Count bytes that are allocated and freed again, beside the storages."""
        self._reach(self.in_use + size)

    def highest_during(self, run: Callable[[], Result]) -> tuple[Result, int]:
        """The result of `run()`, and the most bytes in use meanwhile."""
        before, self.peak = self.peak, self.in_use
        result = run()
        highest, self.peak = self.peak, max(before, self.peak)
        return result, highest

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        reference = self._known.get(key)
        if reference is not None:  # known already; its size may have changed
            size = self._rounding(storage.nbytes())
            self.in_use += size - self._alive[reference]
            self._alive[reference] = size
            return

        reference = weakref.ref(storage, lambda gone: self._forget(key, gone))
        self._known[key] = reference
        self._alive[reference] = self._rounding(storage.nbytes())
        self.in_use += self._alive[reference]

    def _forget(self, key: int, reference: weakref.ref[torch.UntypedStorage]) -> None:
        """Stop to count a storage that is gone."""
        self.in_use -= self._alive.pop(reference)
        del self._known[key]

    def _is_view_of_unknown(self, made: Tensor, arguments: Any) -> bool:
        key = made.untyped_storage()._cdata
        return key not in self._known and any(one.untyped_storage()._cdata == key for one in _tensors(arguments))

    def _highest(self, func: Any, args: Any, kwargs: Any, result: Any) -> int:
        """Peak bytes of an operation by its formula, above those in use; 0 without one, where only the results count."""
        formula = self._scratch.get(getattr(func, "_overloadpacket", func))
        if formula is None:
            return 0
        given = [tensor for name, tensor in kwargs.items() if name not in _plain_names(func)]
        named = {name: value for name, value in kwargs.items() if name in _plain_names(func)}
        try:
            highest = formula(*args, **named, out=result)
        except Exception as error:  # a formula may not know this form of the operation
            self.assumed.setdefault(str(func), f"{type(error).__name__}: {error}")
            return 0
        return highest - sum(tensor.untyped_storage().nbytes() for tensor in _tensors(given))  # these existed before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "namespace", "") == "prim":  # a question about a tensor, such as its device
            return func(*args, **kwargs)
        self.settle()
        if _is_composite(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._reach(self.in_use + self._highest(func, args, kwargs, result))
        self.add(made for made in _tensors(result) if not self._is_view_of_unknown(made, (args, kwargs)))
        if not _is_accumulation(func, args):
            self.settle()
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _plain_names(func: Any) -> set[str]:
    """Names of the arguments that an operation does not write; the others receive its results, as in `out=`."""
    return {one.name for one in func._schema.arguments if one.alias_info is None or not one.alias_info.is_write}


def _is_composite(func: Any) -> bool:
    """Whether the operation consists of others. The mode sees those with autograd, but in inference mode only the whole."""
    return (
        torch.is_inference_mode_enabled()
        and getattr(func, "namespace", "") == "aten"
        and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    )


def _is_accumulation(func: Any, args: Any) -> bool:
    """Whether the autograd engine sums two gradients of one tensor.

    If nothing else refers to the first gradient, the engine adds in place, but not while a dispatch mode is active. So the sum
    counts for the peak only from the next operation on, when the first gradient is gone unless something else refers to it.
    """
    return func is aten.add.Tensor and len(args) == 2 and torch._C._current_autograd_node() is not None


def peaks(
    stages: Iterable[Stage],
    held: Iterable[Tensor],
    rounding: Rounding = exact,
    scratch: Mapping[Any, Scratch] | None = None,
    assumed: dict[str, str] | None = None,
) -> dict[str, Peak]:
    """The peak of each stage (name, preparation, call); `held` are the tensors that exist before the first stage.

    `assumed` receives the operations whose scratch formula raised, and why; they are assumed to allocate only their results.
    """
    live = LiveStorages(rounding, scratch)
    found = peaks_by(live, stages, held)
    if assumed is not None:
        assumed.update(live.assumed)
    return found


def peaks_by(live: LiveStorages, stages: Iterable[Stage], held: Iterable[Tensor]) -> dict[str, Peak]:
    """The peak of each stage as `peaks` finds it, by a given tracker."""
    live.add(held)
    found = {}
    with live:
        for phase, prepare, run in stages:
            prepare()
            gc.collect(1)  # reference cycles that a phase left behind are in the young generations
            live.reset_peak()
            baseline = live.in_use
            run()
            live.settle()
            found[phase] = Peak(live.peak, live.peak - baseline)
    return found
