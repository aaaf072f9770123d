"""Statistics of the rounds of a case: times with intervals over rounds, and power laws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lipbench_reports.intervals import CONFIDENCE, Level, of_rounds, used

from lipbench.cases import Case
from lipbench.quantities import PHASES, Timing
from lipbench.store.rounds import Record

OUTLIER_RANGES = 1.5
"""A sample further than this many interquartile ranges from the quartiles counts as an outlier; it is not removed."""
LAUNCH_BOUND_SHARE = 0.9
"""Host time ÷ total time from which a phase is launch-bound: apart from its last kernel and the host's head start, a GPU that
waits for the host takes hardly longer than the host."""
TARGET = 0.05
"""Half width of the 95 % interval over rounds, relative to the time, up to which a phase has converged"""


def timings_by_phase(record: Record) -> dict[str, dict[int, Timing]]:
    """The timings by phase and number of the round, in the order of `PHASES`, then phases with other names."""
    present = [(number, one.phases) for number, one in enumerate(record.rounds) if one.phases]
    order = in_order(name for _, phases in present for name in phases)
    return {name: {number: phases[name] for number, phases in present if name in phases} for name in order}


def in_order(names: Iterable[str]) -> list[str]:
    """The names, each once, those in `PHASES` first."""
    found = dict.fromkeys(names)
    return [*(name for name in PHASES if name in found), *(name for name in found if name not in PHASES)]


def levels(timings: Mapping[int, Timing]) -> list[Level]:
    """The median of each round, by the number of the round. A round without a record of contention counts as quiet."""
    return [Level(number, statistics.median(timing.samples_s), not timing.contended) for number, timing in timings.items()]


def time_columns(timings: Mapping[int, Timing], case: Case) -> dict[str, Any]:
    """The columns of `rows.COLUMNS` that describe the times of one phase."""
    found = levels(timings)
    chosen = used(found)
    time = of_rounds(found)
    mine = [timings[one.round] for one in chosen]
    medians = [one.median_s for one in chosen]
    host = [statistics.median(timing.host_s) for timing in mine if timing.host_s]
    contentions = [timing.contention for timing in timings.values() if timing.contention is not None]
    clocks = [one.gpu_clock_share for one in contentions if one.gpu_clock_share is not None]
    quiet = sum(one.quiet for one in found)
    return {
        "median_s": time.value, "low_s": time.low, "high_s": time.high,
        "samples": sum(len(timing.samples_s) for timing in mine), "rounds": len(timings),
        "quiet_rounds": quiet if contentions else None,
        "round_spread": max(medians) / min(medians) - 1 if min(medians) > 0 else math.nan,
        "contended": quiet == 0 if contentions else None,
        "foreign_share": max((one.foreign_share for one in contentions), default=math.nan),
        "gpu_clock_share": min(clocks, default=math.nan),
        "gpu_clock_limited_by": ", ".join(dict.fromkeys(text for one in contentions for text in one.gpu_clock_limited_by)),
        "converged": bool(time.reach <= TARGET),
        "outliers": sum(map(_outliers, mine)),
        "timer_cost_s": max(timing.timer_cost_s for timing in timings.values()),
        "host_median_s": np.median(host) if host else math.nan,
        "launch_bound": bool(np.median(host) >= LAUNCH_BOUND_SHARE * time.value) if host else None,
        "images_per_s": case.batch_size / time.value if time.value > 0 else math.nan,
        "compile_s": _compile_s(mine) if case.compile else math.nan,
    }  # fmt: skip


def _compile_s(timings: Sequence[Timing]) -> float:
    """Median compile time over the rounds, each with an empty cache; 0 if the first call was not slower than the median."""
    first_calls = [timing.first_call_s - statistics.median(timing.samples_s) for timing in timings]
    return max(0.0, float(np.median(first_calls)))


def _outliers(timing: Timing) -> int:
    if len(timing.samples_s) < 2:
        return 0
    low, _, high = statistics.quantiles(timing.samples_s, n=4, method="inclusive")
    reach = OUTLIER_RANGES * (high - low)
    return int(sum(sample < low - reach or sample > high + reach for sample in timing.samples_s))


@dataclass(frozen=True)
class Fit:
    """A fitted power law: its exponent and the ends of the 95 % interval, NaN where there are too few points."""

    exponent: float
    low: float
    high: float


def power_law(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fit a power law by least squares on logarithms, with an interval by Student's t.

    All values must be positive, and at least two of x different.
    """
    if len(x) < 3:
        slope = math.log(y[-1] / y[0]) / math.log(x[-1] / x[0])
        return Fit(slope, math.nan, math.nan)
    from scipy import stats  # slow to import, and only reports fit power laws

    line = stats.linregress(np.log(x), np.log(y))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2)) * float(line.stderr)
    return Fit(float(line.slope), float(line.slope) - reach, float(line.slope) + reach)
