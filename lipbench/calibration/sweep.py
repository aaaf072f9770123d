"""Measures every form on its grid twice, and a third time where both differ; says where the machine is too noisy."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lipbench.calibration.calls import MOST_WORK, Call, Measured
from lipbench.meters.clocks import CpuSampler
from lipbench.prediction.rates import Table

TOLERANCE = 0.1
"""relative difference up to which two times are the same"""
SAMPLES, SLOW_SAMPLES, SLOW_S = 9, 3, 0.03
"""samples of a call in one sweep; fewer of a call that takes longer than this"""
SETS = 8
"""operands and results of a call, which take turns: as in a layer, they are not those of the last operation. Small ones stay in
the caches near the cores, and large ones do not."""

Progress = Callable[[int, int], object]
"""(calls measured, all calls)"""


@dataclass(frozen=True)
class Point:
    """A form at one of its sizes, and its times in seconds, one for each sweep."""

    measured: Measured
    sizes: tuple[int, ...]
    seconds: tuple[float, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether no two of its times are the same."""
        ordered = sorted(self.seconds)
        return min(later / earlier for earlier, later in itertools.pairwise(ordered)) > 1 + TOLERANCE

    @property
    def median_s(self) -> float:
        """Of two times the geometric mean."""
        return math.exp(statistics.median(map(math.log, self.seconds)))


def in_turn(calls: Sequence[Call]) -> Call:
    """A call that makes the next of several in a ring, and keeps the result until all others have been made."""
    ring, results = itertools.cycle(calls), deque[object](maxlen=len(calls))
    return lambda: results.append(next(ring)())


def median_s(call: Call, warm_up: int = 1) -> float:
    """Median seconds of a call, from a few samples of a millisecond or more each, after `warm_up` calls."""
    sampler = CpuSampler({"call": call}, lambda: None)
    for _ in range(warm_up):
        sampler.first_call()
    sampler.take()
    is_slow = sampler.sample_s > SLOW_S
    if not is_slow:
        sampler.take()
        sampler.calibrate(loop=True)
    sampler.clear()
    for _ in range(SLOW_SAMPLES if is_slow else SAMPLES):
        sampler.take()
    return statistics.median(sampler.samples["call"])


def points(measured: Sequence[Measured]) -> list[Point]:
    """All points whose work is not too large to be measured."""
    return [Point(one, sizes) for one in measured for sizes in itertools.product(*one.axes) if one.work(*sizes) <= MOST_WORK]


def swept(measured: Sequence[Measured], tell: Progress = lambda *_: None) -> list[Point]:
    """Every point with the times of two sweeps, one after the other, and a third time where those differ."""
    found = points(measured)
    for sweep in range(3):
        for place, point in enumerate(found):
            if sweep < 2 or point.differs:
                calls = [point.measured.make(*point.sizes, point.measured.dtype) for _ in range(SETS)]
                found[place] = Point(point.measured, point.sizes, (*point.seconds, median_s(in_turn(calls), SETS + 1)))
            tell(sweep * len(found) + place + 1, 3 * len(found))
    return found


def tables(found: Sequence[Point]) -> Iterator[Table]:
    """The times of every form over its whole grid."""
    for measured, own in itertools.groupby(found, key=lambda point: point.measured):
        times = {point.sizes: point.median_s for point in own}
        grid = tuple(_time(measured, times, sizes) for sizes in itertools.product(*measured.axes))
        dtype = str(measured.dtype).removeprefix("torch.")
        yield Table(measured.form, dtype, tuple(tuple(map(float, axis)) for axis in measured.axes), grid)


def _time(measured: Measured, times: dict[tuple[int, ...], float], sizes: tuple[int, ...]) -> float:
    """The time at a point of the grid: measured, or that of the largest smaller point, in proportion to the work."""
    if sizes in times:
        return times[sizes]
    smaller = [known for known in times if all(one <= other for one, other in zip(known, sizes))]
    nearest = max(smaller, key=lambda known: measured.work(*known))
    return times[nearest] * measured.work(*sizes) / measured.work(*nearest)
