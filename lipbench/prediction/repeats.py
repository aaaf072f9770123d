"""Parameter halves of equal layers, run once in evaluation: for the others, what the first one took is counted again.

The parameter half of a layer depends on its sizes and on no input, and equal layers of a network allocate the same. In training
it is part of autograd's graph, so it runs in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from lipbench.layers.base import TwoHalves
from lipbench.meters.live import LiveStorages

Make = Callable[[TwoHalves], Tensor]
"""makes one effective parameter of a layer"""


@dataclass(frozen=True)
class _Taken:
    """What the parameter half of a layer took and gave."""

    highest_bytes: int
    """largest number of bytes in use, above those in use before"""
    results: tuple[Make, ...]


class Repeats:
    """Within its block, runs the parameter half of equal halves once where no gradient is needed, on fake tensors.

    A half whose results are neither whole storages nor parameters of its own runs every time.
    """

    def __init__(self, halves: Iterable[TwoHalves], tracker: LiveStorages) -> None:
        self._halves, self._tracker = list(halves), tracker
        self._known: dict[object, _Taken | None] = {}

    def __enter__(self) -> Repeats:
        for half in self._halves:
            vars(half)["parameter_half"] = self._repeated(half)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for half in self._halves:
            vars(half).pop("parameter_half", None)

    def _repeated(self, half: TwoHalves) -> Callable[[int], tuple[Tensor, ...]]:
        original = half.parameter_half

        def parameter_half(image_size: int) -> tuple[Tensor, ...]:
            if torch.is_grad_enabled():
                return original(image_size)
            key = (image_size, *_sizes(half))
            taken = self._known.get(key)
            if taken is not None:
                self._tracker.take(taken.highest_bytes)
                return tuple(make(half) for make in taken.results)
            before = self._tracker.in_use
            results, highest = self._tracker.highest_during(lambda: original(image_size))
            made = [_made(half, one) for one in results]
            if key not in self._known:
                whole = tuple(make for make in made if make is not None)
                self._known[key] = _Taken(highest - before, whole) if len(whole) == len(made) else None
            return results

        return parameter_half


def _sizes(half: TwoHalves) -> tuple[object, ...]:
    """All that the parameter half of a layer may depend on, but for values."""
    tensors = [(name, one.shape, one.dtype) for name, one in (*half.named_parameters(), *half.named_buffers())]
    plain = [(name, value) for name, value in vars(half).items() if isinstance(value, int | float | str)]
    return type(half), tuple(tensors), tuple(plain)


def _made(half: TwoHalves, result: Tensor) -> Make | None:
    """How to make a result of another half that is equal; None where that is not known."""
    for name, parameter in half.named_parameters():
        if result is parameter:
            return lambda other: other.get_parameter(name)
    storage, size = result.untyped_storage(), result.numel() * result.element_size()
    own = {one.untyped_storage()._cdata for one in (*half.parameters(), *half.buffers())}
    if storage._cdata in own or storage.nbytes() != size or result.is_conj() or result.is_neg():
        return None
    shape, stride, dtype, device = tuple(result.shape), result.stride(), result.dtype, result.device
    return lambda other: torch.empty_strided(shape, stride, dtype=dtype, device=device)
