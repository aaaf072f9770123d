"""Bytes in use after every operation, and what holds them at the peak: made by which part and operation, in which shape."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lipbench.meters.live import LiveStorages, Rounding, Scratch, exact

BEFORE = "before"
"""phase of what exists before the first phase"""


@dataclass(frozen=True)
class Moment:
    """The memory at one operation."""

    phase: str
    place: str
    """path of the part that was at work"""
    operation: str
    in_use_bytes: int
    """after the operation"""
    reached_bytes: int
    """largest number of bytes in use, from the end of the operation before to the end of this one"""


@dataclass(frozen=True)
class Held:
    """Bytes that are in use: a storage, or what an operation takes while it runs."""

    phase: str
    """in which they were allocated"""
    place: str
    """path of the part that allocated them, or that owns them"""
    made_by: str
    """the operation; for what existed before, what it is, such as "weights" """
    shape: str = ""
    """sizes of the tensor, as in "32 × 16 × 8 × 8"; "" for what an operation takes while it runs"""
    dtype: str = ""
    size_bytes: int = 0


@dataclass
class _Life:
    """A storage, and the number of changes, storages made and freed, when it was made and when it was freed."""

    held: Held
    made: int
    freed: int | None = None


class History(LiveStorages):  # type: ignore[no-untyped-call]  # torch gives it no types
    """A tracker that remembers every operation, and what was held when the most bytes were in use.

    `place` names the part that is at work; `phase` is set by the caller.
    """

    def __init__(
        self, place: Callable[[], str], rounding: Rounding = exact, scratch: Mapping[Any, Scratch] | None = None
    ) -> None:
        super().__init__(rounding, scratch)
        self.phase = BEFORE
        self.moments: list[Moment] = []
        self._place = place
        self._doing = Held(BEFORE, "", "")
        self._reached = 0
        self._lives: list[_Life] = []
        self._places: dict[int, int] = {}
        """key of a storage that exists → its place in `_lives`"""
        self._changes = 0
        self._summit = (0, self._doing)
        """number of changes when the peak was reached, and what the operation took beside the storages"""

    def hold(self, tensor: Tensor, what: str, place: str) -> None:
        """Count a tensor that exists already; `what` it is stands for the operation that made it."""
        self._doing = Held(self.phase, place, what)
        self.add([tensor])

    @property
    def summit(self) -> Held:
        """The operation during which the most bytes were in use, with the bytes that it took while it ran."""
        return self._summit[1]

    def at_peak(self) -> list[Held]:
        """What was in use when the most bytes were, in the order of making. The bytes sum up to the peak."""
        changes, running = self._summit
        held = [one.held for one in self._lives if one.made <= changes and (one.freed is None or one.freed > changes)]
        return [*held, *([running] if running.size_bytes else [])]

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages behind tensors, each once."""
        for tensor in tensors:
            shape, dtype = " × ".join(map(str, tensor.shape)), str(tensor.dtype).removeprefix("torch.")
            self._doing = replace(self._doing, shape=shape, dtype=dtype)
            super().add([tensor])

    def reset_peak(self) -> None:
        super().reset_peak()
        self._summit = (self._changes, self._doing)

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        place = self._places.get(key)
        super()._see(storage)
        size = self._alive[self._known[key]]
        if place is not None:
            if self._lives[place].held.size_bytes == size:
                return
            self._end(key)  # a storage of another size
        self._changes += 1
        self._places[key] = len(self._lives)
        self._lives.append(_Life(replace(self._doing, size_bytes=size), self._changes))

    def _forget(self, key: int, reference: weakref.ref[torch.UntypedStorage]) -> None:
        super()._forget(key, reference)
        self._end(key)

    def _end(self, key: int) -> None:
        self._changes += 1
        self._lives[self._places.pop(key)].freed = self._changes

    def _reach(self, size: int) -> None:
        self._reached = max(self._reached, size)
        if size > self.peak:
            running = replace(self._doing, shape="", dtype="", size_bytes=size - self.in_use)
            self._summit = (self._changes, running)
        super()._reach(size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "namespace", "") == "prim":  # a question about a tensor, such as its device
            return super().__torch_dispatch__(func, types, args, kwargs)
        place, name = self._place(), str(getattr(func, "_overloadpacket", func))
        self._doing, self._reached = Held(self.phase, place, name), 0
        result = super().__torch_dispatch__(func, types, args, kwargs)
        # A sum of gradients, which the engine adds in place, is in use from the next operation on: see `LiveStorages`.
        self.moments.append(Moment(self.phase, place, name, min(self.in_use, self._reached), self._reached))
        return result
