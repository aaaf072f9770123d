"""Whether the clocks and the counter tell the truth on this machine: each check is ok, failed, or the machine is too noisy.

Every clock is held against another one in turns, call by call. The ratios of the turns decide, by their own 95 % interval: ok
if it lies within the tolerance, failed if the ratio certainly differs by more, and else too noisy. Turns during which other
processes were busy are left out. As long as the interval decides nothing, turns are added, up to a limit.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from lipbench_reports.intervals import estimate
from torch import nn
from torch.utils.benchmark import Timer

from lipbench import errors
from lipbench.analysis.comparison import SAME, UNCLEAR, judge, p_value
from lipbench.answer import Answer
from lipbench.meters import machine, macs
from lipbench.meters import time as time_meter
from lipbench.meters.machine import Watch

OK, FAILED, NOISY = "ok", "failed", "too noisy"
TOLERANCE = 0.05
TURNS, LEAST_TURNS, MOST_TURNS = 9, 5, 36
"""turns after which a check is judged, quiet ones without which the machine is too noisy, and turns after which it ends"""
TURN_S = 0.1
"""sampling time of one clock in one turn"""
SPIN_S = (50e-6, 3e-3)
"""lengths of the busy loops"""
SIZES = {"cpu": (8, 32, 16), "cuda": (256, 128, 32)}
"""(batch size, channels, image size) of the convolution: a call of about a millisecond"""
COLUMNS = ["check", "outcome", "ratio", "low", "high", "turns", "quiet", "reason"]

Call = Callable[[], object]


@dataclass(frozen=True)
class Turn:
    """Both times of one turn, and whether no other process was busy."""

    ours_s: float
    theirs_s: float
    quiet: bool


def answer(device: str) -> Answer:
    """All checks on a device, 'cpu' or 'cuda'. The answer failed if a check did, and is undecided if one could not tell."""
    machine.set_precision("ieee")
    rows = [*_checks(device), _product(device)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    readable = frame.assign(
        ratio=[_per_cent(value) for value in frame["ratio"]],
        interval=[_interval(low, high) for low, high in zip(frame["low"], frame["high"])],
        quiet=[f"{quiet} of {turns}" if turns else "" for quiet, turns in zip(frame["quiet"], frame["turns"])],
    )[["check", "outcome", "ratio", "interval", "quiet", "reason"]]
    counted = ", ".join(f"{(frame['outcome'] == name).sum()} {name}" for name in (OK, FAILED, NOISY))
    remark = f"{counted}; a check that is too noisy has not passed: see lipbench doctor"
    failed, undecided = (bool((frame["outcome"] == name).any()) for name in (FAILED, NOISY))
    return Answer(frame, readable, (remark,), failed=failed, undecided=undecided)


def _per_cent(ratio: float) -> str:
    return "" if math.isnan(ratio) else f"{100 * (ratio - 1):+.2f} %"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{_per_cent(low)} to {_per_cent(high)}"


def judged(turns: Sequence[Turn], tolerance: float = TOLERANCE) -> tuple[str, float, float, float, str]:
    """Outcome, ratio of our clock to the other, its interval, and the reason."""
    logs = [math.log(one.ours_s / one.theirs_s) for one in turns if one.quiet]
    if len(logs) < LEAST_TURNS:
        busy = f"other processes were busy in {len(turns) - len(logs)} of {len(turns)} turns"
        return NOISY, math.nan, math.nan, math.nan, busy
    found = estimate([logs])
    verdict = judge(found, p_value(logs), tolerance)
    if verdict == UNCLEAR:
        outcome, reason = NOISY, f"the turns differ by more than ± {tolerance:.0%} allows"
    elif verdict == SAME:
        outcome, reason = OK, ""
    else:
        outcome, reason = FAILED, f"the times differ by more than {tolerance:.0%}"
    return outcome, found.value, found.low, found.high, reason


def _checks(device: str) -> Iterator[tuple[object, ...]]:
    """The rows of all checks of a clock."""
    convolution, again = _convolution(device), _convolution(device)
    side = 2048 if device == "cuda" else 192
    one, other = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    clock = "do_bench" if device == "cuda" else "torch.utils.benchmark.Timer"
    for name, call in (("convolution", convolution), ("product", lambda: one @ other), ("sum", lambda: one + other)):
        yield _row(f"{name}: our clock against {clock}", device, call, lambda call=call: _theirs_s(call, device))  # type: ignore[misc]  # bound now
    for seconds in SPIN_S:
        loop = _device_loop(seconds) if device == "cuda" else _spin(seconds)
        yield _row(f"busy loop of {1e6 * seconds:g} µs", device, *loop)
    yield _row("a method against itself", device, convolution, lambda: _ours_s(again, device))


def _row(name: str, device: str, call: Call, reference_s: Callable[[], float]) -> tuple[object, ...]:
    turns: list[Turn] = []
    while len(turns) < MOST_TURNS:
        with Watch(device, torch.get_num_threads()) as watched:
            if len(turns) % 2:
                theirs, ours = reference_s(), _ours_s(call, device)
            else:
                ours, theirs = _ours_s(call, device), reference_s()
        turns.append(Turn(ours, theirs, not watched.contention.contended))
        quiet = sum(one.quiet for one in turns)
        if len(turns) - quiet > TURNS - LEAST_TURNS and quiet < LEAST_TURNS:
            break  # the machine is busy
        if len(turns) % TURNS == 0 and judged(turns)[0] != NOISY:
            break
    outcome, ratio, low, high, reason = judged(turns)
    return name, outcome, ratio, low, high, len(turns), sum(one.quiet for one in turns), reason


def _ours_s(call: Call, device: str) -> float:
    """Median seconds per call by `meters.time`, as in a round."""
    timing = time_meter.measure(
        {"call": call}, lambda: None, device=device, limit_s=2 * TURN_S, threads=torch.get_num_threads(), loop=True
    )
    return statistics.median(timing["call"].samples_s)


def _theirs_s(call: Call, device: str) -> float:
    """Median seconds per call by the other clock."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=50, rep=1000 * TURN_S, return_mode="median")) * 1e-3
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=TURN_S).median)


def _convolution(device: str) -> Call:
    """The inference of a convolution, always the same one."""
    batch, channels, size = SIZES[device]
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(device).eval()
    x = torch.randn(batch, channels, size, size, device=device)

    def call() -> object:
        with torch.inference_mode():
            return layer(x)

    return call


def _spin(seconds: float) -> tuple[Call, Callable[[], float]]:
    """A call that ends when another clock of the system has advanced by `seconds`, and that time."""
    wanted = int(1e9 * seconds)
    clock = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)  # not adjusted to the time of day
    read = time.clock_gettime_ns

    def call() -> None:
        end = read(clock) + wanted
        while read(clock) < end:
            pass

    return call, lambda: seconds


def _device_loop(seconds: float, calls: int = 50) -> tuple[Call, Callable[[], float]]:
    """A kernel that waits for some cycles, and its length by the host's clock, from many in a row."""
    sleep: Callable[[int], object] = torch.cuda._sleep

    def length_s(cycles: int) -> float:
        sleep(cycles)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            sleep(cycles)
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    cycles = max(1, int(1e6 * seconds / length_s(1_000_000)))
    return lambda: sleep(cycles), lambda: length_s(cycles)


def _product(device: str) -> tuple[object, ...]:
    """MACs of a matrix product and a convolution against the known numbers."""
    batch, channels, size = SIZES[device]
    one, other = torch.randn(30, 50, device=device), torch.randn(50, 70, device=device)
    found = macs.count(lambda: one @ other).total + macs.count(_convolution(device)).total
    known = 30 * 50 * 70 + batch * (channels * size * 3) ** 2
    outcome, reason = (OK, "") if found == known else (FAILED, f"{found} were counted, and {known} are known")
    return "MACs of a product and a convolution", outcome, found / known, math.nan, math.nan, 0, 0, reason


def device_of(name: str) -> str:
    """The device that a name means. Raises `LipbenchError` for a GPU where there is none, or without Triton."""
    device = machine.device_of(name)
    if device == "cuda":
        try:
            import triton  # noqa: F401  # `do_bench` is part of it
        except ImportError:
            raise errors.no_triton() from None
    return device
