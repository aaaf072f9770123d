"""Seconds per call, measured with a warm-up, a stop rule and a check whether other processes used the machine.

The stages of a *group* are measured together: one iteration prepares, then runs each stage in order and times it separately. So
a backward pass is timed right after the forward pass whose graph it consumes. On a CPU, the *whole* of an iteration may also be
timed, for a training step; this takes two more readings of the clock.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from lipbench.meters.clocks import SLOW_S, WARMUP_BATCH_SAMPLES, CpuSampler, CudaSampler, Sampler, Stages, Whole
from lipbench.meters.machine import Watch
from lipbench.quantities import Contention, Timing

FEWEST_SAMPLES = 5
SETTLING_SAMPLES = 10
"""smallest number of samples with which sampling may stop before the limit"""
MOST_SAMPLES = 1000
"""limit of the number of samples, like that of time: more samples would only make the record larger"""
PRECISION = 0.02
"""relative half width of the median's 95 % interval at which sampling stops; also the tolerance between warm-up medians"""
LEAST_WATCH_S = 0.1
"""least duration of sampling: the operating system counts CPU time in ticks of 0.01 s, so a shorter check would see no other
process"""
LEAST_WARMUP_S = {"cpu": 0.0, "cuda": 0.15}
WARMUP_BATCH_S = 0.005


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

    `limit_s` is the sampling time of one stage, half of it for each of two attempts; it is exceeded only if fewer than
    `FEWEST_SAMPLES` samples were taken by then. If other processes used the machine during the first attempt, a second one
    replaces its samples; `Contention.contended` means that they used it during both. `check` is called once, after the first
    call of each stage; it may check the results and raise.

    On a CPU, `loop` allows calls of less than a millisecond to be repeated within a sample, for a group of one stage; `whole`
    names one more phase: a whole iteration, from the beginning of the first stage to the end of the call that completes it.
    """
    sampler: Sampler = CudaSampler(group, prepare) if device == "cuda" else CpuSampler(group, prepare, whole)
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
    95 % probability, for any distribution; 0 if no two samples do (fewer than six)."""
    rank, tail = 0, 0
    while True:
        tail += math.comb(count, rank)
        if tail * 40 > 2**count:  # P(Binomial(count, ½) ≤ rank) > 0.025
            return rank
        rank += 1


def is_settled(samples: Sequence[float]) -> bool:
    """Whether there are enough samples and the 95 % interval of their median is within `PRECISION` of the median."""
    if len(samples) < SETTLING_SAMPLES:
        return False
    ordered, rank = sorted(samples), interval_rank(len(samples))
    median = statistics.median(ordered)
    return ordered[rank - 1] >= (1 - PRECISION) * median and ordered[-rank] <= (1 + PRECISION) * median


def _agree(medians: Sequence[float]) -> bool:
    """Whether the last three medians are within `PRECISION` of each other."""
    last = medians[-3:]
    return len(last) == 3 and max(last) <= (1 + PRECISION) * min(last)


def _warm_up(sampler: Sampler, least_s: float, most_s: float) -> float:
    """Run until every stage's last three medians agree; returns the seconds that this took.

    If an iteration takes longer than `SLOW_S`, only one is run; otherwise the warm-up is not stopped before `least_s`.
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


def _sample_watched(sampler: Sampler, limit_s: float, watch: Watch) -> Contention:
    sampler.clear()
    with watch:
        _sample(sampler, limit_s)
    return watch.contention


def _sample(sampler: Sampler, limit_s: float) -> None:
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
            next_check = done + max(1, done // 5)  # sorting after every sample would compete with the measured calls
    sampler.finish()
    if taken >= MOST_SAMPLES:  # calls may be so short that the check for other processes would be too short
        time.sleep(max(0.0, min(LEAST_WATCH_S, limit_s) - (time.perf_counter() - start)))


@contextmanager
def _long_lived_objects_set_aside() -> Iterator[None]:
    """Collect garbage, then freeze all objects, so that the collector does not traverse imported modules during timing.

    The collector stays on, so that graphs in reference cycles do not pile up. Objects that were frozen before stay frozen: a
    process that only measures freezes its imports once, since traversing them takes a tenth of a second.
    """
    was_set_aside = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_set_aside:
            gc.unfreeze()
