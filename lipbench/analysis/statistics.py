"""Statistics of the rounds of a case: quantiles of the samples, and power laws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from lipbench.cases import Case
from lipbench.quantities import PHASES, Timing
from lipbench.store.rounds import Record

OUTLIER_RANGES = 1.5
"""A sample further than this many interquartile ranges from the quartiles counts as an outlier; it is not removed."""
LAUNCH_BOUND_SHARE = 0.9
"""Host time ÷ total time from which a phase is launch-bound: apart from its last kernel and the host's head start, a GPU that
waits for the host takes hardly longer than the host."""
CONFIDENCE = 0.95
"""confidence level of the interval of a power law"""


def timings_by_phase(record: Record) -> dict[str, list[Timing]]:
    """The timings of all rounds by phase, in the order of `PHASES`, then phases with other names."""
    present = [one.phases for one in record.rounds if one.phases]
    order = in_order(name for phases in present for name in phases)
    return {name: [phases[name] for phases in present if name in phases] for name in order}


def in_order(names: Iterable[str]) -> list[str]:
    """The names, each once, those in `PHASES` first."""
    found = dict.fromkeys(names)
    return [*(name for name in PHASES if name in found), *(name for name in found if name not in PHASES)]


def round_medians_s(timings: Sequence[Timing]) -> list[float]:
    """The median of each round, in seconds."""
    return [float(np.median(timing.samples_s)) for timing in timings]


def time_columns(timings: Sequence[Timing], case: Case) -> dict[str, Any]:
    quantiles = np.array([np.quantile(timing.samples_s, (0.2, 0.5, 0.8)) for timing in timings])
    p20, median, p80 = np.median(quantiles, axis=0)
    host = [float(np.median(timing.host_s)) for timing in timings if timing.host_s]
    contentions = [timing.contention for timing in timings if timing.contention is not None]
    clocks = [one.gpu_clock_share for one in contentions if one.gpu_clock_share is not None]
    medians = quantiles[:, 1]
    return {
        "median_s": median, "p20_s": p20, "p80_s": p80,
        "samples": sum(len(timing.samples_s) for timing in timings), "rounds": len(timings),
        "round_spread": medians.max() / medians.min() - 1 if medians.min() > 0 else math.nan,
        "contended": any(one.contended for one in contentions) if contentions else None,
        "foreign_share": max((one.foreign_share for one in contentions), default=math.nan),
        "gpu_clock_share": min(clocks, default=math.nan),
        "gpu_clock_limited_by": ", ".join(dict.fromkeys(text for one in contentions for text in one.gpu_clock_limited_by)),
        "converged": all(timing.converged for timing in timings),
        "outliers": sum(map(_outliers, timings)),
        "timer_cost_s": max(timing.timer_cost_s for timing in timings),
        "host_median_s": np.median(host) if host else math.nan,
        "launch_bound": bool(np.median(host) >= LAUNCH_BOUND_SHARE * median) if host else None,
        "images_per_s": case.batch_size / median if median > 0 else math.nan,
        "compile_s": _compile_s(timings) if case.compile else math.nan,
    }  # fmt: skip


def _compile_s(timings: Sequence[Timing]) -> float:
    """Median compile time over the rounds, each with an empty cache; 0 if the first call was not slower than the median."""
    first_calls = [timing.first_call_s - float(np.median(timing.samples_s)) for timing in timings]
    return max(0.0, float(np.median(first_calls)))


def _outliers(timing: Timing) -> int:
    low, high = np.quantile(timing.samples_s, (0.25, 0.75))
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
    line = stats.linregress(np.log(x), np.log(y))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x) - 2)) * float(line.stderr)
    return Fit(float(line.slope), float(line.slope) - reach, float(line.slope) + reach)
