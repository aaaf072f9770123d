"""Peaks at every batch size from two runs without values: each storage grows by the same bytes with each image.

The operations of a layer of this package, and the order in which they allocate and free storages, are the same for every batch
of two images or more. Then the size of each storage lies on a line in the batch size, which two runs give, and the peak of any
batch follows from these lines. Both are checked by comparing the runs, once for networks that differ in sizes alone.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass

import numpy as np
import torch

from lipbench.meters import live
from lipbench.meters import memory as memory_meter
from lipbench.prediction import memory
from lipbench.prediction.repeats import Repeats
from lipbench.workload import Workload

PHASES = {"training": memory.TRAINING, "inference": memory.INFERENCE}
SMALLEST = 2
"""batch size from which on lines hold: tensors of one image may have other strides, and need fewer copies"""
FIRST = 4099
"""batch size of the first run: a prime above the channels, features and frequencies of every network, so that it divides the
bytes of a storage where these grow with the batch"""


class _Log(live.LiveStorages):  # type: ignore[no-untyped-call]  # torch gives it no types
    """A tracker that remembers the order of what happens, and the size of every storage."""

    def __init__(self) -> None:
        super().__init__(live.cuda_blocks)
        self.events: list[int] = []
        """n: the n-th storage is made; −n: it is freed; 0: the bytes in use may be the most"""
        self.sizes: list[int] = []
        """bytes of the storages in the order of making"""
        self._numbers: dict[int, int] = {}
        """key of a storage that exists → its number, from 1"""

    def reset_peak(self) -> None:
        super().reset_peak()
        self.events.append(0)

    def take(self, size: int) -> None:
        super().take(size)
        self.sizes.append(size)  # of whole blocks already, in whatever batch
        self.events[-1:] = [len(self.sizes), 0, -len(self.sizes)]

    def _reach(self, size: int) -> None:
        super()._reach(size)
        self.events.append(0)

    def _see(self, storage: torch.UntypedStorage) -> None:
        super()._see(storage)
        key, size = storage._cdata, storage.nbytes()
        if key in self._numbers:
            if self.sizes[self._numbers[key] - 1] == size:
                return
            self.events.append(-self._numbers[key])  # resized: another storage
        self.sizes.append(size)
        self._numbers[key] = len(self.sizes)
        self.events.append(len(self.sizes))

    def _forget(self, key: int, reference: weakref.ref[torch.UntypedStorage]) -> None:
        super()._forget(key, reference)
        self.events.append(-self._numbers.pop(key))


@dataclass(frozen=True)
class Run:
    """What a run on tensors without values allocated and freed."""

    batch_size: int
    events: np.ndarray
    """as in `_Log`"""
    sizes: np.ndarray
    """bytes of the storages in the order of making"""


@dataclass(frozen=True)
class Growth:
    """The peak of a GPU's allocator as a function of the batch size."""

    events: np.ndarray
    constant: np.ndarray
    """bytes of each storage for no images"""
    slope: np.ndarray
    """further bytes for each image"""

    def peak(self, batch_size: int) -> int:
        """The peak in bytes, blocks rounded as by PyTorch's allocator."""
        sizes = -(-(self.constant + self.slope * batch_size) // live.CUDA_BLOCK_BYTES) * live.CUDA_BLOCK_BYTES
        changes = np.concatenate(([0], sizes))[np.abs(self.events)] * np.sign(self.events)
        return int(np.cumsum(changes)[self.events == 0].max())

    def is_like(self, other: Growth) -> bool:
        """Whether the same storages are made and freed in the same order, and the same of them grow with the batch."""
        return np.array_equal(self.events, other.events) and np.array_equal(self.slope > 0, other.slope > 0)


def run(workload: Workload, what: str, batch_size: int) -> Run | None:
    """Run the phases of "training" or "inference" with a batch of tensors without values, within the mode of the workload.

    For training, the optimizer must have its state. None where a step gives a parameter no gradient.
    """
    other = workload.imagine_batch(batch_size)
    log = _Log()
    with Repeats(other.halves, log):
        live.peaks_by(log, memory_meter.stages(other, PHASES[what]), memory_meter.held(other))
    if what == "training" and not memory_meter.has_all_gradients(other):
        return None
    return Run(batch_size, np.array(_ordered(log.events)), np.array(log.sizes))


def _ordered(events: list[int]) -> list[int]:
    """Events without what differs between kinds of tensors and no peak: views, and the order of storages freed together."""
    found: list[int] = []
    for sign, group in itertools.groupby(events, np.sign):
        found += [0] if sign == 0 else sorted(group)  # storages made one after another are in order already
    return found


def guess(one: Run) -> Growth:
    """The growth that one run lets expect: storages grow with the batch where the batch size divides their bytes."""
    slope = np.where(one.sizes % one.batch_size == 0, one.sizes // one.batch_size, 0)
    return Growth(one.events, one.sizes - slope * one.batch_size, slope)


def between(one: Run, other: Run) -> Growth | None:
    """The growth on which both runs lie; None where they differ in more than sizes, or sizes do not lie on lines."""
    if not np.array_equal(one.events, other.events):
        return None
    slope, rest = np.divmod(other.sizes - one.sizes, other.batch_size - one.batch_size)
    constant = one.sizes - slope * one.batch_size
    return None if rest.any() or (slope < 0).any() or (constant < 0).any() else Growth(one.events, constant, slope)
