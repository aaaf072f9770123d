"""The rules of timing, with a simulated clock where possible. No test here asserts a speed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import psutil
import pytest
import torch

from lipbench.meters import clocks
from lipbench.meters import time as meter
from lipbench.meters.machine import CpuTimes, OwnUse, Watch


class Clock:
    """A stand-in for the host's clock: the test sets its time, and the CPU times that the operating system reports."""

    def __init__(self) -> None:
        self.ns = 0
        self.foreign_share = 0.0

    def perf_counter_ns(self) -> int:
        return self.ns

    def perf_counter(self) -> float:
        return self.ns * 1e-9

    def spend(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def watch(self, device: str, threads: int) -> Watch:
        """One core, on which this process always runs."""

        def cpu() -> CpuTimes:
            return CpuTimes(self.perf_counter() * (1 + self.foreign_share), 1, 0.01)

        return Watch(device, threads, cpu, lambda: OwnUse(self.perf_counter(), 0), self.perf_counter)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter.time, "perf_counter_ns", clock.perf_counter_ns)
    monkeypatch.setattr(meter.time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(meter.time, "sleep", clock.spend)
    return clock


def durations(clock: Clock, values: Iterator[float]) -> Callable[[], object]:
    return lambda: clock.spend(next(values))


def forever(*values: float) -> Iterator[float]:
    while True:
        yield from values


def nothing() -> None:
    pass


def rounded(samples: Sequence[float]) -> list[float]:
    """Round to nanoseconds, the clock's unit."""
    return [round(sample, 9) for sample in samples]


@pytest.mark.parametrize("count", [6, 7, 10, 11, 25, 100, 333])
def test_interval_of_the_median_is_the_narrowest_with_95_percent(count: int) -> None:
    rank = meter.interval_rank(count)

    def coverage(rank: int) -> float:
        return 1 - 2 * sum(math.comb(count, i) for i in range(rank)) / 2**count

    assert coverage(rank) >= 0.95 > coverage(rank + 1)


def test_five_samples_have_no_interval() -> None:
    assert meter.interval_rank(5) == 0


def test_settled_needs_ten_samples_and_a_narrow_interval() -> None:
    assert meter.is_settled([1.0] * 10)
    assert not meter.is_settled([1.0] * 9)
    assert meter.is_settled([0.2] + [1.0] * 8 + [5.0])  # of ten, the outermost sample on a side is outside the interval
    assert not meter.is_settled([1.0] * 8 + [5.0] * 2)
    assert not meter.is_settled([1.0, 1.1] * 10)
    assert meter.is_settled([1.0, 1.019] * 10)


def test_steady_calls_stop_by_the_rule(clock: Clock) -> None:
    found = meter.measure({"a": lambda: clock.spend(0.02)}, nothing, device="cpu", limit_s=10, threads=1, watch=clock.watch)
    assert found["a"].samples_s == pytest.approx([0.02] * 10)
    assert found["a"].converged
    assert not found["a"].remeasured
    assert found["a"].contention is not None
    assert not found["a"].contention.contended
    assert found["a"].calls_per_sample == 1
    assert found["a"].first_call_s == pytest.approx(0.02)
    assert found["a"].warmup_s == pytest.approx(9 * 0.02)  # three batches of three samples


def test_the_look_at_the_machine_lasts_though_all_samples_are_in(clock: Clock) -> None:
    looked: list[float] = []

    def watch(device: str, threads: int) -> Watch:
        def own() -> OwnUse:
            looked.append(clock.perf_counter())
            return OwnUse(clock.perf_counter(), 0)

        return Watch(device, threads, lambda: CpuTimes(clock.perf_counter(), 1, 0.01), own, clock.perf_counter)

    found = meter.measure({"a": lambda: clock.spend(1e-6)}, nothing, device="cpu", limit_s=10, threads=1, watch=watch)["a"]
    assert len(found.samples_s) == meter.MOST_SAMPLES
    assert looked[-1] - looked[0] >= meter.LEAST_WATCH_S


def test_unsteady_calls_stop_at_the_limit(clock: Clock) -> None:
    call = durations(clock, forever(0.02, 0.03))
    found = meter.measure({"a": call}, nothing, device="cpu", limit_s=1, threads=1, watch=clock.watch)["a"]
    assert not found.converged
    assert sum(found.samples_s) == pytest.approx(0.5, abs=0.05)  # the other half is for a second attempt


def test_slow_calls_get_five_samples(clock: Clock) -> None:
    call = durations(clock, forever(3.0, 4.0))
    found = meter.measure({"a": call}, nothing, device="cpu", limit_s=0.5, threads=1, watch=clock.watch)["a"]
    assert len(found.samples_s) == 5
    assert not found.converged


def test_slow_calls_are_not_repeated_to_warm_up(clock: Clock) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        clock.spend(1.5 * clocks.SLOW_S)

    meter.measure({"a": call}, nothing, device="cpu", limit_s=100 * clocks.SLOW_S, threads=1, watch=clock.watch)
    assert calls == 1 + 1 + 10  # first call, warm-up, and as many samples as are needed to settle
    calls = 0
    meter.measure({"a": call}, nothing, device="cpu", limit_s=clocks.SLOW_S, threads=1, watch=clock.watch)
    assert calls == 1 + 1 + 5


def test_what_the_first_calls_computed_is_checked_before_anything_is_timed(clock: Clock) -> None:
    trace: list[str] = []

    def check() -> None:
        trace.append("check")
        raise ArithmeticError("not finite")

    group = {"a": lambda: trace.append("a"), "b": lambda: trace.append("b")}
    with pytest.raises(ArithmeticError):
        meter.measure(group, nothing, check, device="cpu", limit_s=1, threads=1, watch=clock.watch)
    assert trace == ["a", "b", "check"]


def test_warm_up_lasts_until_medians_agree(clock: Clock) -> None:
    falling = iter([0.05 * 0.9**i for i in range(30)])

    def call() -> None:
        clock.spend(next(falling, 0.02))

    found = meter.measure({"a": call}, nothing, device="cpu", limit_s=100, threads=1, watch=clock.watch)["a"]
    assert set(rounded(found.samples_s)) == {0.02}
    assert found.warmup_s > sum(0.05 * 0.9**i for i in range(1, 30))


def test_warm_up_is_capped(clock: Clock) -> None:
    call = durations(clock, forever(0.02, 0.03, 0.04, 0.05))
    found = meter.measure({"a": call}, nothing, device="cpu", limit_s=1, threads=1, watch=clock.watch)["a"]
    assert found.warmup_s <= 0.25 + 0.05


def test_short_calls_are_sampled_long_enough_to_see_others(clock: Clock) -> None:
    found = meter.measure({"a": lambda: clock.spend(1e-3)}, nothing, device="cpu", limit_s=9, threads=1, watch=clock.watch)["a"]
    assert sum(found.samples_s) >= meter.LEAST_WATCH_S


def test_calls_under_a_millisecond_are_looped_where_allowed(clock: Clock) -> None:
    group = {"a": lambda: clock.spend(1e-4)}
    looped = meter.measure(group, nothing, device="cpu", limit_s=1, threads=1, loop=True, watch=clock.watch)["a"]
    assert looped.calls_per_sample == 10
    assert looped.samples_s[0] == pytest.approx(1e-4)
    single = meter.measure(group, nothing, device="cpu", limit_s=1, threads=1, watch=clock.watch)["a"]
    assert single.calls_per_sample == 1


def test_stages_run_in_order_after_one_preparation_and_are_timed_apart(clock: Clock) -> None:
    trace: list[str] = []

    def stage(name: str, seconds: float) -> Callable[[], object]:
        def call() -> None:
            trace.append(name)
            clock.spend(seconds)

        return call

    def prepare() -> None:
        trace.append("prepare")
        clock.spend(0.5)  # in no sample

    group = {"forward": stage("forward", 0.02), "backward": stage("backward", 0.04)}
    found = meter.measure(group, prepare, device="cpu", limit_s=50, threads=1, watch=clock.watch)
    assert trace == ["prepare", "forward", "backward"] * (len(trace) // 3)
    assert set(rounded(found["forward"].samples_s)) == {0.02}
    assert set(rounded(found["backward"].samples_s)) == {0.04}
    assert len(found["forward"].samples_s) == len(found["backward"].samples_s)


def test_the_whole_of_an_iteration_is_timed_beside_its_stages(clock: Clock) -> None:
    group = {"forward": lambda: clock.spend(0.02), "backward": lambda: clock.spend(0.04)}
    found = meter.measure(
        group, lambda: clock.spend(0.5), device="cpu", limit_s=50, threads=1, whole=("step", lambda: clock.spend(0.01)),
        watch=clock.watch,
    )  # fmt: skip
    assert list(found) == ["forward", "backward", "step"]
    assert set(rounded(found["backward"].samples_s)) == {0.04}
    assert set(rounded(found["step"].samples_s)) == {0.07}
    assert rounded([found["step"].first_call_s]) == [0.07]
    assert len(found["step"].samples_s) == len(found["forward"].samples_s)


def test_foreign_time_is_measured_once_more_and_then_marked(clock: Clock) -> None:
    clock.foreign_share = 0.2
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        clock.spend(0.02)

    found = meter.measure({"a": call}, nothing, device="cpu", limit_s=1, threads=1, watch=clock.watch)["a"]
    assert found.remeasured
    assert found.contention is not None
    assert found.contention.contended
    assert found.contention.foreign_share == pytest.approx(0.2, abs=0.06)
    assert calls == 1 + 9 + 10 + 10  # first, warm-up, and twice the samples
    assert len(found.samples_s) == 10


def test_a_neighbour_who_leaves_does_not_mark_the_phase(clock: Clock) -> None:
    clock.foreign_share = 0.2
    watches = 0

    def watch(device: str, threads: int) -> Watch:
        nonlocal watches
        watches += 1
        if watches == 2:
            clock.foreign_share = 0.0
        return clock.watch(device, threads)

    found = meter.measure({"a": lambda: clock.spend(0.02)}, nothing, device="cpu", limit_s=1, threads=1, watch=watch)["a"]
    assert watches == 2
    assert found.remeasured
    assert found.contention is not None
    assert not found.contention.contended


def kernel_busy_s() -> tuple[float, int]:
    """Busy seconds of all cores together, and the number of cores, by psutil."""
    times, names = psutil.cpu_times(), ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(getattr(times, name, 0.0) for name in names), len(psutil.cpu_times(percpu=True))


def test_busy_neighbours_are_seen_on_the_real_clock() -> None:
    """For any scheduling, the meter must see the use that psutil sees between the meter's two readings."""
    spin = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"
    neighbours = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)]
    try:
        for _ in range(20):
            start = time.perf_counter()
            with Watch("cpu", 1) as watch:
                before, cores = kernel_busy_s()
                time.sleep(1)
                after, _ = kernel_busy_s()
            wall_s = time.perf_counter() - start
            if after - before > 0.25 * wall_s * cores:
                break
        else:
            pytest.skip("no neighbour got enough of this machine's cores to be noticed")
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert watch.contention.contended
    assert watch.contention.foreign_share > 0.8 * (after - before) / (wall_s * cores)


def test_timing_watches_the_real_machine_by_default() -> None:
    x = torch.randn(64, 64)
    found = meter.measure({"a": lambda: x @ x}, nothing, device="cpu", limit_s=0.1, threads=1)["a"]
    assert found.contention is not None
    assert found.contention.own_share > 0


# ------------------------------------------------------------------------------------------ CUDA, on a device of the test's own


class FakeDevice:
    """A GPU with one queue: work takes device time in order, at whatever time the host launches it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.free_at = 0.0
        self.synchronisations = 0

    def launch(self, device_s: float, host_s: float) -> None:
        self.clock.spend(host_s)
        self.free_at = max(self.free_at, self.clock.perf_counter()) + device_s

    def wait_until(self, moment: float) -> None:
        self.clock.spend(max(0.0, moment - self.clock.perf_counter()))

    def synchronize(self) -> None:
        self.synchronisations += 1
        self.wait_until(self.free_at)


@pytest.fixture
def device(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice(clock)

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing

        def record(self) -> None:
            self.moment = max(device.free_at, clock.perf_counter())

        def query(self) -> bool:
            return self.moment <= clock.perf_counter() + 1e-9  # the clock counts nanoseconds

        def synchronize(self) -> None:
            device.wait_until(self.moment)

        def elapsed_time(self, end: Event) -> float:
            assert end.query()
            return (end.moment - self.moment) * 1e3

    class Flush:
        def zero_(self) -> None:
            device.launch(3e-5, 1e-6)

    sizes: list[int] = []

    def empty(size: int, **options: object) -> Flush:
        sizes.append(size)
        return Flush()

    monkeypatch.setattr(clocks.torch, "empty", empty)
    monkeypatch.setattr(clocks.torch.cuda, "Event", Event)
    monkeypatch.setattr(clocks.torch.cuda, "synchronize", device.synchronize)
    monkeypatch.setattr(clocks.torch.cuda, "current_device", lambda: 0)
    properties = type("Properties", (), {"L2_cache_size": 50 * 2**20})
    monkeypatch.setattr(clocks.torch.cuda, "get_device_properties", lambda index: properties)
    return device


def cpu_only(clock: Clock) -> Callable[[str, int], Watch]:
    return lambda device, threads: clock.watch("cpu", threads)


def test_device_time_is_read_from_events_and_host_time_apart(clock: Clock, device: FakeDevice) -> None:
    group = {"a": lambda: device.launch(2e-3, 1e-4)}
    found = meter.measure(group, nothing, device="cuda", limit_s=1, threads=1, watch=cpu_only(clock))["a"]
    assert set(rounded(found.samples_s)) == {2e-3}  # without the flush
    assert found.host_s == pytest.approx([1e-4] * clocks.HOST_SAMPLES)  # though the queue is full while sampling
    assert found.converged
    assert found.warmup_s >= 0.15
    assert found.first_call_s == pytest.approx(2.1e-3)


def test_a_launch_bound_call_shows_more_host_than_device_work(clock: Clock, device: FakeDevice) -> None:
    group = {"a": lambda: device.launch(1e-5, 1e-3)}
    found = meter.measure(group, nothing, device="cuda", limit_s=1, threads=1, watch=cpu_only(clock))["a"]
    assert min(found.host_s) == pytest.approx(1e-3)
    assert max(found.samples_s) < 1.1e-3


def test_no_synchronisation_between_samples(clock: Clock, device: FakeDevice) -> None:
    sampler = clocks.CudaSampler({"a": lambda: device.launch(2e-3, 1e-4)}, nothing)
    sampler.take()
    sampler.finish()
    sampler.calibrate(loop=False)
    sampler.clear()
    before = device.synchronisations
    meter._sample(sampler, limit_s=1)
    assert len(sampler.samples["a"]) >= 10
    assert device.synchronisations == before + 1


def test_slow_samples_do_not_pile_up_on_the_device(clock: Clock, device: FakeDevice) -> None:
    group = {"a": lambda: device.launch(1.0, 1e-4)}
    found = meter.measure(group, nothing, device="cuda", limit_s=0.5, threads=1, watch=cpu_only(clock))["a"]
    assert 5 <= len(found.samples_s) <= 7
    assert len(found.host_s) == 1


def test_a_device_that_does_not_say_how_large_its_cache_is(
    clock: Clock, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks.torch.cuda, "get_device_properties", lambda index: object())
    group = {"a": lambda: device.launch(2e-3, 1e-4)}
    found = meter.measure(group, nothing, device="cuda", limit_s=1, threads=1, watch=cpu_only(clock))["a"]
    assert set(rounded(found.samples_s)) == {2e-3}
