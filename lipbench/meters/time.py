"""Seconds per call, with what makes them worth printing: warm-up, a stop rule, and a look at who else used the machine.

A *group* is measured together: one iteration prepares, then runs each stage of the group in order, and each stage is timed by
itself. So a backward pass is timed right behind the forward pass whose graph it consumes. On a CPU the *whole* of an iteration
may be timed beside its stages: a training step, by two more looks at the clock.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise, repeat
from typing import Any

import torch

from lipbench.meters.machine import Watch
from lipbench.quantities import Contention, Timing

FEWEST_SAMPLES = 5
SETTLING_SAMPLES = 10
"""no fewer are enough to stop before the limit"""
MOST_SAMPLES = 1000
"""a limit like that of time: more would only swell the record"""
PRECISION = 0.02
"""half width of the median's 95 % interval, relative, at which sampling stops; also the agreement of warm-up medians"""
LEAST_WATCH_S = 0.1
"""sampling lasts at least so long, because the kernel counts CPU time in ticks of 0.01 s and a shorter look would see nobody"""
LEAST_WARMUP_S = {"cpu": 0.0, "cuda": 0.15}
WARMUP_BATCH_S = 0.005
WARMUP_BATCH_SAMPLES = 3
SLOW_S = 0.2
"""One iteration of a group that takes longer is not repeated to warm up or to settle: it is warm after one, and one is
enough to tell host time."""
LOOPED_BELOW_S = 1e-3
HOST_SAMPLES = 5
UNKNOWN_L2_BYTES = 2**27
"""more than any GPU has"""
SAMPLES_AHEAD = 16
SECONDS_AHEAD = 0.05
"""CUDA: most samples, and most seconds of them, that wait on the device for their turn, but always two samples"""

Events = tuple[Any, Any]
"""two `torch.cuda.Event`, which PyTorch leaves without types"""
Stages = Mapping[str, Callable[[], object]]
Whole = tuple[str, Callable[[], object]]
"""a name for all stages together, and what completes them"""


def measure(
    group: Stages,
    prepare: Callable[[], object],
    check: Callable[[], object] = lambda: None,
    *,
    device: str,
    limit_s: float,
    threads: int,
    loop: bool = False,
    whole: Whole | None = None,
    watch: Callable[[str, int], Watch] = Watch,
) -> dict[str, Timing]:
    """Time every stage of a group: name → `Timing`, seconds per call.

    `limit_s` is the sampling time of one stage, half of it for each of two attempts; it is passed only where fewer than
    `FEWEST_SAMPLES` samples were taken by then. The second attempt is made if other processes used the machine in the first,
    whose samples it replaces; `Contention.contended` means that they did both times. `check` is called once, after the first
    call of each stage, and may look at what they computed and raise.

    On a CPU, `loop` lets calls of less than a millisecond be repeated within a sample, for a group of one stage; and `whole`
    names one more phase: all stages of an iteration and what completes them, from the first one's beginning to the end.
    """
    sampler: _Sampler = _CudaSampler(group, prepare) if device == "cuda" else _CpuSampler(group, prepare, whole)
    with _long_lived_objects_set_aside():
        first_call_s = sampler.first_call()
        check()
        warmup_s = _warm_up(sampler, LEAST_WARMUP_S[device], len(group) * limit_s / 4)
        sampler.calibrate(loop)
        contention = _sample_watched(sampler, len(group) * limit_s / 2, watch(device, threads))
        remeasured = contention.contended
        if remeasured:
            contention = _sample_watched(sampler, len(group) * limit_s / 2, watch(device, threads))
    return {
        name: Timing(
            samples_s=tuple(samples),
            host_s=tuple(sampler.host_s.get(name, ())),
            calls_per_sample=sampler.calls,
            converged=is_settled(samples),
            warmup_s=warmup_s,
            first_call_s=first_call_s[name],
            timer_cost_s=sampler.timer_cost_s,
            remeasured=remeasured,
            contention=contention,
        )
        for name, samples in sampler.samples.items()
    }


# ------------------------------------------------------------------------------------------------------------ the rules


@lru_cache(maxsize=MOST_SAMPLES)
def interval_rank(count: int) -> int:
    """Rank l, from 1, such that the l-th smallest and the l-th largest of `count` samples enclose the median with at least
    95 % probability, whatever the distribution; 0 if no two samples do (fewer than six)."""
    rank, tail = 0, 0
    while True:
        tail += math.comb(count, rank)
        if tail * 40 > 2**count:  # P(Binomial(count, ½) ≤ rank) > 0.025
            return rank
        rank += 1


def is_settled(samples: Sequence[float]) -> bool:
    """Whether there are enough samples and the 95 % interval of their median is within `PRECISION` of it."""
    if len(samples) < SETTLING_SAMPLES:
        return False
    ordered, rank = sorted(samples), interval_rank(len(samples))
    median = statistics.median(ordered)
    return ordered[rank - 1] >= (1 - PRECISION) * median and ordered[-rank] <= (1 + PRECISION) * median


def _agree(medians: Sequence[float]) -> bool:
    """Whether the last three are within `PRECISION` of each other."""
    last = medians[-3:]
    return len(last) == 3 and max(last) <= (1 + PRECISION) * min(last)


def _warm_up(sampler: _Sampler, least_s: float, most_s: float) -> float:
    """Run until every stage's last three medians agree; returns the seconds it took.

    One iteration is all where that takes longer than `SLOW_S`; elsewhere there is no cap before `least_s`.
    """
    start = batch_start = time.perf_counter()

    def is_capped() -> bool:
        return time.perf_counter() - start >= max(least_s, most_s)

    sampler.clear()
    sampler.take()
    sampler.finish()
    if sampler.sample_s > SLOW_S:
        return time.perf_counter() - start
    taken = 1
    medians: dict[str, list[float]] = {name: [] for name in sampler.samples}
    while True:
        while taken == 0 or (not is_capped() and _is_short(taken, batch_start)):
            sampler.take()
            taken += 1
        sampler.finish()
        for name, samples in sampler.samples.items():
            medians[name].append(statistics.median(samples))
        agreed = time.perf_counter() - start >= least_s and all(_agree(values) for values in medians.values())
        if agreed or is_capped():
            return time.perf_counter() - start
        sampler.clear()
        taken, batch_start = 0, time.perf_counter()


def _is_short(taken: int, batch_start: float) -> bool:
    """Whether a batch of warm-up samples has to grow."""
    return taken < WARMUP_BATCH_SAMPLES or time.perf_counter() - batch_start < WARMUP_BATCH_S


def _sample_watched(sampler: _Sampler, limit_s: float, watch: Watch) -> Contention:
    sampler.clear()
    with watch:
        _sample(sampler, limit_s)
    return watch.contention


def _sample(sampler: _Sampler, limit_s: float) -> None:
    """Take samples until all stages are settled or the limit is reached."""
    start = time.perf_counter()
    taken, next_check = 0, SETTLING_SAMPLES
    while taken < MOST_SAMPLES:
        sampler.take()
        taken += 1
        elapsed = time.perf_counter() - start
        if elapsed >= limit_s and taken >= FEWEST_SAMPLES:
            break
        done = min(len(samples) for samples in sampler.samples.values())
        if done >= next_check and elapsed >= LEAST_WATCH_S:
            if all(is_settled(samples) for samples in sampler.samples.values()):
                break
            next_check = done + max(1, done // 5)  # sorting after every sample would compete with what is measured
    sampler.finish()
    if taken >= MOST_SAMPLES:  # of calls so short that the look at the machine would be too
        time.sleep(max(0.0, min(LEAST_WATCH_S, limit_s) - (time.perf_counter() - start)))


@contextmanager
def _long_lived_objects_set_aside() -> Iterator[None]:
    """Collect garbage, then keep the collector from walking through all that imports left in memory while the clock runs.

    The collector stays on: a graph in a reference cycle must not pile up. What was set aside before stays so: a process that
    only measures sets its imports aside once, since to walk through them takes a tenth of a second.
    """
    was_set_aside = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_set_aside:
            gc.unfreeze()


# ---------------------------------------------------------------------------------------------------------- the clocks


class _Sampler(ABC):
    """Takes samples of a group, one of each stage at a time."""

    def __init__(self, group: Stages, prepare: Callable[[], object]) -> None:
        self.group, self.prepare = group, prepare
        self.samples: dict[str, list[float]] = {name: [] for name in group}
        self.host_s: dict[str, list[float]] = {name: [] for name in group}
        self.calls = 1
        self.timer_cost_s = 0.0

    def clear(self) -> None:
        """Forget the samples."""
        self.samples = {name: [] for name in self.group}

    @property
    def sample_s(self) -> float:
        """Seconds of one iteration, all stages together, by the samples that are in."""
        return sum(statistics.median(self.samples[name]) for name in self.group)

    def first_call(self) -> dict[str, float]:
        """Run each stage once, to its end, and return the seconds each took."""
        self.prepare()
        return {name: self._run_once(call) for name, call in self.group.items()}

    def _run_once(self, call: Callable[[], object]) -> float:
        start = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - start) * 1e-9

    @abstractmethod
    def calibrate(self, loop: bool) -> None:
        """Settle, from the last warm-up samples, how to sample."""

    @abstractmethod
    def take(self) -> None:
        """Prepare and run every stage once more. The samples may come in later."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all samples are in."""


class _CpuSampler(_Sampler):
    """The host's clock around one call, or around a loop of calls where that is allowed."""

    def __init__(self, group: Stages, prepare: Callable[[], object], whole: Whole | None = None) -> None:
        super().__init__(group, prepare)
        self._whole = whole
        self.clear()

    def clear(self) -> None:
        """Forget the samples."""
        super().clear()
        if self._whole:
            self.samples[self._whole[0]] = []

    def first_call(self) -> dict[str, float]:
        """Run each stage once, to its end, and what completes them, and return the seconds each took."""
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
        """Every sample is in as soon as it was taken."""


class _CudaSampler(_Sampler):
    """A pair of events around each call, on the current stream.

    The device never waits for the host between samples: results are read from events that have passed already. Where the host
    is far ahead it waits for the oldest sample alone, which leaves the device the others to work on. Before each pair, a buffer
    of the L2 cache's size is written, so that every call finds its operands in memory, not in the cache.
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
        """Host time per call, each begun on an idle device, so that a full launch queue does not count as host work."""
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
        """Forget the samples, and give the device some work, so that the first new sample is not launched on an idle one."""
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
