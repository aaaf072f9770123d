"""The clocks of `time`: samplers that run the stages of a group and take seconds per call, on a CPU and on a GPU."""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from itertools import pairwise, repeat
from typing import Any

import torch

from lipbench.meters.heap import keep_freed_memory

WARMUP_BATCH_SAMPLES = 3
SLOW_S = 0.2
"""A group whose iteration takes longer than this needs only one iteration to warm up, and one to measure host time."""
LOOPED_BELOW_S = 1e-3
HOST_SAMPLES = 5
UNKNOWN_L2_BYTES = 2**27
"""assumed where the size of the L2 cache is unknown; larger than that of any GPU"""
SAMPLES_AHEAD = 16
SECONDS_AHEAD = 0.05
"""CUDA: largest number of samples, and of their seconds, that are queued on the device; two samples are always allowed"""

Events = tuple[Any, Any]
"""two `torch.cuda.Event`, for which PyTorch has no types"""
Stages = Mapping[str, Callable[[], object]]
Whole = tuple[str, Callable[[], object]]
"""a name for all stages together, and the call that completes them"""


class Sampler(ABC):
    """A clock that takes samples of a group, one of each stage at a time."""

    def __init__(self, group: Stages, prepare: Callable[[], object]) -> None:
        self.group, self.prepare = group, prepare
        self.samples: dict[str, list[float]] = {name: [] for name in group}
        self.host_s: dict[str, list[float]] = {name: [] for name in group}
        self.calls = 1
        self.timer_cost_s = 0.0

    def clear(self) -> None:
        """Drop the samples."""
        self.samples = {name: [] for name in self.group}

    @property
    def sample_s(self) -> float:
        """Seconds of one iteration, all stages together, from the samples so far."""
        return sum(statistics.median(self.samples[name]) for name in self.group)

    def first_call(self) -> dict[str, float]:
        """Run each stage once until it has finished, and return the seconds of each."""
        self.prepare()
        return {name: self._run_once(call) for name, call in self.group.items()}

    def _run_once(self, call: Callable[[], object]) -> float:
        start = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - start) * 1e-9

    @abstractmethod
    def calibrate(self, loop: bool) -> None:
        """Choose the settings of sampling from the last warm-up samples."""

    @abstractmethod
    def take(self) -> None:
        """Prepare and run every stage once more. The samples may become available later."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all samples are available."""


class CpuSampler(Sampler):
    """Reads the host's clock around one call, or around a loop of calls where that is allowed.

    From the first one on, the process keeps the memory that it frees.
    """

    def __init__(self, group: Stages, prepare: Callable[[], object], whole: Whole | None = None) -> None:
        super().__init__(group, prepare)
        keep_freed_memory()
        self._whole = whole
        self.clear()

    def clear(self) -> None:
        """Drop the samples."""
        super().clear()
        if self._whole:
            self.samples[self._whole[0]] = []

    def first_call(self) -> dict[str, float]:
        """Run each stage and the completing call once, and return the seconds of each stage and of the whole."""
        found = super().first_call()
        if self._whole:
            name, complete = self._whole
            found[name] = sum(found.values()) + self._run_once(complete)
        return found

    def calibrate(self, loop: bool) -> None:
        reads = [time.perf_counter_ns() for _ in range(101)]
        self.timer_cost_s = statistics.median(after - before for before, after in pairwise(reads)) * 1e-9
        if loop and len(self.group) == 1:
            (samples,) = self.samples.values()
            self.calls = max(1, math.ceil(LOOPED_BELOW_S / max(statistics.median(samples), 1e-9)))

    def take(self) -> None:
        calls = self.calls
        self.prepare()
        begin = time.perf_counter_ns()
        for name, call in self.group.items():
            if calls == 1:
                start = time.perf_counter_ns()
                call()
                end = time.perf_counter_ns()
            else:
                turns = repeat(None, calls)
                start = time.perf_counter_ns()
                for _ in turns:
                    call()
                end = time.perf_counter_ns()
            self.samples[name].append((end - start) * 1e-9 / calls)
        if self._whole:
            name, complete = self._whole
            complete()
            self.samples[name].append((time.perf_counter_ns() - begin) * 1e-9)

    def finish(self) -> None:
        """Do nothing: every sample is available as soon as it was taken."""


class CudaSampler(Sampler):
    """Records a pair of events around each call, on the current stream.

    The device never waits for the host between samples: only completed events are read. If the host is far ahead, it waits for
    the oldest sample only, so that the device still has the others to work on. Before each pair, a buffer of the L2 cache's
    size is written, so that every call finds its operands in memory, not in the cache.
    """

    def __init__(self, group: Stages, prepare: Callable[[], object]) -> None:
        super().__init__(group, prepare)
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        l2_bytes = getattr(properties, "L2_cache_size", None)  # not in every build
        self._flush = torch.empty(l2_bytes or UNKNOWN_L2_BYTES, dtype=torch.uint8, device="cuda")
        self._waiting: deque[dict[str, Events]] = deque()
        self._ahead = WARMUP_BATCH_SAMPLES

    def _run_once(self, call: Callable[[], object]) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter_ns()
        call()
        torch.cuda.synchronize()
        return (time.perf_counter_ns() - start) * 1e-9

    def calibrate(self, loop: bool) -> None:
        """Measure host time per call, each on an idle device, so that a full launch queue does not count as host work."""
        self._ahead = int(min(SAMPLES_AHEAD, max(2, SECONDS_AHEAD / max(self.sample_s, 1e-9))))
        self.host_s = {name: [] for name in self.group}
        for _ in range(1 if self.sample_s > SLOW_S else HOST_SAMPLES):
            self.prepare()
            for name, call in self.group.items():
                torch.cuda.synchronize()
                start = time.perf_counter_ns()
                call()
                self.host_s[name].append((time.perf_counter_ns() - start) * 1e-9)
        empty_pairs = []
        for _ in range(HOST_SAMPLES):
            self._flush.zero_()
            empty_pairs.append(self._pair(lambda: None))
        torch.cuda.synchronize()
        self.timer_cost_s = statistics.median(start.elapsed_time(end) for start, end in empty_pairs) * 1e-3

    def clear(self) -> None:
        """Drop the samples, and give the device some work, so that the first new sample is not launched on an idle device."""
        super().clear()
        for _ in range(SAMPLES_AHEAD):
            self._flush.zero_()

    def take(self) -> None:
        if len(self._waiting) >= self._ahead:
            self._read_oldest()
        self.prepare()
        pairs = {}
        for name, call in self.group.items():
            self._flush.zero_()
            pairs[name] = self._pair(call)
        self._waiting.append(pairs)
        while self._waiting and all(end.query() for _, end in self._waiting[0].values()):
            self._read_oldest()

    def finish(self) -> None:
        torch.cuda.synchronize()
        while self._waiting:
            self._read_oldest()

    @staticmethod
    def _pair(call: Callable[[], object]) -> Events:
        new_event: Any = torch.cuda.Event
        start, end = new_event(enable_timing=True), new_event(enable_timing=True)
        start.record()
        call()
        end.record()
        return start, end

    def _read_oldest(self) -> None:
        for name, (start, end) in self._waiting.popleft().items():
            end.synchronize()
            self.samples[name].append(start.elapsed_time(end) * 1e-3)
